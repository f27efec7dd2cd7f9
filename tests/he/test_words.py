"""Words of shares: switching is exact to the stated bound, products are exact."""

import math

import numpy as np
import pytest

from blindsight.he import HeContext, HeParameters, SecretKey, add_mod, scale_up, switch_to_words
from blindsight.he._negacyclic import Negacyclic
from blindsight.he._words import negacyclic_product

PARAMETERS = {
    "rows": HeParameters(degree=4096, prime_bits=(46, 46), special_bits=17, plain_bits=30),
    "columns": HeParameters(degree=8192, prime_bits=(30,) * 5, special_bits=17, plain_bits=30),
}


@pytest.fixture(scope="module", params=sorted(PARAMETERS))
def key(request):
    return SecretKey.generate(HeContext(PARAMETERS[request.param]))


def reconstruct(residues, primes):
    modulus = math.prod(primes)
    parts = [int(x) * (modulus // p) * pow(modulus // p, -1, p) for x, p in zip(residues, primes, strict=True)]
    return sum(parts) % modulus


@pytest.mark.parametrize("bits", [8, 40, 56, 64])
def test_switching_is_too_small_by_less_than_the_number_of_primes(key, bits):
    primes = key.context.primes
    modulus = math.prod(primes)
    rng = np.random.default_rng(1)
    values = [
        0,
        1,
        modulus - 1,
        modulus // 2,
        modulus // 3,
        *(int(rng.integers(1 << 62)) ** 3 % modulus for _ in range(50)),
    ]
    residues = np.array([[v % p for v in values] for p in primes], dtype=np.uint64)
    words = switch_to_words(residues, primes, bits)
    assert reconstruct(residues[:, 5], primes) == values[5]
    for value, word in zip(values, words, strict=True):
        assert int(word) < 1 << bits
        # floor of the exact value, less 0 .. primes - 1, modulo 2**bits
        short = ((value << bits) // modulus - int(word)) % (1 << bits)
        assert short < len(primes)


def exact(words, small):
    degree = len(words)
    out = [0] * degree
    for i, w in enumerate(int(v) for v in words):
        for j, s in enumerate(int(v) for v in small):
            if s:
                sign = 1 if i + j < degree else -1
                out[(i + j) % degree] += sign * s * w
    return np.array([v % (1 << 64) for v in out], dtype=np.uint64)


def test_products_are_exact():
    rng = np.random.default_rng(2)
    words = rng.integers(0, 1 << 64, 256, dtype=np.uint64)
    small = rng.integers(-1, 2, 256)
    ring = Negacyclic(256)
    assert np.array_equal(negacyclic_product(ring, words, ring.spectrum(small)), exact(words, small))


@pytest.mark.parametrize("degree", [4096, 8192])
def test_products_at_their_largest(degree):
    """All ones times the largest words: coefficient i is (2 i + 2 - N) (2**64 - 1), every limb at its bound."""
    words = np.full(degree, (1 << 64) - 1, dtype=np.uint64)
    ring = Negacyclic(degree)
    product = negacyclic_product(ring, words, ring.spectrum(np.ones(degree)))
    expected = [-(2 * i + 2 - degree) % (1 << 64) for i in range(degree)]
    assert product.tolist() == expected


def test_the_key_multiplies_as_decryption_does(key):
    """The unrounded phase of an encryption is its message, up to fresh noise and switching."""
    context = key.context
    k, bits = context.parameters.plain_bits, 64
    rng = np.random.default_rng(3)
    message = rng.integers(-(1 << k - 1), 1 << k - 1, context.degree)
    zero = key.encrypt_zero()
    first = add_mod(zero[0], scale_up(message, context.primes, k), context.primes)
    phase = switch_to_words(first, context.primes, bits) + key.multiply(switch_to_words(zero[1], context.primes, bits))
    error = (phase - (message.view(np.uint64) << np.uint64(bits - k))).view(np.int64)
    assert 0 < np.abs(error).max() <= len(context.primes) * (context.degree + 1) + 1


def test_the_noise_of_a_phase_is_kept(key):
    """Nothing is rounded away: an error put into the first part comes out, scaled."""
    context = key.context
    zero = key.encrypt_zero()
    unit = context.modulus // (1 << 20)
    moved = add_mod(zero[0], np.array([[unit % p] for p in context.primes], dtype=np.uint64), context.primes)
    second = key.multiply(switch_to_words(zero[1], context.primes, 64))
    before, after = (switch_to_words(part, context.primes, 64) + second for part in (zero[0], moved))
    assert np.abs((after - before - np.uint64(1 << 44)).view(np.int64)).max() <= 2 * len(context.primes)
