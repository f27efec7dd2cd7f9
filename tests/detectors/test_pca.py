"""PCA against a naive one on the same levels, and on data of too small a rank."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from blindsight.data import Column, Schema, records
from blindsight.detectors import PCA, Mahalanobis
from blindsight.errors import ParameterError
from sample_tables import NUMBER_SCHEMA, make_table

TABLE = make_table(500, 0)


def naive(model: PCA, table: object, whitening: float) -> np.ndarray:
    """Standardise, decompose, weigh: by scikit-learn's own decomposition."""
    from sklearn.decomposition import PCA as Decomposition

    train, test = (
        model.encoder_.quantise(next(iter(records(NUMBER_SCHEMA, rows, for_scoring=True))).X).astype(float)
        for rows in (TABLE, table)
    )
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    parts = Decomposition().fit((train - mean) / deviation)
    along = (test - mean) / deviation @ parts.components_.T
    variances = parts.explained_variance_ * (len(train) - 1) / len(train)
    return (along**2 / variances**whitening).sum(axis=1)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_the_score_is_the_naive_one(whitening: float) -> None:
    fresh = make_table(200, 1)
    model = PCA(whitening=whitening, schema=NUMBER_SCHEMA).fit(TABLE)
    expected = naive(model, fresh, whitening)
    assert np.allclose(model.decision_function(fresh), expected, rtol=1e-3, atol=1e-2)


def test_whitened_it_is_the_mahalanobis_distance() -> None:
    pca, distance = (
        make.fit(TABLE) for make in (PCA(whitening=1.0, schema=NUMBER_SCHEMA), Mahalanobis(schema=NUMBER_SCHEMA))
    )
    assert np.allclose(pca.decision_function(TABLE), distance.decision_function(TABLE), rtol=1e-3, atol=1e-2)


def test_unweighted_it_ranks_as_pyod_does() -> None:
    pyod = pytest.importorskip("pyod.models.pca")
    schema = Schema(tuple(Column(name=c.name, low=c.low, high=c.high) for c in NUMBER_SCHEMA.features))
    table = TABLE.select(schema.feature_names)
    model = PCA(whitening=0.0, schema=schema).fit(table)
    X = model.encoder_.quantise(table.to_numpy()).astype(float)
    peer = pyod.PCA(weighted=False).fit(X)
    assert spearmanr(model.decision_function(table), peer.decision_function(X))[0] > 0.9


def test_rank_deficient_data() -> None:
    """A repeated, a constant and a dependent column: scores stay finite and of ordinary size, and ranks make sense."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (2, 400))
    rows = {"a": a, "b": b, "again": a, "same": np.zeros(400), "sum": (a + b) / 2}
    schema = Schema(tuple(Column(name=name, low=-5, high=5) for name in rows))
    for whitening in (0.0, 0.5, 1.0):
        model = PCA(whitening=whitening, schema=schema).fit(rows)
        scores = model.decision_function(rows)
        assert np.isfinite(scores).all()
        assert scores.max() < 1000
        broken = {name: np.array([0.0, 4.0 if name == "again" else 0.0]) for name in rows}
        usual, strange = model.decision_function(broken)
        assert usual < np.median(scores)
        # a broken dependence shows only where small components count for more
        assert strange > np.quantile(scores, 0.95 if whitening == 0 else 0.999)


@pytest.mark.parametrize("bad", [{"whitening": -0.1}, {"whitening": 1.1}, {"whitening": "x"}, {"norm_clip": 0}])
def test_parameters(bad: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        PCA(schema=NUMBER_SCHEMA, **bad).fit(TABLE)
