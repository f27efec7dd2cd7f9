"""Parameters of the CKKS scheme as it is used here: no key switching, exact products of residues, one switch down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from blindsight.errors import ParameterError

__all__ = ["CKKS_MODULUS_BITS", "CKKS_PRIME_BITS", "CkksHeParameters"]

CKKS_MODULUS_BITS = {8192: 218, 16384: 438}
"""Largest total bit length of the modulus at 128 bits of security: Homomorphic Encryption Standard, Table 1."""

CKKS_PRIME_BITS = 27
"""A residue times a weight below ``2**26`` is exact in float64; 1,024 products of centred ones, twice, fit an int64."""

CKKS_SPECIAL_BITS = 17
"""SEAL's key-switching prime, which it always takes away; nothing here switches keys."""


@lru_cache(maxsize=32)
def _primes(degree: int, count: int) -> tuple[int, ...]:
    """The ``count`` largest primes of 27 bits that are 1 modulo 2N, ascending, as ``CoeffModulus::Create`` has them."""
    divisors = np.arange(3, 1 << CKKS_PRIME_BITS // 2 + 1, 2)
    found: list[int] = []
    candidate = (1 << CKKS_PRIME_BITS) - 2 * degree + 1
    while len(found) < count:
        if (candidate % divisors).all():
            found.append(candidate)
        candidate -= 2 * degree
    return tuple(reversed(found))


@dataclass(frozen=True, kw_only=True)
class CkksHeParameters:
    """One CKKS parameter set: ciphertexts arrive modulo ``count`` primes and answers leave modulo the first ``kept``.

    Parameters
    ----------
    degree : int
        N: 8192 or 16384; a ciphertext holds N / 2 real numbers.
    count, kept : int
        1 <= kept <= count.
    """

    degree: int
    count: int
    kept: int

    def __post_init__(self) -> None:
        most = CKKS_MODULUS_BITS.get(self.degree)
        if most is None:
            raise ParameterError("The polynomial degree is not supported", got=str(self.degree), rule="8192 or 16384")
        total = CKKS_PRIME_BITS * self.count + CKKS_SPECIAL_BITS
        if not 1 <= self.kept <= self.count or total > most:
            raise ParameterError(
                "The coefficient modulus is not secure, or cannot be switched down",
                got=f"{self.count} primes, {self.kept} kept: {total} bits with the special prime",
                rule=f"at most {most} bits in all at degree {self.degree} for 128-bit security, 1 <= kept <= all",
            )

    @property
    def primes(self) -> tuple[int, ...]:
        """The data primes; the first ``kept`` stay to the end."""
        return _primes(self.degree, self.count)

    @property
    def bits(self) -> tuple[int, ...]:
        """Bit length of each prime, the special one last."""
        return (*[CKKS_PRIME_BITS] * self.count, CKKS_SPECIAL_BITS)
