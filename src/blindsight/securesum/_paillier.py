"""Sums under Paillier's scheme (EUROCRYPT 1999), 3072 bits, many coordinates in one plaintext.

Coordinates are shifted by ``max_abs``, so that none is negative, and laid side by side in slots of ``bits`` bits. The
sum of n such values is at most ``2 n max_abs < 2**bits``: no slot carries into the next one.

A party's randomness is derived from the secret that travels with the key, so that every party can tell what the product
of the survivors' randomness is. A party that is asked to decrypt c takes its plaintext m, and goes on only if
``(1 + m N) R**N = c`` for that product R: it re-encrypts. As every unit modulo N**2 is ``(1 + m N) R**N`` for one
pair (m, R), this holds exactly where c differs from the true sum by a factor ``1 + a N``, and then a, by which the
total is off, is known to whoever chose c. So what a party answers tells a coordinator nothing but the total; nor does a
refusal, since c passes exactly where it equals the product of the survivors' ciphertexts modulo N, which a coordinator
can compute for itself. (That no two pairs give one unit needs N and (p - 1)(q - 1) to be coprime: ``open`` checks it.)
"""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import FormatError, MissingExtraError, WireError

from ._agreement import derive
from ._keystream import Keystream
from ._scheme import MATERIAL_BYTES, not_their_sum
from ._spec import SumSpec

__all__ = ["PaillierScheme"]

Ints = npt.NDArray[np.int64]

KEY_BITS = 3072
"""128-bit security (NIST SP 800-57 part 1, table 2)."""
PRIME_BYTES = KEY_BITS // 16
MODULUS_BYTES = KEY_BITS // 8
CIPHER_BYTES = 2 * MODULUS_BYTES
PLAIN_BITS = KEY_BITS - 2
"""Below N / 2 for every N of 3072 bits."""
_EXTRA_BYTES = 16
"""Randomness is 128 bits longer than N before it is reduced: 2**-128 from uniform."""
_ROUNDS = 30


def _load() -> tuple[Any, Any]:
    """Import phe and gmpy2, or say how to install them; without gmpy2 phe would be some thirty times slower."""
    try:
        import gmpy2
        from phe import paillier
    except ImportError as error:
        raise MissingExtraError(
            "Sums under Paillier's scheme need phe and gmpy2", fix="pip install 'blindsight[paillier]'"
        ) from error
    return paillier, gmpy2


class PaillierScheme:
    """Paillier for one specification.

    Parameters
    ----------
    spec : SumSpec
    """

    def __init__(self, spec: SumSpec) -> None:
        self.spec = spec
        self.slots = PLAIN_BITS // spec.bits
        self.blocks = -(-spec.length // self.slots)
        self.secret_bytes = MATERIAL_BYTES + 2 * PRIME_BYTES
        self.public_bytes = MODULUS_BYTES
        self.cipher_bytes = self.sum_bytes = self.blocks * CIPHER_BYTES

    def check_installed(self) -> None:
        """Raise MissingExtraError without phe and gmpy2."""
        _load()

    def generate(self) -> tuple[bytes, bytes]:
        """A fresh secret, 32 uniform bytes and both primes, big-endian, the smaller first; and their product."""
        paillier, _ = _load()
        public, private = paillier.generate_paillier_keypair(n_length=KEY_BITS)
        primes = sorted((int(private.p), int(private.q)))
        secret = os.urandom(MATERIAL_BYTES) + b"".join(prime.to_bytes(PRIME_BYTES, "big") for prime in primes)
        return secret, int(public.n).to_bytes(MODULUS_BYTES, "big")

    def public_of(self, secret: bytes) -> bytes:
        """N, big-endian; FormatError for what is no secret."""
        p, q = self._primes(secret)
        return (p * q).to_bytes(MODULUS_BYTES, "big")

    def open(self, secret: bytes, transcript: bytes) -> PaillierKey:
        """Parse a secret.

        Raises
        ------
        FormatError
            Another length; not two different primes, in order, whose product has 3072 bits.
        """
        _, gmpy2 = _load()
        p, q = self._primes(secret)
        if not (p < q and (p * q).bit_length() == KEY_BITS and math.gcd(p * q, (p - 1) * (q - 1)) == 1):
            raise FormatError(
                "A shared key is malformed", rule=f"p < q; p q has {KEY_BITS} bits and is coprime to (p - 1)(q - 1)"
            )
        if not (gmpy2.is_prime(p, _ROUNDS) and gmpy2.is_prime(q, _ROUNDS)):
            raise FormatError("A shared key is malformed", rule="p and q are primes")
        return PaillierKey(self, p, q, derive(secret[:MATERIAL_BYTES], transcript, "paillier randomness"), transcript)

    def _primes(self, secret: bytes) -> tuple[int, int]:
        if len(secret) != self.secret_bytes:
            raise FormatError("A shared key has the wrong length", got=str(len(secret)), rule=str(self.secret_bytes))
        middle = MATERIAL_BYTES + PRIME_BYTES
        return int.from_bytes(secret[MATERIAL_BYTES:middle], "big"), int.from_bytes(secret[middle:], "big")

    def accumulator(self, public: bytes) -> PaillierAccumulator:
        """An empty sum; WireError unless the public part is an odd number of 3072 bits."""
        modulus = int.from_bytes(public, "big")
        if len(public) != MODULUS_BYTES or modulus.bit_length() != KEY_BITS or modulus % 2 == 0:
            raise WireError(
                "A Paillier key is malformed", got=f"{modulus.bit_length()} bits", rule=f"odd, {KEY_BITS} bits"
            )
        return PaillierAccumulator(self, modulus)

    def parse(self, raw: bytes, modulus: int) -> list[int]:
        """Ciphertexts from bytes, each a unit modulo N**2.

        Raises
        ------
        WireError
            Another length, or a value that is 0, not below N**2, or shares a factor with N.
        """
        if len(raw) != self.cipher_bytes:
            raise WireError(
                "An encrypted vector has the wrong length", got=f"{len(raw)} bytes", rule=str(self.cipher_bytes)
            )
        values = [int.from_bytes(raw[at : at + CIPHER_BYTES], "big") for at in range(0, len(raw), CIPHER_BYTES)]
        square = modulus * modulus
        for value in values:
            if not 1 <= value < square or math.gcd(value, modulus) != 1:
                raise WireError("A Paillier ciphertext is out of its range", rule="a unit below N**2")
        return values

    def __repr__(self) -> str:
        return f"PaillierScheme({self.blocks} ciphertexts of {self.slots} coordinates)"


class PaillierKey:
    """A party's copy of the shared key."""

    def __init__(self, scheme: PaillierScheme, p: int, q: int, random_key: bytes, transcript: bytes) -> None:
        paillier, _ = _load()
        self._scheme = scheme
        self._public = paillier.PaillierPublicKey(p * q)
        self._private = paillier.PaillierPrivateKey(self._public, p, q)
        self._random_key, self._transcript = random_key, transcript

    def _randomness(self, name: str) -> Iterable[int]:
        """A party's r for each of its ciphertexts."""
        stream = Keystream(derive(self._random_key, self._transcript, "paillier randomness of", name.encode()))
        for _ in range(self._scheme.blocks):
            # a multiple of p or q, which would be no unit, has a probability of 2**-1535
            yield int.from_bytes(stream.take(MODULUS_BYTES + _EXTRA_BYTES), "little") % self._public.n

    def encrypt(self, name: str, vector: Ints) -> bytes:
        """Ciphertexts, big-endian, 768 bytes each."""
        plain = _pack(vector, self._scheme)
        randomness = self._randomness(name)
        return b"".join(
            self._public.raw_encrypt(m, r_value=r).to_bytes(CIPHER_BYTES, "big")
            for m, r in zip(plain, randomness, strict=True)
        )

    def decrypt(self, total: bytes, survivors: tuple[str, ...]) -> Ints:
        """The total, once re-encryption under the survivors' randomness gives what was sent."""
        modulus = self._public.n
        ciphertexts = self._scheme.parse(total, modulus)
        products = [1] * self._scheme.blocks
        for name in survivors:
            products = [one * r % modulus for one, r in zip(products, self._randomness(name), strict=True)]
        plain = []
        for ciphertext, randomness in zip(ciphertexts, products, strict=True):
            message = int(self._private.raw_decrypt(ciphertext))
            again = int(self._public.raw_encrypt(message, r_value=randomness))
            if not hmac.compare_digest(again.to_bytes(CIPHER_BYTES, "big"), ciphertext.to_bytes(CIPHER_BYTES, "big")):
                raise not_their_sum("its randomness is the product of theirs")
            plain.append(message)
        return _unpack(plain, self._scheme, len(survivors))

    def __repr__(self) -> str:
        return "PaillierKey(<redacted>)"


class PaillierAccumulator:
    """Product of ciphertexts modulo N**2: the sum of what is in them."""

    def __init__(self, scheme: PaillierScheme, modulus: int) -> None:
        _, gmpy2 = _load()
        self._scheme, self._modulus = scheme, modulus
        self._square = gmpy2.mpz(modulus) ** 2
        self._products = [gmpy2.mpz(1)] * scheme.blocks

    def add(self, ciphertext: bytes) -> None:
        """Check every ciphertext, then multiply."""
        values = self._scheme.parse(ciphertext, self._modulus)
        self._products = [one * value % self._square for one, value in zip(self._products, values, strict=True)]

    def to_bytes(self) -> bytes:
        """The products, big-endian."""
        return b"".join(int(value).to_bytes(CIPHER_BYTES, "big") for value in self._products)


def _slot_type(scheme: PaillierScheme) -> np.dtype[Any]:
    return np.dtype("<u4" if scheme.spec.bits == 32 else "<u8")


def _pack(vector: Ints, scheme: PaillierScheme) -> list[int]:
    """Plaintexts: ``slots`` shifted coordinates each, little-endian; zeros after the last."""
    padded = np.zeros(scheme.blocks * scheme.slots, dtype=_slot_type(scheme))
    padded[: vector.size] = vector + scheme.spec.max_abs
    return [int.from_bytes(row.tobytes(), "little") for row in padded.reshape(scheme.blocks, scheme.slots)]


def _unpack(plain: list[int], scheme: PaillierScheme, parties: int) -> Ints:
    """The total; WireError where honest parties' slots cannot hold what is there."""
    kind = _slot_type(scheme)
    size = scheme.slots * kind.itemsize
    if any(message >> (8 * size) for message in plain):
        raise _overflow(scheme)
    slots = np.frombuffer(b"".join(message.to_bytes(size, "little") for message in plain), dtype=kind)
    slots = slots.astype(np.uint64)
    shift = parties * scheme.spec.max_abs
    used, rest = slots[: scheme.spec.length], slots[scheme.spec.length :]
    if rest.any() or int(used.max()) > 2 * shift:
        raise _overflow(scheme)
    return (used - np.uint64(shift)).view(np.int64)  # modulo 2**64: what is below the shift becomes negative


def _overflow(scheme: PaillierScheme) -> WireError:
    return WireError(
        "The total is larger than honest parties can make it",
        rule=f"each of {scheme.slots} slots of {scheme.spec.bits} bits holds a sum of shifted coordinates",
    )
