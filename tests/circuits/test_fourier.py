"""Random Fourier features: a naive oracle, exactness on every path, the kernel they stand for, strict parsing."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from blindsight.circuits import RandomFourier, encoder_from_json, encoder_to_json, spread
from blindsight.errors import FormatError, ParameterError

ENCODER = RandomFourier(
    lows=(0.0, -500.0, 0.0),
    highs=(10_000.0, 500.0, 120.0),
    logs=(True, False, False),
    centres=(0.4, 0.5, 0.45),
    scales=(0.1, 0.125, 0.2),
    bandwidth=1.2,
    pairs=24,
    seed=7,
)


def records(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.lognormal(4, 1, rows), rng.normal(0, 80, rows), rng.normal(45, 12, rows)])
    X[:4] = [[1e300, -1e300, 5e-324], [-1e9, 1e9, 0], [0, -500, 120], [10_000, 500, 0]]
    return X


def naive(encoder: RandomFourier, x: np.ndarray) -> list[int]:
    """One record, in Python's whole numbers."""
    d, table = encoder.n_features, []
    words = np.random.Philox(key=encoder.seed).random_raw(d * encoder.pairs).tolist()
    normal = [NormalDist().inv_cdf(((word >> 11) + 0.5) / 2**53) for word in words]
    u = []
    for f in range(d):
        at = float(spread(x[f : f + 1], encoder.lows[f], encoder.highs[f], log=encoder.logs[f])[0])
        u.append(round(min(max((at - encoder.centres[f]) / encoder.scales[f], -16.0), 16.0) * 1024))
    for j in range(encoder.pairs):
        turns = [g / (2 * math.pi * encoder.bandwidth) for g in normal[j * d : (j + 1) * d]]
        steps = [round(min(max(t, -16.0), 16.0) * 2**18) for t in turns]
        phase = sum(a * b for a, b in zip(u, steps, strict=True))
        table.append(((phase + 2**15) >> 16) % 4096)
    angle = [2 * math.pi * i / 4096 for i in table]
    return [round(encoder.levels * math.cos(a)) for a in angle] + [round(encoder.levels * math.sin(a)) for a in angle]


def test_the_encoding_is_the_naive_one() -> None:
    X = records(40, 0)
    assert ENCODER.encode(X).tolist() == [naive(ENCODER, x) for x in X]


def test_the_encoding_is_the_same_on_every_machine() -> None:
    """Frequencies, angles and rounding are whole numbers; the digest was made once and must never change."""
    X = np.column_stack([np.linspace(0, 10_000, 50), np.linspace(500, -500, 50), np.linspace(0, 120, 50)])
    linear = replace(ENCODER, logs=(False, False, False))
    digest = hashlib.sha256(linear.encode(X).astype("<i2").tobytes()).hexdigest()
    assert digest == "2f95e71d4311796287fbd0c85ecedd82f1865dbde2d7d654120b615fa4c110ec"


@pytest.mark.parametrize("size", [10, 1 << 43])
def test_dot_is_the_product(size: int) -> None:
    """Both paths: float64 matrix products, and whole numbers where those would not be exact."""
    rng = np.random.default_rng(1)
    weights = rng.integers(-size, size, ENCODER.length)
    X = records(5000, 2)
    assert (int(np.abs(weights).sum()) * ENCODER.levels < 2**53) == (size == 10)
    by_hand = [sum(int(a) * int(w) for a, w in zip(row, weights, strict=True)) for row in ENCODER.encode(X[:50])]
    together = ENCODER.dot(X, weights)
    assert together[:50].tolist() == by_hand
    assert np.array_equal(np.concatenate([ENCODER.dot(X[i : i + 1], weights) for i in range(50)]), together[:50])


def test_bounds() -> None:
    e = ENCODER.encode(records(3000, 3))
    assert np.abs(e).max() == ENCODER.max_abs == 127
    squares = (e.astype(object) ** 2).sum(axis=1)
    assert max(squares) <= ENCODER.square <= ENCODER.pairs * 128**2
    weights = np.random.default_rng(4).integers(-1000, 1000, ENCODER.length)
    # the record that would attain the bound in every pair at once need not exist; no record exceeds it
    low, high = ENCODER.reach(weights)
    assert low <= (e @ weights).min()
    assert (e @ weights).max() <= high <= 127 * int(np.abs(weights).sum())


def test_products_estimate_the_gaussian_kernel() -> None:
    """Rahimi and Recht 2007, claim 1: the error falls as 1 / sqrt(pairs)."""
    encoder = replace(ENCODER, pairs=4096)
    X = records(60, 5)[4:]
    u = np.column_stack(
        [
            (spread(X[:, f], encoder.lows[f], encoder.highs[f], log=encoder.logs[f]) - encoder.centres[f])
            / encoder.scales[f]
            for f in range(3)
        ]
    )
    distances = ((u[:, None] - u[None]) ** 2).sum(axis=2)
    z = encoder.encode(X).astype(float)
    error = z @ z.T / (4096 * 127**2) - np.exp(-distances / (2 * 1.2**2))
    assert np.abs(error).max() < 5 / math.sqrt(4096)
    assert np.sqrt((error**2).mean()) < 1 / math.sqrt(4096)


def test_json_and_form() -> None:
    described = encoder_to_json(ENCODER)
    assert encoder_from_json(described) == ENCODER
    assert ENCODER.same_form(replace(ENCODER, centres=(0.4 + 1e-15, 0.5, 0.45)))
    assert not ENCODER.same_form(replace(ENCODER, seed=8))
    assert not ENCODER.same_form(replace(ENCODER, centres=(0.41, 0.5, 0.45)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pairs", 0),
        ("pairs", True),
        ("pairs", 1 << 30),
        ("seed", -1),
        ("seed", 1 << 64),
        ("levels", 128),
        ("levels", 12.0),
        ("bandwidth", 0.0),
        ("bandwidth", float("nan")),
        ("bandwidth", "1"),
        ("scales", [0.1, 0.0, 0.1]),
        ("scales", [0.1, 0.1]),
        ("centres", [0.0, 0.0, float("inf")]),
        ("lows", [0.0, 500.0, 0.0]),
        ("logs", [0, 0, 0]),
        ("lows", "abc"),
        ("unknown", 1),
    ],
)
def test_untrusted_descriptions(name: str, value: object) -> None:
    with pytest.raises(FormatError):
        encoder_from_json({**encoder_to_json(ENCODER), name: value})


def test_no_features() -> None:
    with pytest.raises(ParameterError):
        replace(ENCODER, lows=(), highs=(), logs=(), centres=(), scales=())
