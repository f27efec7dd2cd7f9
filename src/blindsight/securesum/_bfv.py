"""Sums under BFV: vectors as coefficients modulo ``2**k``, encrypted under a key that all parties share.

Brakerski (CRYPTO 2012) and Fan and Vercauteren (ePrint 2012/144), secret-key variant, N = 4096. A vector of 64 bits
is cut into two digits of 32, so that the digits' sums stay below ``2**(k - 1)``.

A message m is encrypted as ``floor(q / t) m`` plus a fresh encryption of zero. ``floor(q / t)`` is an integer, so
that the phase of a sum of ciphertexts is ``floor(q / t)`` times the *sum* of the messages plus a sum of noise that
was drawn independently of every message: whoever holds the key and gets the sum learns the sum of the messages and
nothing else of them, exactly and without flooding. (The usual ``round(q m / t)`` leaves a rounding error of each term
in the sum.) This costs k bits of q: it must exceed ``t**2``, about.

With two digits these are two sums, of the low digits and of the high ones, which tell whoever decrypts more than the
total does: how often the low digits carried, one of n numbers for each coordinate. Where every ``|value| < 2**31`` all
high digits are 0 and nothing more is told.
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
DIGIT_BITS = 32
PRIMES = 2
MAX_FRESH_NOISE = 21
"""Largest coefficient of SEAL's centred binomial errors."""


@functools.lru_cache(maxsize=8)
def _context(plain_bits: int) -> HeContext:
    """SEAL's side of one parameter set: primes of k + 1 bits, so that q is about ``4 t**2``."""
    prime_bits = (plain_bits + 1,) * PRIMES
    return HeContext(
        HeParameters(
            degree=DEGREE,
            prime_bits=prime_bits,
            special_bits=min(30, MAX_MODULUS_BITS[DEGREE] - sum(prime_bits)),
            plain_bits=plain_bits,
        )
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
        n = len(spec.participants)
        self.digits = spec.bits // DIGIT_BITS
        # digits are centred: |digit| <= 2**31, and their sums are below 2**(k - 1)
        self.plain_bits = DIGIT_BITS if self.digits == 1 else DIGIT_BITS + n.bit_length()
        self.width = -(-(self.plain_bits + 1) // 8)
        self.blocks = -(-spec.length * self.digits // DEGREE)
        self.secret_bytes = MATERIAL_BYTES + DEGREE // 4
        self.public_bytes = 0
        self.block_bytes = SEED_BYTES + PRIMES * DEGREE * self.width
        self.cipher_bytes = self.blocks * self.block_bytes + tag_bytes(PRIMES)
        self.sum_bytes = self.blocks * 2 * PRIMES * DEGREE * self.width + tag_bytes(PRIMES)

    @property
    def context(self) -> HeContext:
        """SEAL's side, made when first needed."""
        return _context(self.plain_bits)

    def check_installed(self) -> None:
        """Raise MissingExtraError without SEAL; ProtocolError if the sum's noise could reach a message."""
        context = self.context
        n, modulus = len(self.spec.participants), context.modulus
        # phase = floor(q / t) m + e; rounding t / q of it gives m while |e| + (q mod t) |m| / t + 1 < q / 2t
        worst = n * MAX_FRESH_NOISE + (1 << (self.plain_bits - 1)) + 1
        if worst >= modulus >> (self.plain_bits + 1):
            raise ProtocolError("The noise of an encrypted sum could reach the messages", got=f"{modulus.bit_length()}")

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
        return f"BfvScheme({self.blocks} ciphertexts, t = 2**{self.plain_bits})"


class BfvKey:
    """A party's copy of the shared key."""

    def __init__(self, scheme: BfvScheme, key: SecretKey, mac: LinearMac) -> None:
        self._scheme, self._key, self._mac = scheme, key, mac

    def encrypt(self, name: str, vector: Ints) -> bytes:
        """Blocks of seed and first part, then the tag."""
        scheme, context = self._scheme, self._scheme.context
        primes, scale = context.primes, context.modulus >> scheme.plain_bits
        written: list[bytes] = []

        def ciphertexts() -> Iterator[Residues]:
            for block in _coefficients(vector, scheme):
                seed, c0 = self._key.encrypt_zero_seeded()
                scaled = np.stack(
                    [multiply_constant(np.mod(block, np.int64(p)).astype(np.uint64), scale % p, p) for p in primes]
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


def _coefficients(vector: Ints, scheme: BfvScheme) -> Iterator[Ints]:
    """Plaintext polynomials, shape (N,): all low digits, then all high ones, zeros after them."""
    flat = np.zeros(scheme.blocks * DEGREE, dtype=np.int64)
    if scheme.digits == 1:
        flat[: vector.size] = vector
    else:
        half = 1 << (DIGIT_BITS - 1)
        low = ((vector + half) & ((1 << DIGIT_BITS) - 1)) - half
        flat[: vector.size] = low
        flat[vector.size : 2 * vector.size] = (vector - low) >> DIGIT_BITS
    yield from flat.reshape(scheme.blocks, DEGREE)


def _total(flat: Ints, scheme: BfvScheme) -> Ints:
    length = scheme.spec.length
    if scheme.digits == 1:
        return flat[:length].copy()
    # modulo 2**64; what honest parties can reach does not wrap, and the caller checks the bound
    return flat[:length] + (flat[length : 2 * length] << DIGIT_BITS)


def _pack_ternary(coefficients: npt.NDArray[np.int8]) -> bytes:
    codes = (coefficients.astype(np.uint8) & 3).reshape(-1, 4)  # 0, 1, and 3 for -1
    return (codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6).astype(np.uint8).tobytes()


def _unpack_ternary(raw: bytes) -> npt.NDArray[np.int8]:
    packed = np.frombuffer(raw, dtype=np.uint8)
    codes = np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).reshape(-1)
    if (codes == 2).any():
        raise FormatError("A shared key is malformed", rule="coefficients of -1, 0 or 1")
    return np.where(codes == 3, -1, codes).astype(np.int8)
