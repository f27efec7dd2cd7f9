"""Residue arithmetic against Python's integers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.errors import WireError
from blindsight.he import (
    add_mod,
    check_residues,
    dot_mod,
    lift,
    multiply_constant,
    pack_residues,
    scale_up,
    uniform_below,
    unpack_residues,
)

SMALL = (1073651713, 1073668097, 1073692673)
LARGE = (70368743587841, 70368743669761)
PRIMES = st.sampled_from([SMALL, LARGE])


def compose(residues: np.ndarray, primes: tuple[int, ...]) -> list[int]:
    """Chinese remainders, centred; columns of an array of shape (primes, n)."""
    q = math.prod(primes)
    basis = [(q // p) * pow(q // p, -1, p) for p in primes]
    values = (sum(int(r) * b for r, b in zip(column, basis, strict=True)) % q for column in residues.T)
    return [v - q if v > q // 2 else v for v in values]


@given(primes=PRIMES, values=st.lists(st.integers(-(2**45), 2**45), min_size=1, max_size=20))
def test_lift_is_congruent(primes, values):
    assert compose(lift(np.array(values), primes), primes) == values


@given(primes=PRIMES, seed=st.integers(0, 2**32), factor=st.integers(0, 2**90))
def test_multiplication_by_a_constant(primes, seed, factor):
    for p in primes:
        values = np.random.default_rng(seed).integers(0, p, 50).astype(np.uint64)
        assert multiply_constant(values, factor, p).tolist() == [int(v) * factor % p for v in values]


@given(primes=PRIMES, seed=st.integers(0, 2**32))
def test_addition(primes, seed):
    rng = np.random.default_rng(seed)
    a, b = (np.stack([rng.integers(0, p, 8) for p in primes]).astype(np.uint64) for _ in range(2))
    expected = [
        [(int(x) + int(y)) % p for x, y in zip(r, s, strict=True)] for r, s, p in zip(a, b, primes, strict=True)
    ]
    assert add_mod(a, b, primes).tolist() == expected


@given(
    primes=PRIMES,
    plain_bits=st.integers(20, 56),
    message=st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=20),
)
def test_scaling_up_is_within_one_of_the_exact_quotient(primes, plain_bits, message):
    q = math.prod(primes)
    for m, got in zip(message, compose(scale_up(np.array(message), primes, plain_bits), primes), strict=True):
        error = (got * (1 << plain_bits) - q * m) % (q << plain_bits)
        assert min(error, (q << plain_bits) - error) <= 1 << plain_bits


@settings(max_examples=40)
@given(primes=PRIMES, bits=st.integers(0, 85), low=st.integers(0, 2**32))
def test_uniform_integers_lie_in_their_range(primes, bits, low):
    bound = (1 << bits) + low % (1 << bits)
    values = compose(uniform_below(bound, 64, primes, -(bound // 2)), primes)
    assert min(values) >= -(bound // 2)
    assert max(values) < bound - bound // 2


@pytest.mark.parametrize("bound", [3 * 2**70 + 17, 3 * 2**50 + 17])
def test_uniform_integers_are_uniform(bound):
    # chi-square with 99 degrees of freedom; 179 is exceeded once in a million runs
    values = np.array(compose(uniform_below(bound, 100_000, LARGE), LARGE), dtype=object)
    values = np.where(values < 0, values + math.prod(LARGE), values)
    counts = np.bincount((values * 100 // bound).astype(np.int64), minlength=100)
    assert ((counts - 1000.0) ** 2 / 1000.0).sum() < 179


@given(seed=st.integers(0, 2**32), width=st.sampled_from([4, 6, 8]))
def test_packing_round_trip(seed, width):
    values = np.random.default_rng(seed).integers(0, 1 << 30, (3, 7)).astype(np.uint64)
    data = pack_residues(values, width)
    assert len(data) == 21 * width
    assert (unpack_residues(memoryview(data), (3, 7), width) == values).all()
    with pytest.raises(WireError, match="length"):
        unpack_residues(data + b"\0", (3, 7), width)


def test_a_residue_at_its_prime_is_refused():
    values = np.array([[1], [SMALL[1]], [2]], dtype=np.uint32)
    with pytest.raises(WireError, match="not reduced"):
        check_residues(values, SMALL)
    values[1] -= 1
    check_residues(values, SMALL)


@given(primes=PRIMES, seed=st.integers(0, 2**32), bits=st.integers(1, 40), count=st.integers(1, 300))
def test_inner_products_of_residues(primes, seed, bits, count):
    rng = np.random.default_rng(seed)
    weights = rng.integers(-(1 << bits), (1 << bits) + 1, count)
    for p in primes:
        rows = rng.integers(0, p, (3, count)).astype(np.uint64)
        expected = [sum(int(r) * int(w) for r, w in zip(row, weights, strict=True)) % p for row in rows]
        assert dot_mod(rows, weights, p).tolist() == expected


@pytest.mark.parametrize("sign", [1, -1])
def test_inner_products_at_their_largest(sign):
    """As many products as are allowed, of the largest residues and weights: every sum of digits at its bound."""
    for p in LARGE:
        rows, weights = np.full((1, 1 << 16), p - 1, dtype=np.uint64), np.full(1 << 16, sign << 40)
        assert dot_mod(rows, weights, p).tolist() == [(-sign << 56) % p]
        assert dot_mod(rows, weights - 1, p).tolist() == [(1 - (sign << 40) << 16) % p]


@pytest.mark.parametrize("heaviest", [2**37 - 1, 2**37])
def test_inner_products_where_weights_begin_to_be_cut(heaviest):
    for p in LARGE:
        rows, weights = np.full((2, 3), p - 1, dtype=np.uint64), np.array([heaviest - 3, -2, 1])
        assert dot_mod(rows, weights, p).tolist() == [(4 - heaviest) % p] * 2


@given(primes=PRIMES, near=st.lists(st.integers(-3, 3), min_size=1, max_size=5), turns=st.integers(-2, 2))
def test_lift_around_multiples_of_the_primes(primes, near, turns):
    values = [turns * min(primes) + v for v in near]
    assert lift(np.array(values), primes).tolist() == [[v % p for v in values] for p in primes]
