"""Integer layers: static bounds, and the evaluator that defines what every engine returns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.circuits import InnerProduct, Monomials, OneHotBins, evaluate
from blindsight.errors import ParameterError


def one_hot(seed: int, features: int = 3) -> tuple[OneHotBins, InnerProduct]:
    generator = np.random.default_rng(seed)
    edges = tuple(tuple(np.linspace(-1, 1, 2 + seed % 4 + f).tolist()) for f in range(features))
    encoder = OneHotBins(edges=edges)
    return encoder, InnerProduct(weights=generator.integers(-(2**40), 2**40, encoder.length), bias=int(seed) - 3)


def quadratic(seed: int, features: int, size: int, levels: int = 127) -> tuple[Monomials, InnerProduct]:
    generator = np.random.default_rng(seed)
    encoder = Monomials(lows=(-1.0,) * features, highs=(1.0,) * features, logs=(False,) * features, levels=levels)
    return encoder, InnerProduct(weights=generator.integers(-size, size, encoder.length, endpoint=True), bias=seed)


def by_hand(encoder: object, circuit: InnerProduct, X: np.ndarray) -> list[int]:
    rows = encoder.encode(X)  # type: ignore[attr-defined]
    return [sum(int(a) * int(w) for a, w in zip(row, circuit.weights, strict=True)) + circuit.bias for row in rows]


@given(st.integers(0, 50), st.integers(1, 40), st.integers(1, 7))
@settings(deadline=None, max_examples=40)
def test_evaluate_is_the_inner_product_in_any_chunks(seed: int, rows: int, chunk_rows: int) -> None:
    generator = np.random.default_rng(seed)
    encoder, circuit = one_hot(seed)
    X = generator.normal(0, 1.5, (rows, 3))
    assert evaluate(encoder, circuit, X, chunk_rows=chunk_rows).tolist() == by_hand(encoder, circuit, X)
    assert np.array_equal(evaluate(encoder, circuit, X, chunk_rows=chunk_rows), evaluate(encoder, circuit, X))


@pytest.mark.parametrize("size", [3, 2**20, 2**30, 2**37, 2**40])
@pytest.mark.parametrize("levels", [1, 127, 2047])
def test_quadratic_forms_are_exact_at_every_size(size: int, levels: int) -> None:
    """Below 2**53 a float64 product serves, beyond it integers must."""
    encoder, circuit = quadratic(1, 4, size, levels)
    X = np.random.default_rng(2).uniform(-1.2, 1.2, (40, 4))
    X[0], X[1] = 1.0, -1.0
    if (size, levels) == (2**40, 2047):
        with pytest.raises(ParameterError, match=r"overflow 64 bits.*Rule.*Fix"):
            evaluate(encoder, circuit, X)
        return
    assert evaluate(encoder, circuit, X, chunk_rows=7).tolist() == by_hand(encoder, circuit, X)


def test_no_rows_give_no_scores() -> None:
    encoder, circuit = one_hot(1)
    assert evaluate(encoder, circuit, np.zeros((0, 3))).shape == (0,)


@given(st.integers(0, 200))
@settings(deadline=None, max_examples=50)
def test_one_hot_bounds_are_attained(seed: int) -> None:
    encoder, circuit = one_hot(seed)
    middles = [np.concatenate([[e[0] - 1], (np.array(e[1:]) + e[:-1]) / 2, [e[-1] + 1]]) for e in encoder.edges]
    everything = np.array(list(itertools.product(*middles)))
    scores = evaluate(encoder, circuit, everything)
    assert (int(scores.min()), int(scores.max())) == circuit.bounds(encoder)


@given(st.integers(0, 200), st.integers(1, 3), st.integers(1, 3))
@settings(deadline=None, max_examples=50)
def test_quadratic_bounds_hold_for_every_record_there_is(seed: int, features: int, levels: int) -> None:
    encoder, circuit = quadratic(seed, features, 50, levels)
    grid = np.array(list(itertools.product(np.linspace(-1, 1, 2 * levels + 1), repeat=features)))
    scores = evaluate(encoder, circuit, grid)
    low, high = circuit.bounds(encoder)
    assert low <= scores.min()
    assert scores.max() <= high
    # no wider than the crudest bound, and tight where the form is diagonal
    crude = int(np.abs(circuit.weights).sum()) * encoder.max_abs + abs(circuit.bias)
    assert -crude <= low <= high <= crude


def test_a_diagonal_form_attains_its_bounds() -> None:
    encoder = Monomials(lows=(-1.0, -1.0), highs=(1.0, 1.0), logs=(False, False), levels=3)
    circuit = InnerProduct(weights=np.array([5, 0, 0, 2, 0, -7]))
    grid = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=2)))
    scores = evaluate(encoder, circuit, grid)
    assert (scores.min(), scores.max()) == circuit.bounds(encoder) == (5 * 9 - 7 * 9, 5 * 9 + 2 * 9)


def test_weights_are_copied_and_read_only() -> None:
    weights = np.arange(4)
    circuit = InnerProduct(weights=weights)
    weights[0] = 99
    assert circuit.weights[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        circuit.weights[0] = 1
    assert "99" not in repr(circuit)
    assert "secret" in repr(circuit)
    assert circuit == InnerProduct(weights=np.arange(4))
    assert circuit != InnerProduct(weights=np.arange(4), bias=1)


@pytest.mark.parametrize(
    ("weights", "bias"),
    [
        (np.zeros((2, 2), dtype=int), 0),
        (np.zeros(0, dtype=int), 0),
        (np.array([2**40 + 1]), 0),
        (np.array([-(2**63)]), 0),
        ([1], 2**41),
        (np.array([2**64 - 1], dtype=np.uint64), 0),
    ],
)
def test_unusable_weights_are_refused(weights: object, bias: int) -> None:
    with pytest.raises(ParameterError):
        InnerProduct(weights=weights, bias=bias)  # type: ignore[arg-type]


def test_parts_that_do_not_fit_are_refused() -> None:
    encoder, circuit = one_hot(3)
    with pytest.raises(ParameterError, match="do not fit"):
        evaluate(encoder, InnerProduct(weights=np.ones(2, dtype=np.int64)), np.zeros((1, 3)))
    with pytest.raises(ParameterError, match="do not fit"):
        InnerProduct(weights=np.ones(2, dtype=np.int64)).bounds(encoder)
    with pytest.raises(ParameterError, match="wrong shape"):
        evaluate(encoder, circuit, np.zeros((1, 4)))


def test_fractional_weights_are_refused() -> None:
    """A weight of 0.7 silently becoming 0 would be another model."""
    with pytest.raises(ParameterError, match="not integers"):
        InnerProduct(weights=np.array([0.7, 1.0]))  # type: ignore[arg-type]
