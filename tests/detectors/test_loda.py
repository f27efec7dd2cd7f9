"""LODA against frequencies counted one projection at a time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from blindsight.circuits import ProjectedBins
from blindsight.data import Column, Schema
from blindsight.detectors import LODA
from blindsight.errors import ParameterError
from sample_tables import MIXED_SCHEMA, make_table

BOX = Schema(tuple(Column(name=f"x{i}", low=-5, high=5) for i in range(9)))


def cloud(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Nine features around three factors, one in twenty records scattered."""
    generator = np.random.default_rng(seed)
    odd = generator.random(rows) < 0.05
    X = generator.normal(size=(rows, 3)).repeat(3, axis=1) * 0.8 + generator.normal(size=(rows, 9)) * 0.2
    X[odd] = generator.uniform(-3, 3, size=(odd.sum(), 9))
    return X, odd.astype(int)


def test_scores_are_the_mean_of_minus_log_frequencies() -> None:
    X, _ = cloud(200, 0)
    fresh, _ = cloud(50, 1)
    model = LODA(projections=15, bins=16, schema=BOX).fit(X)
    encoder = model.encoder_
    assert isinstance(encoder, ProjectedBins)
    expected = np.zeros(len(fresh))
    for weights in encoder.weights:
        ends = np.array([weights[weights < 0].sum(), weights[weights > 0].sum()])
        edges = np.linspace(*ends, 15)
        seen, new = (np.digitize(((A + 5) / 10) @ weights, edges) for A in (X, fresh))
        frequency = np.bincount(seen, minlength=16) / len(X)
        expected -= np.log(np.maximum(frequency, 0.5 / len(X)))[new] / 15
    # positions are rounded, so that one value in thousands may fall on the other side of an edge
    close = np.abs(model.decision_function(fresh) - expected) < 1e-3
    assert close.mean() > 0.95


def test_it_finds_what_breaks_correlations() -> None:
    X, y = cloud(4000, 2)
    assert roc_auc_score(y, LODA(schema=BOX).fit(X).decision_function(X)) > 0.9


def test_categories_stand_inside_the_range_and_the_undeclared_at_its_end() -> None:
    table = make_table(500, 3)
    model = LODA(schema=MIXED_SCHEMA).fit(table)
    encoder = model.encoder_
    assert isinstance(encoder, ProjectedBins)
    codes = np.arange(5.0)
    positions = encoder.positions(np.column_stack([codes * 0, codes * 0, codes * 0, codes]))[3] / 16384
    assert np.allclose(positions, (codes + 0.5) / 5, atol=1e-4)


def test_learned_scales_help_where_the_declared_ranges_are_too_wide() -> None:
    X, y = cloud(4000, 4)
    wide = Schema(tuple(Column(name=f"x{i}", low=-300, high=300) for i in range(9)))
    declared = LODA(schema=wide, bins=16).fit(X)
    learned = LODA(schema=wide, bins=16, scales="learned").fit(X)
    auroc = [roc_auc_score(y, model.decision_function(X)) for model in (declared, learned)]
    assert auroc[1] > auroc[0] + 0.1
    assert declared.is_secret_
    assert not learned.is_secret_


def test_a_constant_column_under_learned_scales_stays_finite() -> None:
    X, _ = cloud(100, 5)
    X[:, 4] = 5.0
    scores = LODA(schema=BOX, scales="learned").fit(X).decision_function(X)
    assert np.isfinite(scores).all()


def test_the_noise_floor_grows_with_noise_and_bins() -> None:
    assert LODA(bins=64).noise_floor(100.0) == 160


@pytest.mark.parametrize(
    "parameters", [{"projections": 0}, {"projections": 1.5}, {"bins": 3}, {"bins": 1025}, {"seed": -1}, {"scales": "x"}]
)
def test_bad_parameters_are_refused_by_name(parameters: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match=next(iter(parameters))):
        LODA(**parameters, schema=BOX).fit(cloud(20, 6)[0])  # type: ignore[arg-type]
