"""Projected bins against projections written out in whole numbers of any size."""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.circuits import ProjectedBins, encoder_from_json, encoder_to_json, spread
from blindsight.errors import FormatError, ParameterError


def projected(*, d: int = 5, projections: int = 9, bins: int = 16, seed: int = 3, log: bool = False) -> ProjectedBins:
    return ProjectedBins(
        lows=(-1.0,) * d,
        highs=(3.0,) * d,
        logs=(log,) * d,
        starts=(0.0,) * d,
        stops=(1.0,) * d,
        projections=projections,
        bins=bins,
        seed=seed,
    )


def bins_by_hand(encoder: ProjectedBins, X: np.ndarray) -> list[list[int]]:
    """Exact integers and fractions all the way."""
    out = []
    for row in X:
        positions = []
        for f, value in enumerate(row):
            place = float(spread(np.array([value]), encoder.lows[f], encoder.highs[f], log=encoder.logs[f])[0])
            place = (place - encoder.starts[f]) / (encoder.stops[f] - encoder.starts[f])
            positions.append(round(min(max(place, -0.5), 1.5) * 16384))
        here = []
        for weights in encoder.weights:
            whole = [int(w) for w in weights]
            low = 16384 * sum(min(w, 0) for w in whole)
            width = 16384 * sum(abs(w) for w in whole)
            value = sum(w * p for w, p in zip(whole, positions, strict=True))
            inner = encoder.bins - 2
            here.append(min(max(math.floor(Fraction((value - low) * inner, width)) + 1, 0), inner + 1))
        out.append(here)
    return out


@given(
    st.integers(1, 12), st.integers(1, 20), st.sampled_from([4, 5, 64, 1024]), st.integers(0, 2**63 - 1), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_bins_are_those_of_exact_arithmetic(d: int, projections: int, bins: int, seed: int, log: bool) -> None:
    encoder = projected(d=d, projections=projections, bins=bins, seed=seed, log=log)
    generator = np.random.default_rng(seed)
    X = generator.uniform(-3, 5, size=(20, d))
    X[:4] = [[-1.0], [3.0], [1e300], [-1e300]]
    expected = np.array(bins_by_hand(encoder, X))
    slots = encoder.slots(X)
    assert np.array_equal(slots, expected + bins * np.arange(projections))
    weights = generator.integers(-(2**39), 2**39, size=encoder.length)
    dense = encoder.encode(X)
    assert np.array_equal(dense @ weights, encoder.dot(X, weights))
    accumulator = np.zeros(encoder.length, dtype=np.int64)
    encoder.count(X, accumulator)
    assert np.array_equal(accumulator, dense.sum(axis=0))


def test_records_inside_the_ranges_stay_in_the_inner_bins() -> None:
    encoder = projected(projections=50)
    corners = np.random.default_rng(0).choice([-1.0, 3.0], size=(500, 5))
    place = encoder.slots(corners) - encoder.offsets
    assert place.min() >= 1
    # the upper end itself opens the outer bin, as an edge belongs to the bin right of it
    inside = np.random.default_rng(1).uniform(-1.0, 3.0, size=(500, 5))
    place = encoder.slots(inside) - encoder.offsets
    assert place.min() >= 1
    assert place.max() <= 14


def test_a_part_of_the_range_is_the_same_as_a_narrower_range() -> None:
    X = np.random.default_rng(2).uniform(-2, 4, size=(200, 5))
    part = ProjectedBins(**{**vars(projected()), "starts": (0.25,) * 5, "stops": (0.75,) * 5})
    narrow = ProjectedBins(**{**vars(projected()), "lows": (0.0,) * 5, "highs": (2.0,) * 5})
    assert np.array_equal(part.slots(X), narrow.slots(X))


def test_weights_are_sparse_normal_and_fixed_for_good() -> None:
    weights = projected(d=30, projections=2000, bins=4, seed=7).weights
    assert (np.count_nonzero(weights, axis=1) == 6).all()
    drawn = weights[weights != 0] / 1024
    assert abs(drawn.mean()) < 0.03
    assert abs(drawn.std() - 1.0) < 0.03
    assert np.abs(np.count_nonzero(weights, axis=0) - 400).max() < 100, "every feature is as likely"
    assert (
        hashlib.sha256(weights.astype("<i8").tobytes()).hexdigest()
        == "18b6a7908cd91c81d43e97b81f658bff3a5fcb27338f63d3df6e333b256a4fa8"
    )


def test_json_there_and_back() -> None:
    encoder = projected(log=True)
    value = json.loads(json.dumps(encoder_to_json(encoder)))
    assert encoder_from_json(value) == encoder
    assert encoder.same_form(encoder_from_json(value))
    assert not encoder.same_form(projected(seed=4))
    nudged = {**value, "lows": [float(np.nextafter(v, 0)) for v in value["lows"]]}
    assert encoder.same_form(encoder_from_json(nudged))


@pytest.mark.parametrize(
    "change",
    [
        {"bins": 3},
        {"bins": 1025},
        {"bins": 16.0},
        {"projections": 0},
        {"projections": 1 << 17},
        {"seed": 1 << 63},
        {"seed": True},
        {"logs": [0] * 5},
        {"lows": [0.0]},
        {"lows": [-1e308] * 5, "highs": [1e308] * 5},
        {"highs": [-1.0] * 5},
        {"starts": [0.5] * 5, "stops": [0.5] * 5},
        {"stops": [1.5] * 5},
        {"starts": [float("nan")] * 5},
        {"extra": 1},
    ],
)
def test_malformed_json_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        encoder_from_json({**encoder_to_json(projected()), **change})


def test_no_features_are_refused() -> None:
    with pytest.raises(ParameterError):
        projected(d=0)
