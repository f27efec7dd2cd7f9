"""Blind equals clear, bit for bit, in both packings and for both encoders."""

import numpy as np
import pytest

from blindsight.blind import RecordOwner, Scorer
from blindsight.circuits import InnerProduct, OneHotBins
from blindsight.errors import ParameterError

from ._models import StandInModel, quadratic_model, records, table_model


def check(model, packing, sizes, *, upload=None):
    scorer = Scorer(model, packing=packing, upload=upload)
    owner = RecordOwner(scorer.offer())
    for n in sizes:
        X = records(model, n, seed=n)
        sealed = owner.seal(X)
        scores = owner.open(scorer.score(sealed), sealed=sealed)
        assert scores.dtype == np.float64
        assert np.array_equal(scores, model.decision_function(X))
    return scorer


@pytest.mark.parametrize("sizes", [[1, 2, 3, 4, 7]])
def test_rows_of_tables(sizes):
    scorer = check(table_model(21, 64, bias=-12345), "rows", sizes)
    assert scorer.parameters.rows_per_ciphertext == 3


def test_rows_of_quadratics():
    scorer = check(quadratic_model(29, bias=777), "rows", [1, 8, 9, 20])
    assert scorer.parameters.rows_per_ciphertext == 8


def test_rows_of_an_encoding_longer_than_a_ciphertext():
    scorer = check(table_model(70, 64), "rows", [1, 3])
    assert scorer.parameters.ciphertexts_per_group == 2


@pytest.mark.parametrize("upload", ["seeded", "unseeded"])
def test_columns_of_tables(upload):
    check(table_model(5, 16, bias=3), "columns", [1, 100], upload=upload)


@pytest.mark.parametrize("upload", ["seeded", "unseeded"])
def test_columns_of_quadratics(upload):
    check(quadratic_model(4, bias=-3), "columns", [1, 4096, 4097], upload=upload)


def test_columns_of_a_full_ecod_table():
    check(table_model(21, 64), "columns", [50])


@pytest.mark.parametrize("packing", ["rows", "columns"])
def test_extreme_scores_and_signs(packing):
    """Every record reaches the largest or the smallest score that the circuit can give."""
    encoder = OneHotBins(edges=((0.0,),) * 8)
    weights = np.tile([-(2**26), 2**26], 8)
    model = StandInModel(encoder, InnerProduct(weights=weights, bias=-(2**20)), 1.0)
    X = np.array([[-1.0] * 8, [1.0] * 8, [-1.0, 1.0] * 4])
    scorer = Scorer(model, packing=packing)
    owner = RecordOwner(scorer.offer())
    scores = owner.open(scorer.score(owner.seal(X)))
    assert scores.tolist() == [-(2.0**29) - 2**20, 2.0**29 - 2**20, -(2.0**20)]


@pytest.mark.parametrize("packing", ["rows", "columns"])
def test_wide_scores_use_a_larger_degree(packing):
    model = quadratic_model(3, high=1 << 38, levels=15)
    scorer = check(model, packing, [5])
    assert scorer.parameters.degree == 8192


@pytest.mark.parametrize("packing", ["rows", "columns"])
@pytest.mark.parametrize("weight", [0, -1])
def test_degenerate_weights(packing, weight):
    encoder = table_model(3, 4).encoder_
    weights = np.zeros(encoder.length, dtype=np.int64)
    weights[0] = weight
    check(StandInModel(encoder, InnerProduct(weights=weights, bias=5)), packing, [3])


def test_the_heaviest_weights_that_columns_split_into_digits():
    rng = np.random.default_rng(5)
    encoder = table_model(4, 40).encoder_
    weights = rng.integers(-(2**34), 2**34, encoder.length)
    check(StandInModel(encoder, InnerProduct(weights=weights)), "columns", [64])


@pytest.mark.parametrize("packing", ["rows", "columns"])
def test_prepared_masks(packing):
    model = quadratic_model(3)
    scorer = Scorer(model, packing=packing)
    owner = RecordOwner(scorer.offer())
    X = records(model, 3)
    with pytest.raises(ParameterError, match="not known"):
        scorer.prepare(owner.key_id, 1)
    scorer.score(owner.seal(X))
    scorer.prepare(owner.key_id, 1)
    assert np.array_equal(owner.open(scorer.score(owner.seal(X))), model.decision_function(X))


def test_answers_do_not_depend_on_what_shares_the_ciphertext():
    model = table_model(21, 64)
    scorer = Scorer(model)
    owner = RecordOwner(scorer.offer())
    X = records(model, 3)
    alone = [owner.open(scorer.score(owner.seal(X[i : i + 1])))[0] for i in range(3)]
    assert alone == owner.open(scorer.score(owner.seal(X))).tolist()


def test_tables_go_by_column_name():
    import blindsight as bs

    banks, schema = bs.simulate_card_payments(n=3_000)
    model = bs.ECOD(schema=schema).fit(banks["bank-a"])
    rows = banks["bank-b"][:20]
    owner = RecordOwner((scorer := Scorer(model)).offer())
    shuffled = rows.select(sorted(rows.columns))
    assert np.array_equal(owner.open(scorer.score(owner.seal(shuffled))), model.decision_function(rows))
    with pytest.raises(bs.errors.DataError, match="amount"):
        owner.seal(rows.drop("amount"))


def test_columns_on_several_threads():
    model = quadratic_model(4)
    scorer = Scorer(model, packing="columns", threads=3)
    owner = RecordOwner(scorer.offer())
    X = records(model, 100)
    assert np.array_equal(owner.open(scorer.score(owner.seal(X))), model.decision_function(X))
