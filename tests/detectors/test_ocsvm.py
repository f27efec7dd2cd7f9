"""OCSVM: the dual's optimum against libsvm's, federated equal to centralised, and its sums' bounds."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from blindsight.data import Records, records
from blindsight.detectors import OCSVM, Total, local_total
from blindsight.errors import ParameterError
from blindsight.federation import Federation, Policy
from sample_tables import NUMBER_SCHEMA, make_table

TABLE = make_table(500, 0)


def matrix(table: object) -> np.ndarray:
    return next(iter(records(NUMBER_SCHEMA, table, for_scoring=True))).X


def objective(model: OCSVM, table: object) -> float:
    """Length of the normal vector, which the dual makes as small as it can, in units of the kernel."""
    weights = model.circuit_.weights * model.score_scale_
    return float(np.linalg.norm(weights)) * np.sqrt(model.encoder_.pairs) * model.encoder_.levels


@pytest.mark.parametrize("nu", [0.2, 0.5])
def test_it_ranks_as_libsvm_does(nu: float) -> None:
    """The same kernel matrix, solved by libsvm: the ranks agree, and more rounds come nearer to its optimum."""
    from sklearn.svm import OneClassSVM

    fresh = make_table(300, 1)
    lengths = []
    for rounds in (2, 40):
        model = OCSVM(nu=nu, rounds=rounds, features=512, schema=NUMBER_SCHEMA).fit(TABLE)
        lengths.append(objective(model, TABLE))
    unit = model.encoder_.pairs * model.encoder_.levels**2
    train, test = (model.encoder_.encode(matrix(rows)).astype(float) for rows in (TABLE, fresh))
    peer = OneClassSVM(kernel="precomputed", nu=nu).fit(train @ train.T / unit)
    assert spearmanr(model.decision_function(fresh), -peer.decision_function(test @ train.T / unit))[0] > 0.97
    alpha = np.zeros(len(train))
    alpha[peer.support_] = peer.dual_coef_[0] / (nu * len(train))
    best = float(np.linalg.norm(alpha @ train)) / np.sqrt(unit)
    assert best * 0.97 <= lengths[1] <= best * 1.05
    assert lengths[1] < lengths[0]


@pytest.mark.parametrize("nu", [0.3, 0.5])
def test_about_nu_of_the_records_are_below_the_plane(nu: float) -> None:
    below = []
    model = OCSVM(nu=nu, rounds=12, features=256)

    def total_of(query: object) -> Total:
        total = local_total(query, NUMBER_SCHEMA, TABLE)
        if query.name not in ("threshold", "round/1"):
            below.append(total.values[256] / 127 / len(TABLE))
        return total

    model.run(NUMBER_SCHEMA, total_of)
    assert np.abs(np.mean(below[4:]) - nu) < 0.08


@pytest.mark.parametrize("scales", ["declared", "learned"])
def test_federated_equals_centralised(scales: str) -> None:
    data = {name: TABLE[start : start + size] for name, start, size in (("a", 0, 10), ("b", 10, 290), ("c", 300, 200))}
    policy = Policy(allow_exact_sums=True, detectors=("OCSVM",))
    make = OCSVM(rounds=4, features=64, scales=scales)
    model = Federation.embedded(data, schema=NUMBER_SCHEMA, policy=policy).fit(make, privacy=None)
    alone = OCSVM(rounds=4, features=64, scales=scales, schema=NUMBER_SCHEMA).fit(pl.concat(data.values()))
    assert model.circuit_ == alone.circuit_
    assert model.encoder_ == alone.encoder_
    assert np.array_equal(model.score_histogram_.counts, alone.score_histogram_.counts)
    assert model.n_records_ == alone.n_records_ == 500


def test_every_round_keeps_its_bound() -> None:
    model = OCSVM(rounds=3, features=64)
    model.begin(NUMBER_SCHEMA)
    X = matrix(make_table(60, 3))
    fractions = 0.0
    while (query := model.next_query()) is not None and query.name != "threshold":
        for i in range(len(X)):
            added = np.zeros(query.length, dtype=np.int64)
            query.add(added, Records(X=X[i : i + 1]))
            assert np.sqrt(float((added.astype(object) ** 2).sum())) <= query.sensitivity_l2
            assert np.abs(added).max() <= query.max_abs
        fractions += query.fraction
        model.advance(query, local_total(query, NUMBER_SCHEMA, TABLE))
    assert fractions == pytest.approx(1.0)


def test_nobody_below_the_plane_is_survived() -> None:
    """Totals that are all noise, or all zero, leave a model that scores finitely."""
    for deviation in (0.0, 1e6):
        rng = np.random.default_rng(0)

        def junk(query: object, deviation: float = deviation, rng: np.random.Generator = rng) -> Total:
            values = np.rint(rng.normal(0, deviation, query.length)).astype(np.int64)
            return Total(values=values, noise_variance=deviation**2)

        model = OCSVM(rounds=4, features=32).run(NUMBER_SCHEMA, junk)
        assert np.isfinite(model.decision_function(TABLE)).all()


@pytest.mark.parametrize("bad", [{"nu": 0}, {"nu": 1.0}, {"nu": "x"}, {"rounds": 1}, {"rounds": 2.0}, {"features": 5}])
def test_parameters(bad: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        OCSVM(schema=NUMBER_SCHEMA, **bad).fit(TABLE)
