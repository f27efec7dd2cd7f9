"""CKKS behind arrays: what is encrypted is decrypted, products included; transforms are exact; SEAL agrees."""

import numpy as np
import pytest

from blindsight.errors import FormatError, ParameterError, WireError
from blindsight.he import CkksContext, CkksHeParameters, CkksKey, centred, slots_of
from blindsight.he._negacyclic import Negacyclic

SCALE = 2.0**30


@pytest.fixture(scope="module")
def context():
    return CkksContext(CkksHeParameters(degree=8192, count=5, kept=2))


@pytest.fixture(scope="module")
def key(context):
    return CkksKey.generate(context)


def values(n, seed=0):
    return np.random.default_rng(seed).normal(size=n)


@pytest.mark.parametrize("seeded", [False, True])
def test_round_trip(context, key, seeded):
    x = values(4096)
    parts = context.expand(*key.encrypt_seeded(x, 2.0**120)) if seeded else key.encrypt(x, 2.0**120)
    down = context.switch_down(parts)
    scale = 2.0**120 / np.prod([float(p) for p in context.primes[2:]])
    found = slots_of(centred(key.phase(down), context.kept_primes), 4096) / scale
    assert np.abs(found - x).max() < 50_000 / scale  # rounding, times the key


def test_products_of_four_parts_more(context, key):
    """Five parts: the fourth power, without a relinearisation."""
    x = values(4096, 1).clip(-1.5, 1.5)
    c = [key.encrypt(x, 4 * SCALE)]
    p = np.array(context.primes, dtype=np.uint64)[:, None]
    square = np.stack([c[0][0] * c[0][0] % p, 2 * (c[0][0] * c[0][1] % p) % p, c[0][1] * c[0][1] % p])
    fourth = np.zeros((5, *square.shape[1:]), dtype=np.uint64)
    for i in range(3):
        for j in range(3):
            fourth[i + j] = (fourth[i + j] + square[i] * square[j] % p) % p
    scale = (4 * SCALE) ** 4 / np.prod([float(q) for q in context.primes[2:]])
    found = slots_of(centred(key.phase(context.switch_down(fourth)), context.kept_primes), 4096) / scale
    # rounding in the switch, times the fourth power of the key, is what is left at a scale of 2**47
    assert np.abs(found - x**4).max() < 1e-2


def test_seals_own_decoding_agrees(context, key):
    x = values(4096, 2)
    seal, decryptor = key._seal, key._seal.Decryptor(context.seal_context, key._key)
    plain, opened, cipher = seal.Plaintext(), seal.Plaintext(), seal.Ciphertext()
    key._encoder.encode(x.tolist(), SCALE, plain)
    key._encryptor.encrypt_symmetric(plain, cipher)
    for _ in range(3):
        context.evaluator.mod_switch_to_next_inplace(cipher)
    decryptor.decrypt(cipher, opened)
    theirs = np.array(key._encoder.decode_double(opened))
    cipher.save(context.scratch.path)
    parts = context.coefficients(context.format.read_ciphertext(context.scratch.read(), ntt=True))
    ours = slots_of(centred(key.phase(parts), context.kept_primes), 4096) / SCALE
    assert np.abs(ours - theirs).max() < 1e-12


def test_encryptions_of_zero(context, key):
    zero = context.expand_zero(*key.encrypt_zero_seeded())
    noise = centred(key.phase(zero), context.kept_primes)
    assert 0 < np.abs(noise).max() <= 21
    assert set(np.unique(key.secret())) == {-1, 0, 1}


def test_keys_survive_storing(context, key):
    again = CkksKey.from_bytes(context, key.to_bytes())
    assert np.array_equal(again.secret(), key.secret())
    for damaged in (key.to_bytes()[:-8], b"\xff" * len(key.to_bytes())):
        with pytest.raises(FormatError):
            CkksKey.from_bytes(context, damaged)


def test_untrusted_parts_are_checked(context, key):
    seed, b = key.encrypt_zero_seeded()
    with pytest.raises(WireError):
        context.expand_zero(seed[:-1], b)
    with pytest.raises(WireError):
        context.expand_zero(seed, b[:1])
    large = b.copy()
    large[0, 5] = context.primes[0]
    with pytest.raises(WireError, match="not reduced"):
        context.expand_zero(seed, large)
    seed, c0 = key.encrypt_seeded(np.zeros(4096), SCALE)
    large = c0.copy()
    large[-1, 5] = context.primes[-1]
    for wrong in (large, c0[:1], c0[:, :-1]):
        with pytest.raises(WireError):
            context.expand(seed, wrong)


@pytest.mark.parametrize(
    "change", [{"degree": 4096}, {"count": 8}, {"kept": 6}, {"kept": 0}, {"degree": 16384, "count": 16}]
)
def test_insecure_parameters_are_refused(change):
    with pytest.raises(ParameterError):
        CkksHeParameters(**{"degree": 8192, "count": 5, "kept": 2, **change})


@pytest.mark.parametrize(("degree", "count"), [(8192, 7), (16384, 15)])
def test_our_primes_are_seals(degree, count):
    parameters = CkksHeParameters(degree=degree, count=count, kept=1)
    assert CkksContext(parameters).primes == parameters.primes


@pytest.mark.parametrize("degree", [8192, 16384])
def test_products_are_exact(degree):
    """Against integer arithmetic, at the largest values that come up, sixteen terms at once."""
    primes = CkksHeParameters(degree=degree, count=2, kept=2).primes
    ring, rng = Negacyclic(degree, primes), np.random.default_rng(0)
    short = rng.integers(-(2**15), 2**15, (16, degree))
    long = np.stack([rng.integers(p - 2**10, p, (16, degree), dtype=np.uint64) for p in primes], axis=1)
    long[:8] = np.stack([rng.integers(0, p, (8, degree), dtype=np.uint64) for p in primes], axis=1)
    found = ring.sum_of_products(ring.spectrum(short), ring.digits(long))
    at = [0, 1, degree // 2, degree - 1]
    for row, p in enumerate(primes):
        for k in at:
            total = 0
            for u, a in zip(short.tolist(), long[:, row].tolist(), strict=True):
                # coefficient k of the product modulo X**N + 1
                total += sum(u[i] * a[k - i] for i in range(k + 1))
                total -= sum(u[i] * a[degree + k - i] for i in range(k + 1, degree))
            assert found[row, k] == total % p


def test_centred_integers():
    primes = (132825089, 133251073, 133513217)
    modulus = primes[0] * primes[1] * primes[2]
    numbers = [0, 1, -1, 12345678901234567, -(2**79), modulus // 2 - 2**60, -(modulus // 2) + 2**60]
    residues = np.array([[n % p for n in numbers] for p in primes], dtype=np.uint64)
    assert centred(residues, primes).tolist() == pytest.approx([float(n) for n in numbers], rel=2**-50)


@pytest.mark.parametrize("zero", [slice(0, 0), slice(1, 2), slice(1, 3), slice(0, 3)])
def test_the_random_constant_of_switching_down_is_taken_away_exactly(context, zero):
    """Parts that SEAL would refuse are switched like any other, and the same parts give the same answer."""
    rng = np.random.default_rng(1)
    parts = np.stack([[rng.integers(0, p, context.degree) for p in context.primes] for _ in range(3)]).astype(np.uint64)
    parts[zero] = 0
    switched = context.switch_down(parts)
    assert not switched[zero].any()
    assert np.array_equal(context.switch_down(parts), switched)
    kept = parts[:, : context.parameters.kept]
    assert np.array_equal(context.coefficients(kept), context.coefficients(kept))
    assert not context.coefficients(kept)[zero].any()
