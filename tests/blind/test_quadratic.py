"""Quadratic forms under CKKS: as many inputs as features, within the promised error of the exact integer score."""

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blindsight as bs
from blindsight.blind import BitBudget, CkksParameters, MemoryTable, RecordOwner, Scorer, survey
from blindsight.blind._offer import Offer
from blindsight.blind._quadratic import squared_distance
from blindsight.circuits import InnerProduct, Quantised, evaluate, inputs_from_json, inputs_to_json
from blindsight.errors import BudgetError, CapacityError, FormatError, ParameterError, WireError

from ._models import distance_model, quadratic_model, records, table_model

COLUMNS = {"packing": "columns", "scheme": "ckks"}


def check(model, X, tolerance=None):
    scorer = Scorer(model, tolerance=tolerance, **COLUMNS)
    owner = RecordOwner(scorer.offer())
    sealed = owner.seal(X)
    scores = owner.open(scorer.score(sealed), sealed=sealed)
    clear = model.decision_function(X)
    promised = np.array([scorer.parameters.error(score) for score in clear.tolist()])
    assert (np.abs(scores - clear) <= promised).all()
    return scorer, np.abs(scores - clear)


@pytest.mark.parametrize("bias", [0, 5 << 24, -(5 << 24)])
def test_scores_are_within_the_promised_error(bias):
    model = distance_model(6, bias=bias)
    X = records(model, 200)
    corners = np.sign(X[:32]) * 100
    scorer, _ = check(model, np.vstack([X, corners]), tolerance=0.01)
    assert isinstance(scorer.parameters, CkksParameters)
    assert scorer.parameters.entries == 6
    assert model.decision_function(corners).max() < 2.0**scorer.parameters.score_bits


@pytest.mark.parametrize("name", ["Mahalanobis", "PCA"])
def test_fitted_detectors(name):
    """Real records: thirty features, and so thirty ciphertexts in place of 496."""
    tables, schema = bs.data.load_hospitals()
    table = next(iter(tables.values()))
    model = getattr(bs, name)(schema=schema).fit(table)
    scorer, errors = check(model, table)
    below = model.decision_function(table) <= model.threshold_
    assert errors[below].max() <= 1e-3 * model.threshold_
    exact = Scorer(model, packing="columns")
    assert scorer.parameters.entries == len(schema.features)
    assert scorer.parameters.group_bytes < exact.parameters.group_bytes / 4


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(0, 10**6), st.integers(-(2**30), 2**30))
def test_the_completed_square_is_the_form(features, seed, bias):
    model = distance_model(features, seed=seed, bias=bias)
    inputs, network, offset = squared_distance(model.encoder_, model.circuit_, model.score_scale_, 1.0)
    X = records(model, 50, seed=seed)
    X[0] = 100
    clear = evaluate(model.encoder_, model.circuit_, X) * model.score_scale_
    assert np.abs(network.scores(inputs.encode(X)) + offset - clear).max() < 1e-6 * max(1.0, np.abs(clear).max())


def test_what_is_no_squared_distance_is_refused():
    with pytest.raises(CapacityError, match="no squared distance"):
        Scorer(quadratic_model(4), tolerance=0.01, **COLUMNS)
    slope = np.zeros(10, dtype=np.int64)
    slope[1:4] = 100  # a plane: linear in every feature, no square
    with pytest.raises(CapacityError, match="no squared distance"):
        Scorer(dataclasses.replace(distance_model(3), circuit_=InnerProduct(weights=slope)), tolerance=0.01, **COLUMNS)


def test_what_ckks_does_not_carry_is_refused_by_name():
    model = distance_model(3)
    for bad, options, error in (
        (table_model(2, 4), COLUMNS | {"tolerance": 0.1}, CapacityError),
        (model, {"packing": "rows", "scheme": "ckks", "tolerance": 0.1}, CapacityError),
        (model, COLUMNS | {"reveal": "verdict", "thresholds": [1.0]}, CapacityError),
        (model, {"packing": "columns", "tolerance": 0.1}, ParameterError),
        (model, COLUMNS | {"scheme": "bgv"}, ParameterError),
        (model, COLUMNS, ParameterError),  # neither a threshold nor a tolerance
        (model, COLUMNS | {"tolerance": 1e-18}, CapacityError),  # beyond what float64 weights say
    ):
        with pytest.raises(error):
            Scorer(bad, **options)


def test_bits_of_both_schemes_are_counted_together():
    """They tell about the same weights."""
    model, table = distance_model(3), MemoryTable()
    budget = BitBudget(bits_total=400)
    exact = Scorer(model, packing="columns", budget=budget, table=table)
    near = Scorer(model, budget=budget, table=table, tolerance=0.1, **COLUMNS)
    assert exact.fingerprint == near.fingerprint
    exact.score(RecordOwner(exact.offer()).seal(records(model, 4)))
    spent = exact.bits_released()
    assert near.bits_released() == spent
    owner = RecordOwner(near.offer())
    near.score(owner.seal(records(model, 1)))
    assert near.bits_released() > spent
    with pytest.raises(BudgetError):
        near.score(owner.seal(records(model, 64), register=False))


def test_offers():
    offer = Scorer(distance_model(2), tolerance=0.1, **COLUMNS).offer()
    read = Offer.decode(offer)
    assert isinstance(read.encoder, Quantised)
    assert Offer.decode(read.encode().encoded) == read
    for name, value in (
        ("levels", 0),
        ("levels", 1 << 20),
        ("levels", 127.5),
        ("lows", [0.0]),
        ("highs", [float("nan")] * 2),
        ("lows", [0.0] * 3),
        ("logs", [1, 0]),
        ("kind", "monomials"),
        ("more", 1),
    ):
        fields = msgspec.msgpack.decode(offer[4:])
        fields["inputs"][name] = value
        with pytest.raises(WireError):
            Offer.decode(b"BSOF" + msgspec.msgpack.encode(fields))


def test_inputs_survive_json():
    inputs = Quantised(monomials=distance_model(3).encoder_)
    assert inputs_from_json(inputs_to_json(inputs)) == inputs
    assert np.array_equal(inputs.encode(np.array([[3.0, -3.0, 0.0]])), [[1.0, -1.0, 0.0]])
    with pytest.raises(FormatError):
        inputs_from_json(inputs_to_json(inputs) | {"levels": "127"})


def test_the_planner_takes_ckks_where_a_form_is_too_wide_to_be_multiplied_out():
    wide = dataclasses.replace(distance_model(180), score_scale_=1e-6)
    object.__setattr__(wide, "threshold_", float(np.quantile(wide.decision_function(records(wide, 50)), 0.9)))
    columns = next(option for option in survey(wide, reveal=("score",)).options if option.engine == "columns")
    assert isinstance(columns.parameters, CkksParameters)
    assert columns.parameters.entries == 180
    assert 0 < columns.error <= 1e-3 * wide.threshold_
    assert not columns.refusal
    small = distance_model(6)
    exact = next(option for option in survey(small, reveal=("score",)).options if option.engine == "columns")
    assert exact.error == 0.0
