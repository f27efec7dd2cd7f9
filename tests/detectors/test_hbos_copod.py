"""HBOS and COPOD against naive oracles on the same bins, and what their papers say of them."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from blindsight.data import Column, Schema, records
from blindsight.detectors import COPOD, ECOD, HBOS, one_hot_bins
from blindsight.detectors.copod import skew_sign
from blindsight.errors import ParameterError
from sample_tables import MIXED_SCHEMA, make_table


def binned(bins: int, table: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Bin of each record and feature."""
    encoder = one_hot_bins(MIXED_SCHEMA, bins)
    (chunk,) = list(records(MIXED_SCHEMA, table, for_scoring=True))
    return encoder.slots(chunk.X) - encoder.offsets, chunk.X


def test_hbos_is_minus_log_frequency() -> None:
    table = make_table(400, 0)
    model = HBOS(bins=12, schema=MIXED_SCHEMA).fit(table)
    slots, _ = binned(12, table)
    expected = [
        sum(-math.log(sum(slots[:, f] == slots[i, f]) / len(slots)) for f in range(slots.shape[1]))
        for i in range(len(slots))
    ]
    assert np.abs(model.decision_function(table) - expected).max() <= slots.shape[1] * 2**-11


def test_copod_is_the_paper_on_bins() -> None:
    """Algorithm 1 with ties inside a bin: both tails count the bin itself, as PyOD's empirical CDF counts a tie."""
    table = make_table(400, 1)
    model = COPOD(bins=32, schema=MIXED_SCHEMA).fit(table)
    slots, _ = binned(32, table)
    edges = one_hot_bins(MIXED_SCHEMA, 32).edges
    n = len(slots)
    expected = np.zeros(n)
    for f in range(3):
        inner = np.asarray(edges[f])
        middles = np.concatenate([inner[:1], (inner[1:] + inner[:-1]) / 2, inner[-1:]])[slots[:, f]]
        skew = np.sign(((middles - middles.mean()) ** 3).mean())
        left = np.array([-math.log((slots[:, f] <= b).sum() / n) for b in slots[:, f]])
        right = np.array([-math.log((slots[:, f] >= b).sum() / n) for b in slots[:, f]])
        corrected = left * -np.sign(skew - 1) + right * np.sign(skew + 1)
        expected += np.maximum(corrected, (left + right) / 2)
    expected += [-math.log((slots[:, 3] == b).sum() / n) for b in slots[:, 3]]
    assert np.abs(model.decision_function(table) - expected).max() <= 4 * 2**-11


@pytest.mark.parametrize("seed", range(5))
def test_skew_is_that_of_the_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.gamma(2.0, size=2000) * (1 if seed % 2 else -1)
    edges = np.linspace(values.min(), values.max(), 63)
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=64).astype(float)
    assert skew_sign(counts, edges) == np.sign(((values - values.mean()) ** 3).mean())
    assert skew_sign(counts[::-1], edges) == -skew_sign(counts, edges)
    assert skew_sign(counts + counts[::-1], edges) == 0
    assert skew_sign(np.eye(64)[3], edges) == 0


def test_copod_looks_at_the_skewed_side() -> None:
    """A feature with a long right tail: COPOD finds the right end strange, and the crowded left end not."""
    schema = Schema((Column(name="x", low=0, high=100),))
    rows = {"x": np.random.default_rng(0).exponential(10, 5000)}
    ends = {"x": np.array([0.5, 99.0])}
    low, high = COPOD(schema=schema).fit(rows).decision_function(ends)
    assert high > low + 3
    # the smaller tail of ECOD does not know sides: the left end is as strange as it is rare
    assert ECOD(bins=1024, schema=schema).fit(rows).decision_function(ends)[0] > low


@pytest.mark.parametrize("detector", [HBOS, COPOD, ECOD])
@pytest.mark.parametrize("bad", [{"bins": 3}, {"bins": 2.0}, {"bins": 5000}, {"edges": "quantile"}, {"edges": None}])
def test_parameters(detector: type, bad: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        detector(schema=MIXED_SCHEMA, **bad).fit(make_table(20, 0))


@pytest.mark.parametrize("detector", [HBOS, COPOD])
def test_noise_costs_little(detector: type) -> None:
    """Noisy counts (deviation 10 on 4,000 records) rank nearly as exact ones do."""
    from scipy.stats import spearmanr

    from blindsight.detectors import Total, local_total

    table = make_table(4000, 2)
    exact = detector(schema=MIXED_SCHEMA).fit(table)
    rng = np.random.default_rng(3)

    def noisy(query: object) -> Total:
        total = local_total(query, MIXED_SCHEMA, table)
        noise = np.rint(rng.normal(0, 10, total.values.size)).astype(np.int64)
        return Total(values=total.values + noise, noise_variance=100.0)

    model = detector().run(MIXED_SCHEMA, noisy)
    assert spearmanr(exact.decision_function(table), model.decision_function(table))[0] > 0.9
