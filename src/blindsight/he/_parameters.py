"""Parameters of the BFV scheme, checked against the 128-bit security table."""

from __future__ import annotations

from dataclasses import dataclass

from blindsight.errors import ParameterError

__all__ = ["MAX_MODULUS_BITS", "HeParameters"]

MAX_MODULUS_BITS = {4096: 109, 8192: 218}
"""Largest total bit length of the coefficient modulus at 128 bits of security, by polynomial degree.

Homomorphic Encryption Standard (Albrecht et al. 2018), Table 1: ternary secret, error deviation 3.2, classical
attacks. SEAL enforces the same table again (``SEC_LEVEL_TYPE.TC128``). Degree 2048 (54 bits) is left out on purpose:
it has no room for a flood, so a secret circuit must never be evaluated there.
"""

MAX_PRIME_BITS = 46
"""Keeps a product with a 16-bit digit inside int64; see ``_residues``."""


@dataclass(frozen=True, kw_only=True)
class HeParameters:
    """One BFV parameter set: ciphertexts live modulo the data primes, plaintexts modulo ``2**plain_bits``.

    Parameters
    ----------
    degree : int
        N, number of coefficients: 4096 or 8192.
    prime_bits : tuple of int
        Bit length of each data prime (20 to 46); the primes themselves are found by SEAL, never taken from a peer.
    special_bits : int
        Bit length of SEAL's key-switching prime. Nothing here switches keys, but SEAL always takes one away from the
        data; a short one leaves the more to the flood.
    plain_bits : int
        k: the plaintext modulus t is ``2**k``.
    """

    degree: int
    prime_bits: tuple[int, ...]
    special_bits: int
    plain_bits: int

    def __post_init__(self) -> None:
        if self.degree not in MAX_MODULUS_BITS:
            raise ParameterError("The polynomial degree is not supported", got=str(self.degree), rule="4096 or 8192")
        if not 1 <= len(self.prime_bits) <= 8 or not all(20 <= bits <= MAX_PRIME_BITS for bits in self.prime_bits):
            raise ParameterError(
                "The data primes are out of their domain",
                got=str(self.prime_bits),
                rule=f"one to eight primes of 20 to {MAX_PRIME_BITS} bits",
            )
        total, most = sum(self.prime_bits) + self.special_bits, MAX_MODULUS_BITS[self.degree]
        if self.special_bits < 16 or total > most:
            raise ParameterError(
                "The coefficient modulus is not secure",
                got=f"{total} bits with a special prime of {self.special_bits}",
                rule=f"at most {most} bits in all at degree {self.degree} for 128-bit security",
            )
        if not 2 <= self.plain_bits <= min(58, sum(self.prime_bits) - 8):
            raise ParameterError(
                "plain_bits is out of its domain",
                got=str(self.plain_bits),
                rule="2 <= plain_bits <= 58, and 8 bits below the coefficient modulus",
            )

    @property
    def plain_modulus(self) -> int:
        """The plaintext modulus t."""
        return 1 << self.plain_bits

    @property
    def residue_bytes(self) -> int:
        """Bytes that one residue takes on the wire, little-endian."""
        return -(-max(self.prime_bits) // 8)
