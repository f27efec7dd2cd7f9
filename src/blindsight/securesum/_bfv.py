"""Sums under BFV: vectors modulo two primes as coefficients, encrypted under a key that all parties share.

Brakerski (CRYPTO 2012) and Fan and Vercauteren (ePrint 2012/144), secret-key variant, N = 4096, with the ciphertext
modulus ``q = p_0 p_1`` and one of its own primes as the plaintext modulus: p_0 for vectors of 32 bits; for 64 bits each
coordinate is encrypted twice, modulo p_0 and modulo p_1, and the total follows by the Chinese remainder theorem.

A message m modulo p_j is encrypted as ``(q / p_j) m`` plus a fresh encryption of zero. As p_j divides q, the phase of a
sum of ciphertexts is ``(q / p_j) (sum of the messages modulo p_j)`` plus a sum of noise that was drawn independently of
every message: whoever holds the key and gets the sum learns the total and nothing else of the terms, exactly and
without flooding. (The usual ``round(q m / t)`` leaves a rounding error of each term in the sum; and a modulus t that
does not divide q, or digits that carry, show how often the terms went beyond it.)
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from blindsight.errors import FormatError, ProtocolError, WireError
from blindsight.he import (
    MAX_MODULUS_BITS,
    SEED_BYTES,
    HeContext,
    HeParameters,
    SecretKey,
    add_mod,
    check_residues,
    multiply_constant,
    pack_residues,
    unpack_residues,
)

from ._linear_mac import TAG_WORDS, LinearMac, add_tags, tag_bytes
from ._scheme import MATERIAL_BYTES, not_their_sum
from ._spec import SumSpec

__all__ = ["BfvScheme"]

Residues = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

DEGREE = 4096
PRIMES = 2
PRIME_BITS = 33
"""One prime exceeds ``2**32``, and so twice every total of 32 bits; both together ``2**64``."""
READ_BITS = PRIME_BITS + 3
"""SEAL, whose plaintext modulus it is, gives phases in parts of ``2**READ_BITS``, and so messages to an eighth."""
MAX_FRESH_NOISE = 21
"""Largest coefficient of SEAL's centred binomial errors."""


@functools.cache
def _context() -> HeContext:
    """SEAL's side."""
    prime_bits = (PRIME_BITS,) * PRIMES
    special_bits = min(30, MAX_MODULUS_BITS[DEGREE] - sum(prime_bits))
    return HeContext(
        HeParameters(degree=DEGREE, prime_bits=prime_bits, special_bits=special_bits, plain_bits=READ_BITS)
    )


class BfvScheme:
    """BFV for one specification.

    Parameters
    ----------
    spec : SumSpec

    Security
    --------
    128 bits by the Homomorphic Encryption Standard's table, with room to spare: no ciphertext or key is ever published
    under SEAL's key-switching prime. Decryption cannot fail: the noise of the sum is bounded in the worst case, not on
    average, so that attacks by decryption failures (Cheon et al., CRYPTO 2024) have nothing to work with.
    """

    def __init__(self, spec: SumSpec) -> None:
        self.spec = spec
        self.moduli = spec.bits // 32
        """Primes that each coordinate is encrypted modulo."""
        self.width = -(-PRIME_BITS // 8)
        self.blocks = -(-spec.length * self.moduli // DEGREE)
        self.secret_bytes = MATERIAL_BYTES + DEGREE // 4
        self.public_bytes = 0
        self.block_bytes = SEED_BYTES + PRIMES * DEGREE * self.width
        self.cipher_bytes = self.blocks * self.block_bytes + tag_bytes(PRIMES)
        self.sum_bytes = self.blocks * 2 * PRIMES * DEGREE * self.width + tag_bytes(PRIMES)

    @property
    def context(self) -> HeContext:
        """SEAL's side, made when first needed."""
        return _context()

    def check_installed(self) -> None:
        """Raise MissingExtraError without SEAL; ProtocolError if the sum's noise could reach a message."""
        # phase = (q / p) m + e; what SEAL reads is off by an eighth of m's unit at most, and e by |e| p / q
        worst = len(self.spec.participants) * MAX_FRESH_NOISE
        if 8 * worst >= min(self.context.primes):
            raise ProtocolError("The noise of an encrypted sum could reach the messages", got=str(worst))

    def generate(self) -> tuple[bytes, bytes]:
        """A fresh secret: 32 uniform bytes, then SEAL's ternary key, four coefficients a byte."""
        return os.urandom(MATERIAL_BYTES) + _pack_ternary(SecretKey.generate(self.context).ternary()), b""

    def public_of(self, secret: bytes) -> bytes:  # noqa: ARG002 - of the interface
        """Nothing: adding residues needs no key."""
        return b""

    def open(self, secret: bytes, transcript: bytes) -> BfvKey:
        """Parse a secret.

        Raises
        ------
        FormatError
            Another length, no ternary polynomial, or one that is nearly all zeros.
        """
        if len(secret) != self.secret_bytes:
            raise FormatError("A shared key has the wrong length", got=str(len(secret)), rule=str(self.secret_bytes))
        key = SecretKey.from_ternary(self.context, _unpack_ternary(secret[MATERIAL_BYTES:]))
        return BfvKey(self, key, LinearMac(secret[:MATERIAL_BYTES], transcript, self.context.primes))

    def accumulator(self, public: bytes) -> BfvAccumulator:
        """An empty sum."""
        if public:
            raise WireError("A BFV sum has no public key", got=f"{len(public)} bytes", rule="none")
        return BfvAccumulator(self)

    def unpack_tag(self, raw: bytes | memoryview) -> Residues:
        """A tag, shape (primes, words); WireError unless it is reduced."""
        tag = np.frombuffer(raw, dtype="<u8").astype(np.uint64).reshape(PRIMES, TAG_WORDS)
        check_residues(tag, self.context.primes)
        return tag

    def __repr__(self) -> str:
        return f"BfvScheme({self.blocks} ciphertexts, {self.moduli} messages a coordinate)"


class BfvKey:
    """A party's copy of the shared key."""

    def __init__(self, scheme: BfvScheme, key: SecretKey, mac: LinearMac) -> None:
        self._scheme, self._key, self._mac = scheme, key, mac

    def encrypt(self, name: str, vector: Ints) -> bytes:
        """Blocks of seed and first part, then the tag."""
        scheme, context = self._scheme, self._scheme.context
        primes, modulus = context.primes, context.modulus
        written: list[bytes] = []

        def ciphertexts() -> Iterator[Residues]:
            for block in _coefficients(vector, scheme):
                seed, c0 = self._key.encrypt_zero_seeded()
                # (q / p) m is 0 modulo the other prime
                scaled = np.stack(
                    [multiply_constant(row, modulus // p, p) for row, p in zip(block, primes, strict=True)]
                )
                c0 = add_mod(c0, scaled, primes)
                written.append(seed + pack_residues(c0, scheme.width))
                yield context.expand(seed, c0)

        tag = self._mac.tag(name, ciphertexts())
        return b"".join(written) + tag.astype("<u8").tobytes()

    def decrypt(self, total: bytes, survivors: tuple[str, ...]) -> Ints:
        """The total, once the tag says that this is the sum of exactly the survivors' ciphertexts."""
        scheme, context = self._scheme, self._scheme.context
        if len(total) != scheme.sum_bytes:
            raise WireError(
                "An encrypted sum has the wrong length", got=f"{len(total)} bytes", rule=str(scheme.sum_bytes)
            )
        size = tag_bytes(PRIMES)
        parts = unpack_residues(memoryview(total)[:-size], (scheme.blocks, 2, PRIMES, DEGREE), scheme.width)
        parts = parts.astype(np.uint64, copy=False)
        check_residues(parts, context.primes)
        if not self._mac.holds(scheme.unpack_tag(total[-size:]), parts, survivors):
            raise not_their_sum("its tag equals the sum of theirs")
        flat = np.concatenate([self._key.decrypt(block) for block in parts])
        return _total(flat, scheme)

    def __repr__(self) -> str:
        return "BfvKey(<redacted>)"


class BfvAccumulator:
    """Sum of ciphertexts modulo the primes, in NumPy; SEAL only expands seeds."""

    def __init__(self, scheme: BfvScheme) -> None:
        self._scheme = scheme
        self._parts = np.zeros((scheme.blocks, 2, PRIMES, DEGREE), dtype=np.uint64)
        self._tag = np.zeros((PRIMES, TAG_WORDS), dtype=np.uint64)

    def add(self, ciphertext: bytes) -> None:
        """Check every residue, then add."""
        scheme, context = self._scheme, self._scheme.context
        if len(ciphertext) != scheme.cipher_bytes:
            raise WireError(
                "An encrypted vector has the wrong length",
                got=f"{len(ciphertext)} bytes",
                rule=str(scheme.cipher_bytes),
            )
        view = memoryview(ciphertext)
        tag = scheme.unpack_tag(view[scheme.blocks * scheme.block_bytes :])
        seeds, firsts = [], []
        for start in range(0, scheme.blocks * scheme.block_bytes, scheme.block_bytes):
            seeds.append(bytes(view[start : start + SEED_BYTES]))
            c0 = unpack_residues(
                view[start + SEED_BYTES : start + scheme.block_bytes], (PRIMES, DEGREE), scheme.width
            ).astype(np.uint64, copy=False)
            check_residues(c0, context.primes)
            firsts.append(c0)
        # all of it is well-formed: only now does the total change
        for i, (seed, c0) in enumerate(zip(seeds, firsts, strict=True)):
            self._parts[i] = add_mod(self._parts[i], context.expand(seed, c0), context.primes)
        self._tag = add_tags(self._tag, tag, context.primes)

    def to_bytes(self) -> bytes:
        """Both parts of every block, then the sum of the tags."""
        return pack_residues(self._parts, self._scheme.width) + self._tag.astype("<u8").tobytes()


def _coefficients(vector: Ints, scheme: BfvScheme) -> Iterator[Residues]:
    """Messages of each block, shape (primes, N): first all coordinates modulo p_0, then all modulo p_1, then zeros.

    A coefficient holds a message modulo one prime, in that prime's row.
    """
    rows = np.zeros((PRIMES, scheme.blocks * DEGREE), dtype=np.uint64)
    for j in range(scheme.moduli):
        rows[j, j * vector.size : (j + 1) * vector.size] = np.mod(vector, np.int64(scheme.context.primes[j]))
    yield from rows.reshape(PRIMES, scheme.blocks, DEGREE).swapaxes(0, 1)


def _messages(flat: Ints, scheme: BfvScheme) -> list[Ints]:
    """The total modulo each prime in use, from what SEAL read, shape (blocks * N,)."""
    length = scheme.spec.length
    return [
        np.rint(flat[j * length : (j + 1) * length] * (p / (1 << READ_BITS))).astype(np.int64) % p
        for j, p in enumerate(scheme.context.primes[: scheme.moduli])
    ]


def _total(flat: Ints, scheme: BfvScheme) -> Ints:
    """The total from what SEAL read; WireError where it is none of 64 bits."""
    found, primes = _messages(flat, scheme), scheme.context.primes
    p = primes[0]
    if scheme.moduli == 1:
        return np.where(found[0] > p // 2, found[0] - p, found[0])
    other = primes[1]
    difference = np.mod(found[1] - found[0], np.int64(other)).astype(np.uint64)
    factor = multiply_constant(difference, pow(p, -1, other), other).astype(np.int64)  # total = found[0] + p factor
    factor = np.where(factor > other // 2, factor - other, factor)
    total = found[0] + np.int64(p) * factor  # modulo 2**64; what honest parties can reach does not wrap
    if np.abs(total - (found[0] + p * factor.astype(np.float64))).max() > 2.0**32:
        raise WireError("The total is larger than honest parties can make it", rule="below 2**63")
    return total


def _pack_ternary(coefficients: npt.NDArray[np.int8]) -> bytes:
    codes = (coefficients.astype(np.uint8) & 3).reshape(-1, 4)  # 0, 1, and 3 for -1
    return (codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6).astype(np.uint8).tobytes()


def _unpack_ternary(raw: bytes) -> npt.NDArray[np.int8]:
    packed = np.frombuffer(raw, dtype=np.uint8)
    codes = np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).reshape(-1)
    if (codes == 2).any():
        raise FormatError("A shared key is malformed", rule="coefficients of -1, 0 or 1")
    return np.where(codes == 3, -1, codes).astype(np.int8)
