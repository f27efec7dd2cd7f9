"""Edges and scales learned by one more private histogram: both releases charged, the model marked, sums unchanged."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from blindsight import modelfile
from blindsight.data import Column, Schema
from blindsight.detectors import (
    COPOD,
    ECOD,
    HBOS,
    LODA,
    OCSVM,
    Detector,
    IForest,
    Preparation,
    RandomFeatures,
    Total,
    local_total,
)
from blindsight.detectors._preparation import FLOOR, PREPARATION_BINS, SHARE, Scaling, preparation_query
from blindsight.errors import BlindsightWarning, FormatError, ParameterError
from blindsight.federation import Federation, Policy
from blindsight.privacy import DifferentialPrivacy
from sample_tables import MIXED_SCHEMA, NUMBER_SCHEMA, make_table

MAKERS = [
    lambda: ECOD(edges="learned"),
    lambda: COPOD(edges="learned", bins=20),
    lambda: HBOS(edges="learned"),
    lambda: RandomFeatures(scales="learned", features=64),
    lambda: OCSVM(scales="learned", features=64, rounds=3),
]
NAMES = ["ECOD", "COPOD", "HBOS", "RandomFeatures", "OCSVM"]


def parties(rows: int = 400) -> dict[str, pl.DataFrame]:
    return {name: make_table(rows, seed) for seed, name in enumerate(("a", "b", "c"))}


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_federated_equals_local(make: object) -> None:
    data = parties(150)
    policy = Policy(allow_exact_sums=True, detectors=tuple(NAMES))
    model = Federation.embedded(data, schema=NUMBER_SCHEMA, policy=policy).fit(make(), privacy=None)
    alone = make().set_params(schema=NUMBER_SCHEMA).fit(pl.concat(data.values()))
    assert np.array_equal(model.preparation_.counts, alone.preparation_.counts)
    assert model.encoder_ == alone.encoder_
    assert model.circuit_ == alone.circuit_
    assert model.threshold_ == alone.threshold_


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_both_sums_are_charged_within_the_share(make: object) -> None:
    """rho is additive: the fit's events together must cost no more than the fit of one sum would."""
    privacy = DifferentialPrivacy(epsilon=4.0, delta=1e-6, unit="record")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlindsightWarning)
        policy = Policy(detectors=tuple(NAMES))
        learned = Federation.embedded(parties(), schema=NUMBER_SCHEMA, policy=policy).fit(make(), privacy=privacy)
        plain = Federation.embedded(parties(), schema=NUMBER_SCHEMA).fit(ECOD(), privacy=privacy)

    def rho(model: Detector) -> dict[str, float]:
        assert model.certificate_ is not None
        return {e["query"]: e["rho"] for e in model.certificate_["events"] if e["purpose"] == "fit"}

    costs, whole = rho(learned), sum(rho(plain).values())
    assert "prepare" in costs
    assert len(costs) >= 2
    assert costs["prepare"] == pytest.approx(SHARE * whole, rel=1e-3)
    assert 0.99 * whole < sum(costs.values()) <= whole * (1 + 1e-9)


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_the_model_is_not_secret(make: object) -> None:
    table = make_table(200, 0)
    model = make().set_params(schema=NUMBER_SCHEMA).fit(table)
    assert not model.is_secret_
    assert modelfile.loads(modelfile.dumps(model)).is_secret_ is False
    declared = {"edges": "declared"} if hasattr(model, "edges") else {"scales": "declared"}
    assert make().set_params(schema=NUMBER_SCHEMA, **declared).fit(table).is_secret_


def test_the_scorer_says_so() -> None:
    pytest.importorskip("tenseal")
    from blindsight.blind import Scorer

    model = ECOD(edges="learned", bins=16, schema=NUMBER_SCHEMA).fit(make_table(200, 0))
    with pytest.warns(BlindsightWarning, match="not secret"):
        Scorer(model)


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_dump_and_load_in_the_middle(make: object) -> None:
    """A party that is sent the state after the histogram is asked for the very sum that the coordinator asks."""
    table = make_table(200, 0)
    model = make()
    model.begin(NUMBER_SCHEMA)
    while (query := model.next_query()) is not None:
        if not model.is_blank:
            other = modelfile.loads(modelfile.dumps(model)).next_query()
            assert (other.name, other.length, other.sensitivity_l2, other.fraction) == (
                query.name,
                query.length,
                query.sensitivity_l2,
                query.fraction,
            )
            one, two = (local_total(q, NUMBER_SCHEMA, table).values for q in (query, other))
            assert np.array_equal(one, two)
        model.advance(query, local_total(query, NUMBER_SCHEMA, table))
    assert np.array_equal(
        modelfile.loads(modelfile.dumps(model)).decision_function(table), model.decision_function(table)
    )


def test_models_on_other_edges_do_not_merge() -> None:
    one, two = (ECOD(edges="learned", schema=NUMBER_SCHEMA).fit(make_table(100, seed)) for seed in (0, 1))
    with pytest.raises(ParameterError, match="cannot be merged"):
        one.merge(two)


def test_a_state_whose_edges_are_not_the_histograms_is_refused() -> None:
    model = ECOD(edges="learned", schema=NUMBER_SCHEMA).fit(make_table(100, 0))
    model.preparation_ = ECOD(edges="learned", schema=NUMBER_SCHEMA).fit(make_table(100, 1)).preparation_
    with pytest.raises(FormatError):
        modelfile.loads(modelfile.dumps(model))
    plain = ECOD(schema=NUMBER_SCHEMA).fit(make_table(100, 0))
    plain.preparation_ = model.preparation_
    with pytest.raises(FormatError):
        modelfile.loads(modelfile.dumps(plain))


def prepared(schema: Schema, table: object, deviation: float = 0.0) -> Preparation:
    total = local_total(preparation_query(schema), schema, table)
    noise = np.rint(np.random.default_rng(0).normal(0, deviation, total.values.size)).astype(np.int64)
    return Preparation.from_total(schema, Total(values=total.values + noise, noise_variance=deviation**2))


def test_quantile_edges_are_quantiles() -> None:
    schema = Schema((Column(name="x", low=-10, high=10),))
    values = np.random.default_rng(0).normal(0, 1, 20_000)
    (inner,) = prepared(schema, {"x": values}).quantile_edges(schema, 64)
    assert len(inner) == 63
    assert np.all(np.diff(inner) > 0)
    bin_width = 20 / (PREPARATION_BINS - 2)
    found = np.quantile(values, 1 / (1 + np.exp(-np.linspace(-math.log(1999), math.log(1999), 61))))
    assert np.abs(np.asarray(inner[1:-1]) - found).max() < bin_width
    # the outermost two are for values never seen
    assert inner[0] <= values.min() < inner[0] + bin_width
    assert inner[-1] - bin_width < values.max() <= inner[-1]


def test_noise_moves_edges_little() -> None:
    schema = Schema((Column(name="x", low=-10, high=10),))
    table = {"x": np.random.default_rng(0).normal(0, 1, 20_000)}
    exact, noisy = (prepared(schema, table, deviation) for deviation in (0.0, 10.0))
    middle, tails = np.linspace(0.05, 0.95, 50), np.array([0.01, 0.99])
    assert np.abs(exact.quantiles(0, middle) - noisy.quantiles(0, middle)).max() < 0.02
    assert 0 < np.abs(exact.quantiles(0, tails) - noisy.quantiles(0, tails)).max() < 0.1


def test_constant_and_huge_columns_are_safe() -> None:
    columns = (Column(name="same", low=0, high=1), Column(name="out", low=0, high=1), Column(name="x", low=0, high=1))
    schema = Schema(columns)
    table = {"same": np.full(50, 0.25), "out": np.full(50, 1e300), "x": np.linspace(0, 1, 50)}
    preparation = prepared(schema, table)
    for edges in (preparation.quantile_edges(schema, 64), preparation.even_edges(schema, 16)):
        assert all(len(inner) >= 1 and np.isfinite(inner).all() and (np.diff(inner) > 0).all() for inner in edges)
    for robust in (False, True):
        scaling = preparation.centre_scale(schema, robust=robust)
        assert scaling.scales[0] == scaling.scales[1] == FLOOR
        assert scaling.scales[2] > 0.2
        X = np.column_stack([table["same"], table["out"], table["x"]])
        assert np.abs(scaling.standardise(X)[:, 0]).max() <= 1.0


def test_scaling_is_that_of_the_values() -> None:
    table = make_table(5000, 0)
    preparation = prepared(NUMBER_SCHEMA, table)
    X = table.select(NUMBER_SCHEMA.feature_names).to_numpy()
    z = preparation.centre_scale(NUMBER_SCHEMA).standardise(X)
    assert np.abs(z.mean(axis=0)).max() < 0.02
    assert np.abs(z.std(axis=0) - 1).max() < 0.02
    robust = preparation.centre_scale(NUMBER_SCHEMA, robust=True).standardise(X)
    assert np.abs(np.median(robust, axis=0)).max() < 0.05
    iqr = np.subtract(*np.quantile(robust, [0.75, 0.25], axis=0))
    assert np.abs(iqr - 1.349).max() < 0.05


def test_declared_scaling_asks_nothing_of_the_data() -> None:
    scaling = Scaling.declared(NUMBER_SCHEMA, deviation=0.25)
    ends = np.array([[0.0, 0.0, -500.0], [120.0, 10_000.0, 500.0]])
    assert np.allclose(scaling.standardise(ends), [[-2, -2, -2], [2, 2, 2]])


@pytest.mark.parametrize("schema", [NUMBER_SCHEMA, MIXED_SCHEMA])
def test_the_histogram_keeps_its_sensitivity(schema: Schema) -> None:
    query = preparation_query(schema)
    table = make_table(50, 0)
    rows = [local_total(query, schema, table[i : i + 1]).values for i in range(50)]
    assert max(np.sqrt((row**2).sum()) for row in rows) <= query.sensitivity_l2
    assert query.fraction == SHARE


@pytest.mark.parametrize("make", [lambda: IForest(scales="learned", trees=2), lambda: LODA(scales="learned")])
@pytest.mark.parametrize("counts", [0, -1])
def test_a_histogram_of_nobody_in_a_file_is_no_crash(make: Callable[[], Detector], counts: int) -> None:
    model = make()
    model.begin(NUMBER_SCHEMA)
    query = model.next_query()
    assert query is not None
    model.advance(query, Total(values=np.full(query.length, counts, dtype=np.int64)))
    following = modelfile.loads(modelfile.dumps(model)).next_query()
    assert following is not None
    assert following.name == "fit"
