"""SEAL behind arrays: encrypting, decrypting, products, and what it must refuse."""

import pickle

import numpy as np
import pytest

from blindsight.errors import CapacityError, FormatError, ParameterError, ProtocolError, WireError
from blindsight.he import HeContext, HeParameters, SecretKey, add_mod, scale_up

COLUMNS = HeParameters(degree=4096, prime_bits=(30, 30, 30), special_bits=17, plain_bits=36)
ROWS = HeParameters(degree=4096, prime_bits=(46, 46), special_bits=17, plain_bits=38)
WIDE = HeParameters(degree=8192, prime_bits=(46, 46, 46, 46), special_bits=17, plain_bits=56)


@pytest.fixture(scope="module", params=[COLUMNS, ROWS, WIDE], ids=["columns", "rows", "wide"])
def context(request):
    return HeContext(request.param)


@pytest.fixture(scope="module")
def key(context):
    return SecretKey.generate(context)


def encrypt(key: SecretKey, message: np.ndarray) -> np.ndarray:
    context = key.context
    parts = key.encrypt_zero().copy()
    parts[0] = add_mod(parts[0], scale_up(message, context.primes, context.parameters.plain_bits), context.primes)
    return parts


def negacyclic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Naive product modulo X**N + 1 for a sparse b."""
    out = np.zeros_like(a)
    for shift in np.flatnonzero(b):
        rolled = np.roll(a, shift)
        rolled[:shift] *= -1
        out += int(b[shift]) * rolled
    return out


def test_the_primes_are_those_that_were_asked_for(context):
    bits = context.parameters.prime_bits
    assert tuple(p.bit_length() for p in context.primes) == bits
    assert all(p % (2 * context.degree) == 1 for p in context.primes)
    assert context.modulus >= (511 << sum(bits)) >> 9


def test_round_trip(context, key):
    message = np.random.default_rng(0).integers(-(2**22), 2**22, context.degree)
    assert (key.decrypt(encrypt(key, message)) == message).all()


def test_seeded_zero_expands_to_an_encryption_of_zero(context, key):
    seed, c0 = key.encrypt_zero_seeded()
    parts = context.expand(seed, c0)
    assert (parts[0] == c0).all()
    assert (key.decrypt(parts) == 0).all()
    other_seed, _ = key.encrypt_zero_seeded()
    assert seed != other_seed
    assert (context.expand(other_seed, c0)[1] != parts[1]).mean() > 0.999
    large = c0.copy()
    large[-1, 5] = context.primes[-1]
    for wrong in (large, c0[:1], c0[:, :-1]):
        with pytest.raises(WireError):
            context.expand(seed, wrong)


def test_inner_product_against_the_naive_one(context, key):
    rng = np.random.default_rng(1)
    total, ciphers, plains = np.zeros(context.degree, dtype=np.int64), [], []
    for _ in range(3):
        message, weights = rng.integers(-50, 50, context.degree), np.zeros(context.degree, dtype=np.int64)
        weights[rng.integers(0, context.degree, 5)] = rng.integers(-1000, 1000, 5)
        total += negacyclic(message, weights)
        ciphers.append(context.prepare_cipher(context.ciphertext(encrypt(key, message))))
        plains.append(context.prepare_plain(weights))
    assert (key.decrypt(context.inner_product(ciphers, plains)) == total).all()


def test_a_zero_factor_contributes_nothing(context, key):
    cipher = context.prepare_cipher(context.ciphertext(key.encrypt_zero()))
    assert context.prepare_plain(np.zeros(context.degree, dtype=np.int64)) is None
    assert not context.inner_product([cipher], [None]).any()


def test_key_round_trip_and_redaction(context, key):
    message = np.arange(context.degree) - 100
    again = SecretKey.from_bytes(context, key.to_bytes())
    assert (again.decrypt(encrypt(key, message)) == message).all()
    assert "redacted" in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_a_key_comes_back_from_its_coefficients(context, key):
    coefficients = key.ternary()
    assert set(np.unique(coefficients)) == {-1, 0, 1}
    assert SecretKey.from_ternary(context, coefficients).to_bytes() == key.to_bytes()
    few = np.zeros_like(coefficients)
    few[: context.degree // 2 - 1] = 1
    for bad, words in ((coefficients[:-1], "-1, 0 or 1"), (2 * coefficients, "-1, 0 or 1"), (few, "nearly all zeros")):
        with pytest.raises(FormatError, match=words):
            SecretKey.from_ternary(context, bad)


def test_another_key_decrypts_to_noise(context, key):
    message = np.zeros(context.degree, dtype=np.int64)
    assert (SecretKey.generate(context).decrypt(encrypt(key, message)) == message).mean() < 0.01


def test_malformed_stored_keys_are_refused(context, key):
    data = bytearray(key.to_bytes())
    with pytest.raises(FormatError):
        SecretKey.from_bytes(context, bytes(data[:-8]))
    data[:8] = b"\xff" * 8
    with pytest.raises(FormatError):
        SecretKey.from_bytes(context, bytes(data))


def test_malformed_ciphertexts_are_refused_before_seal_sees_them(context, key):
    parts = key.encrypt_zero().copy()
    with pytest.raises(WireError, match="shape"):
        context.ciphertext(parts[:1])
    with pytest.raises(WireError, match="shape"):
        context.seeded_ciphertext(bytes(64), parts)
    with pytest.raises(WireError, match="transparent"):
        context.ciphertext(np.stack([parts[0], np.zeros_like(parts[0])]))
    with pytest.raises(WireError, match="seed"):
        context.seeded_ciphertext(bytes(63), parts[0])
    parts[1, 0, 5] = context.primes[0]
    with pytest.raises(WireError, match="not reduced"):
        context.ciphertext(parts)


def test_a_cancelling_product_is_a_protocol_error(context, key):
    cipher = context.prepare_cipher(context.ciphertext(key.encrypt_zero()))
    weights = np.zeros(context.degree, dtype=np.int64)
    weights[7] = 3
    with pytest.raises(ProtocolError, match="transparent"):
        context.inner_product([cipher, cipher], [context.prepare_plain(weights), context.prepare_plain(-weights)])


def test_a_factor_beyond_the_plaintext_modulus_is_refused(context):
    weights = np.zeros(context.degree, dtype=np.int64)
    weights[0] = context.parameters.plain_modulus // 2
    with pytest.raises(CapacityError):
        context.prepare_plain(weights)


@pytest.mark.parametrize(
    "change",
    [
        {"degree": 2048},
        {"prime_bits": (46, 47)},
        {"prime_bits": (46, 46, 20)},
        {"prime_bits": ()},
        {"special_bits": 18},
        {"special_bits": 8},
        {"plain_bits": 1},
        {"plain_bits": 59},
    ],
)
def test_insecure_or_unusable_parameters_are_refused(change):
    good = {"degree": 4096, "prime_bits": (46, 46), "special_bits": 17, "plain_bits": 30}
    HeParameters(**good)
    with pytest.raises(ParameterError):
        HeParameters(**{**good, **change})
