"""Deep SVDD: conformance, the centre's sum, the published properties of its network."""

from __future__ import annotations

import numpy as np
import pytest

from blindsight.data import Column, Records, Schema
from blindsight.detectors import DeepSVDD, Detector, SumQuery, Training
from blindsight.errors import ParameterError
from blindsight.testing import detector_checks
from sample_tables import NUMBER_SCHEMA, make_table

from ._rounds import SMALL, totals_of

torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
torch.set_num_threads(1)


def make() -> Detector:
    return DeepSVDD(hidden=(8, 4), training=Training(**SMALL))


@pytest.mark.parametrize("check", detector_checks(make))
def test_conformance(check: str, mixed_schema: Schema) -> None:
    detector_checks(make)[check](make, mixed_schema)


@pytest.mark.parametrize("centre", ["learned", "public"])
@pytest.mark.parametrize("activation", ["leaky", "relu", "square"])
def test_it_finds_what_lies_outside(centre: str, activation: str) -> None:
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(1)
    X = generator.normal(size=(500, 4)) @ generator.normal(size=(4, 6))
    odd = generator.normal(size=(100, 6)) * X.std(axis=0) * 2
    schema = Schema(tuple(Column(name=f"x{i}", low=-25, high=25) for i in range(6)))
    model = DeepSVDD(centre=centre, activation=activation, schema=schema).fit(X[:400])
    scores = model.decision_function(np.concatenate([X[400:], odd]))
    assert roc_auc_score(np.repeat([0, 1], 100), scores) > 0.8


def test_the_network_has_no_bias() -> None:
    model = DeepSVDD(hidden=(8, 4))
    model.begin(NUMBER_SCHEMA)
    assert [array.ndim for array in model.parameters_.values()] == [2, 2]


def test_the_centre_is_the_mean_of_the_initial_network_kept_from_zero() -> None:
    data = {"a": make_table(50, 1), "b": make_table(70, 2)}
    seen: list[object] = []
    model = DeepSVDD(hidden=(8, 4), training=Training(**SMALL))
    model.run(NUMBER_SCHEMA, totals_of(data, NUMBER_SCHEMA, seen=seen))
    assert [query.name for query in seen][:3] == ["prepare", "centre", "round/0"]
    fresh = DeepSVDD(hidden=(8, 4), training=Training(**SMALL))
    fresh.begin(NUMBER_SCHEMA)
    fresh.preparation_ = model.preparation_
    X = np.concatenate([table.select("age", "amount", "balance").to_numpy() for table in data.values()])
    mean = np.clip(fresh._mapped(fresh._inputs(X)), -4, 4).mean(axis=0)
    expected = np.where(np.abs(mean) < 0.1, np.where(mean < 0, -0.1, 0.1), mean)
    assert np.allclose(model.centre_, expected, atol=0.01)


def test_the_centre_sum_states_what_a_record_adds() -> None:
    model = DeepSVDD(hidden=(8, 4), scales="declared", training=Training(**SMALL))
    model.begin(NUMBER_SCHEMA)
    model.mean_rows_ = 10.0
    query = model.next_query()
    assert isinstance(query, SumQuery)
    assert query.name == "centre"
    for row in np.random.default_rng(3).normal(size=(100, 3)) * 10.0 ** np.arange(0, 100)[:, None]:
        accumulator = np.zeros(query.length, dtype=np.int64)
        query.add(accumulator, Records(X=row[None]))
        assert np.linalg.norm(accumulator) <= query.sensitivity_l2
        assert np.abs(accumulator).max() <= query.max_abs


def test_the_fractions_fit_into_one_share() -> None:
    for centre in ("learned", "public"):
        seen: list[object] = []
        model = DeepSVDD(hidden=(4,), centre=centre, training=Training(**SMALL))
        model.run(NUMBER_SCHEMA, totals_of({"a": make_table(30, 1)}, NUMBER_SCHEMA, seen=seen))
        sums = sum(q.fraction for q in seen if isinstance(q, SumQuery) and q.name != "threshold")
        rounds = next(q.fraction for q in seen if q.name == "round/0")
        assert 0.95 < sums + rounds <= 1.0


def test_a_public_centre_follows_from_the_seed_alone() -> None:
    a, b, c = (DeepSVDD(centre="public", seed=seed) for seed in (0, 0, 1))
    for model in (a, b, c):
        model.begin(NUMBER_SCHEMA)
    assert np.array_equal(a.centre_, b.centre_)
    assert not np.array_equal(a.centre_, c.centre_)
    assert np.abs(a.centre_).min() >= np.float32(0.1)


def test_a_bounded_activation_is_refused() -> None:
    with pytest.raises(ParameterError, match="proposition 3"):
        DeepSVDD(activation="tanh").fit(make_table(20, 0).select("age", "amount"))
    with pytest.raises(ParameterError, match="centre"):
        DeepSVDD(centre="middle").fit(make_table(20, 0).select("age", "amount"))


def test_a_centre_that_does_not_fit_is_refused() -> None:
    from blindsight.detectors import State

    model = DeepSVDD(hidden=(4,), training=Training(**SMALL), schema=NUMBER_SCHEMA).fit(make_table(30, 1))
    state = model.dump()
    for bad in (None, np.zeros(5, dtype=np.float32), np.full(4, np.nan, dtype=np.float32), np.zeros(4)):
        arrays = {**state.arrays, "centre": bad}
        if bad is None:
            del arrays["centre"]
        with pytest.raises(ValueError, match="centre"):
            DeepSVDD(hidden=(4,), training=Training(**SMALL)).load_state(
                NUMBER_SCHEMA, State(values=state.values, arrays=arrays)
            )
