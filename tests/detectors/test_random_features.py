"""RandomFeatures: a kernel density against the exact one, and its sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from blindsight.data import records
from blindsight.detectors import RandomFeatures, Total, local_total
from blindsight.errors import ParameterError, SchemaError
from sample_tables import MIXED_SCHEMA, NUMBER_SCHEMA, make_table

pytestmark = pytest.mark.filterwarnings("ignore::blindsight.errors.BlindsightWarning")  # values out of range

TABLE = make_table(600, 0)


def exact_density(model: RandomFeatures, table: object) -> np.ndarray:
    """Mean Gaussian kernel between each record and those of TABLE, without random features."""
    encoder = model.encoder_
    train, test = (
        encoder._steps(next(iter(records(NUMBER_SCHEMA, rows, for_scoring=True))).X) / 1024 for rows in (TABLE, table)
    )
    distances = ((test[:, None] - train[None]) ** 2).sum(axis=2)
    return np.exp(-distances / (2 * encoder.bandwidth**2)).mean(axis=1)


@pytest.mark.parametrize("scales", ["declared", "learned"])
def test_the_score_is_minus_the_kernel_density(scales: str) -> None:
    fresh = make_table(300, 1)
    errors = []
    for features in (256, 4096):
        model = RandomFeatures(features=features, scales=scales, schema=NUMBER_SCHEMA).fit(TABLE)
        errors.append(float(np.abs(model.decision_function(fresh) + exact_density(model, fresh)).max()))
    assert errors[1] < 5 / math.sqrt(2048)
    assert errors[1] < errors[0]
    assert spearmanr(model.decision_function(fresh), -exact_density(model, fresh))[0] > 0.98


def test_bandwidth_one_is_gamma_one_over_d() -> None:
    """The kernel exp(-|u - u'|**2 / d) on features of deviation one."""
    model = RandomFeatures(schema=NUMBER_SCHEMA).fit(TABLE)
    assert 1 / (2 * model.encoder_.bandwidth**2) == pytest.approx(1 / 3)


def test_records_far_away_are_like_no_other() -> None:
    model = RandomFeatures(features=4096, schema=NUMBER_SCHEMA).fit(TABLE)
    far = {"age": [1e9], "amount": [1e300], "balance": [-1e300]}
    usual = model.decision_function(TABLE)
    assert abs(model.decision_function(far)[0]) < 0.08
    assert model.decision_function(far)[0] > np.median(usual)


def test_noise_is_told_by_the_noise_floor() -> None:
    """At as many records as the floor asks for, noise moves a score by about a hundredth of the kernel's range."""
    model = RandomFeatures(features=512)
    variance = 4.0e6
    rows = model.noise_floor(variance)
    assert 50 < rows < 5000
    rng = np.random.default_rng(0)
    table = make_table(rows, 2)

    def noisy(query: object) -> Total:
        total = local_total(query, NUMBER_SCHEMA, table)
        if query.name == "threshold":
            return total
        noise = np.rint(rng.normal(0, math.sqrt(variance), total.values.size)).astype(np.int64)
        return Total(values=total.values + noise, noise_variance=variance)

    exact = RandomFeatures(features=512).run(NUMBER_SCHEMA, lambda q: local_total(q, NUMBER_SCHEMA, table))
    moved = model.run(NUMBER_SCHEMA, noisy).decision_function(table) - exact.decision_function(table)
    assert 0.003 < moved.std() < 0.03


def test_a_forgotten_stranger_is_noticed() -> None:
    from blindsight.errors import DataError

    model = RandomFeatures(features=64, schema=NUMBER_SCHEMA).fit(TABLE[:10])
    with pytest.raises(DataError):
        model.forget(make_table(50, 9))


@pytest.mark.parametrize(
    "bad",
    [
        {"features": 3},
        {"features": 0},
        {"features": 2.0},
        {"bandwidth": 0},
        {"bandwidth": "1"},
        {"scales": "robust"},
        {"seed": -1},
        {"seed": True},
    ],
)
def test_parameters(bad: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        RandomFeatures(schema=NUMBER_SCHEMA, **bad).fit(TABLE)


def test_categories_are_refused_by_name() -> None:
    with pytest.raises(SchemaError, match="country"):
        RandomFeatures(schema=MIXED_SCHEMA).fit(TABLE)
