"""Encoders against NumPy's own binning and products written out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blindsight.circuits import (
    Monomials,
    OneHotBins,
    encoder_from_json,
    encoder_to_json,
    even_edges,
    spread,
)
from blindsight.errors import FormatError, ParameterError

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)
ORDINARY = st.floats(-1e6, 1e6)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[float, float, int, bool]:
    low = draw(st.floats(-1e6, 1e6))
    width = draw(st.floats(1e-6, 1e9))
    return low, low + width, draw(st.integers(3, 200)), draw(st.booleans())


@given(ranges(), st.lists(FINITE, min_size=1, max_size=30), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_bins_are_those_of_searchsorted_and_digitize(
    shape: tuple[float, float, int, bool], values: list[float], seed: int
) -> None:
    low, high, count, log = shape
    edges = even_edges(low, high, count, log=log)
    if edges.size < 2:
        return
    generator = np.random.default_rng(seed)
    near = np.concatenate([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf)])
    x = np.concatenate([values, near, generator.uniform(low - 1, high + 1, 50)])
    encoder = OneHotBins(edges=(tuple(edges.tolist()),))
    slots = encoder.slots(x[:, None])[:, 0]
    assert np.array_equal(slots, np.searchsorted(edges, x, side="right"))
    assert np.array_equal(slots, np.digitize(x, edges))


@given(st.lists(ORDINARY, min_size=1, max_size=40, unique=True), st.lists(FINITE, min_size=1, max_size=40))
@settings(deadline=None)
def test_uneven_edges_bin_the_same_way(edges: list[float], values: list[float]) -> None:
    inner = np.unique(np.asarray(edges))
    x = np.concatenate([values, inner])
    encoder = OneHotBins(edges=(tuple(inner.tolist()), (0.5,)))
    slots = encoder.slots(np.column_stack([x, x]))
    assert np.array_equal(slots[:, 0], np.digitize(x, inner))
    assert np.array_equal(slots[:, 1], inner.size + 1 + (x >= 0.5))


def test_a_column_of_nearly_even_edges_is_still_exact() -> None:
    # evenness is guessed with a tolerance; the bins must not be
    edges = np.linspace(0.0, 1.0, 100)
    generator = np.random.default_rng(0)
    for scale in (1e-9, 5e-9, 1e-8, 9e-7 / 99):
        skewed = np.unique(edges + generator.uniform(-scale, scale, edges.size))
        x = np.concatenate([generator.random(5000), skewed, np.nextafter(skewed, -1), np.nextafter(skewed, 2)])
        slots = OneHotBins(edges=(tuple(skewed.tolist()),)).slots(x[:, None])[:, 0]
        assert np.array_equal(slots, np.searchsorted(skewed, x, side="right"))


def test_one_hot_has_exactly_one_slot_a_feature() -> None:
    encoder = OneHotBins(edges=((0.0, 1.0), (0.5, 1.5, 2.5), (7.0,)))
    X = np.random.default_rng(0).uniform(-3, 9, (500, 3))
    e = encoder.encode(X)
    assert e.shape == (500, encoder.length) == (500, 3 + 4 + 2)
    assert encoder.sizes == (3, 4, 2)
    for block in np.split(e, encoder.offsets[1:], axis=1):
        assert np.array_equal(block.sum(axis=1), np.ones(500))
    assert e.min() == 0
    assert e.max() == encoder.max_abs == 1


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.just(3)), elements=FINITE),
    st.integers(1, 2047),
)
@settings(max_examples=100, deadline=None)
def test_monomials_are_products_written_out(X: np.ndarray, levels: int) -> None:
    encoder = Monomials(lows=(-1.0, 0.0, 1e3), highs=(1.0, 5.0, 1e9), logs=(False, True, False), levels=levels)
    with np.errstate(over="ignore"):
        encoded = encoder.encode(X)
    for row, e in zip(X.tolist(), encoded, strict=True):
        z = [levels]
        for value, low, high, log in zip(row, encoder.lows, encoder.highs, encoder.logs, strict=True):
            position = (value - low) / (high - low)
            if log:
                position = float(np.log1p(1000 * max(position, 0.0)) / np.log1p(1000))
            z.append(round(min(max(levels * (2 * position - 1), -levels), levels)))
        naive = [z[i] * z[j] for i in range(4) for j in range(i, 4)]
        assert e.tolist() == naive
        assert max(map(abs, naive)) <= encoder.max_abs == levels**2


@given(ranges(), st.lists(FINITE, min_size=2, max_size=20))
@settings(deadline=None)
def test_spread_is_monotone_and_keeps_the_ends(shape: tuple[float, float, int, bool], values: list[float]) -> None:
    low, high, _, log = shape
    x = np.sort(np.asarray(values))
    with np.errstate(over="ignore"):
        mapped = spread(x, low, high, log=log)
    assert (np.diff(mapped[np.isfinite(mapped)]) >= 0).all()
    assert spread(np.array([low]), low, high, log=log)[0] == 0.0
    assert spread(np.array([high]), low, high, log=log)[0] == pytest.approx(1.0)


@given(ranges())
@settings(deadline=None)
def test_even_edges_are_even_and_end_where_the_range_ends(shape: tuple[float, float, int, bool]) -> None:
    low, high, count, log = shape
    edges = even_edges(low, high, count, log=log)
    assert edges[0] == low
    assert edges[-1] == high
    assert (np.diff(edges) > 0).all()
    if edges.size == count and high - low > 1e-3 * max(abs(low), 1):
        assert np.allclose(spread(edges, low, high, log=log), np.linspace(0, 1, count), atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: OneHotBins(edges=()),
        lambda: OneHotBins(edges=((),)),
        lambda: OneHotBins(edges=((1.0, 1.0),)),
        lambda: OneHotBins(edges=((2.0, 1.0),)),
        lambda: OneHotBins(edges=((0.0, float("nan")),)),
        lambda: OneHotBins(edges=((0.0, float("inf")),)),
        lambda: OneHotBins(edges=(tuple(float(i) for i in range(1 << 20)),)),
        lambda: Monomials(lows=(), highs=(), logs=()),
        lambda: Monomials(lows=(0.0,), highs=(1.0, 2.0), logs=(False,)),
        lambda: Monomials(lows=(1.0,), highs=(1.0,), logs=(False,)),
        lambda: Monomials(lows=(float("nan"),), highs=(1.0,), logs=(False,)),
        lambda: Monomials(lows=(-1e308,), highs=(1e308,), logs=(False,)),
        lambda: Monomials(lows=(0.0,), highs=(1.0,), logs=(False,), levels=0),
        lambda: Monomials(lows=(0.0,), highs=(1.0,), logs=(False,), levels=2048),
        lambda: Monomials(lows=(0.0,) * 1500, highs=(1.0,) * 1500, logs=(False,) * 1500),
    ],
)
def test_unusable_encoders_are_refused(make: object) -> None:
    with pytest.raises(ParameterError):
        make()  # type: ignore[operator]


def test_wrong_shape_is_refused() -> None:
    for X in (np.zeros(3), np.zeros((2, 3)), np.zeros((1, 2, 2))):
        with pytest.raises(ParameterError, match=r"\(n, 2\)"):
            OneHotBins(edges=((0.0,), (0.0,))).slots(X)
        with pytest.raises(ParameterError, match=r"\(n, 2\)"):
            Monomials(lows=(0.0, 0.0), highs=(1.0, 1.0), logs=(False, True)).encode(X)


@given(st.lists(st.lists(FINITE, min_size=1, max_size=8, unique=True), min_size=1, max_size=5))
def test_one_hot_round_trips_through_json_text(edges: list[list[float]]) -> None:
    encoder = OneHotBins(edges=tuple(tuple(np.unique(inner).tolist()) for inner in edges))
    assert encoder_from_json(json.loads(json.dumps(encoder_to_json(encoder)))) == encoder


@given(st.lists(st.tuples(ORDINARY, st.floats(1e-3, 1e6), st.booleans()), min_size=1, max_size=6), st.integers(1, 2047))
def test_monomials_round_trip_through_json_text(columns: list[tuple[float, float, bool]], levels: int) -> None:
    encoder = Monomials(
        lows=tuple(low for low, _, _ in columns),
        highs=tuple(low + width for low, width, _ in columns),
        logs=tuple(log for _, _, log in columns),
        levels=levels,
    )
    assert encoder_from_json(json.loads(json.dumps(encoder_to_json(encoder)))) == encoder


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
GOOD = [
    {"kind": "one_hot_bins", "edges": [[0.0, 1.0], [0.5]]},
    {"kind": "monomials", "lows": [0.0, 1.0], "highs": [1.0, 2.0], "logs": [False, True], "levels": 127},
]


@given(st.sampled_from(GOOD), st.sampled_from(["kind", "edges", "lows", "highs", "logs", "levels", "extra"]), JSON)
@settings(max_examples=300, deadline=None)
def test_json_with_one_part_replaced_is_refused_or_valid(good: dict, key: str, value: object) -> None:
    mutant = {**good, key: value}
    try:
        encoder = encoder_from_json(mutant)
    except FormatError:
        return
    # whatever is accepted is a valid encoder that describes itself again
    assert encoder_from_json(encoder_to_json(encoder)) == encoder


@given(JSON)
@settings(max_examples=200)
def test_arbitrary_json_is_refused(value: object) -> None:
    with pytest.raises(FormatError, match=r"malformed\. Rule: .*Fix: ask"):
        encoder_from_json(value)


def test_huge_json_is_refused_before_work() -> None:
    with pytest.raises(FormatError):
        encoder_from_json({"kind": "one_hot_bins", "edges": [[0.0]] * ((1 << 19) + 1)})
    with pytest.raises(FormatError):
        encoder_from_json({**GOOD[1], "levels": True})
    with pytest.raises(FormatError):
        encoder_from_json({**GOOD[1], "lows": [0.0, 10**400]})
