"""What each block adds to an inner product, and what blocks are called."""

import numpy as np
import pytest

from blindsight.circuits import OneHotBins, ProjectedBins, TreeLeaves

ENCODERS = {
    "bins": OneHotBins(edges=((0.0,), (-1.0, 0.0, 1.0), (-0.5, 0.5))),
    "projections": ProjectedBins(
        lows=(-3.0,) * 3, highs=(3.0,) * 3, logs=(False,) * 3, starts=(0.0,) * 3, stops=(1.0,) * 3,
        projections=5, bins=8, seed=4,
    ),
    "trees": TreeLeaves(edges=((-1.0, 0.0, 1.0),) * 3, trees=4, depth=3, seed=2),
}  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_contributions_are_the_dense_encodings_sums_by_block(encoder):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3)) * 2
    weights = rng.integers(-1000, 1000, encoder.length)
    parts = encoder.contributions(X, weights)
    assert parts.dtype == np.int64
    dense = encoder.encode(X) * weights
    assert np.array_equal(parts, np.add.reduceat(dense, encoder.offsets, axis=1))
    assert np.array_equal(parts.sum(axis=1), encoder.dot(X, weights))


def test_blocks_are_named_by_feature_where_they_are_features():
    names = ("amount", "hour", "country")
    assert ENCODERS["bins"].block_names(names) == names
    assert ENCODERS["projections"].block_names(names) == tuple(f"projection {i}" for i in range(5))
    assert ENCODERS["trees"].block_names(names) == tuple(f"tree {i}" for i in range(4))
