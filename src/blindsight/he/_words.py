"""From residues modulo q to words modulo ``2**bits``, where two parties' shares add up without a carry to care for.

Modulus switching as in BFV and FHEW (Brakerski, CRYPTO 2012; Ducas, Micciancio, EUROCRYPT 2015, section 3), to a power
of two: the phase ``c0 + c1 s`` modulo q, times ``2**bits / q``, up to a rounding error that is bounded here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ._negacyclic import Negacyclic, Spectrum
from ._residues import multiply_constant

__all__ = ["WORD_BITS", "negacyclic_product", "switch_to_words"]

Residues = npt.NDArray[np.uint64]
Words = npt.NDArray[np.uint64]

WORD_BITS = 64
LIMB_BITS = 16


def switch_to_words(residues: Residues, primes: Sequence[int], bits: int) -> Words:
    """``x * 2**bits / q`` modulo ``2**bits``, too small by less than ``len(primes)``.

    With ``y_i = x (q / p_i)**-1 mod p_i``, ``x / q`` is the sum of the ``y_i / p_i`` up to an integer, which the
    modulus takes away. Each quotient is rounded down after 64 bits, four digits of 16 bits; their sum after ``bits``.

    Parameters
    ----------
    residues : ndarray of shape (primes, ...), uint64
        Reduced, for primes of at most 46 bits.
    primes : sequence of int
        At least two; their product is q.
    bits : int
        1 to 64.

    Returns
    -------
    ndarray of shape (...,), uint64
        Below ``2**bits``.
    """
    modulus = math.prod(primes)
    total = np.zeros(residues.shape[1:], dtype=np.uint64)
    for row, p in zip(residues, primes, strict=True):
        rest = multiply_constant(row, pow(modulus // p, -1, p), p)
        quotient = np.zeros_like(rest)
        for _ in range(WORD_BITS // LIMB_BITS):
            rest = rest << np.uint64(LIMB_BITS)  # below 2**62
            digit = rest // np.uint64(p)
            rest -= digit * np.uint64(p)
            quotient = (quotient << np.uint64(LIMB_BITS)) | digit
        total += quotient  # modulo 2**64 by itself
    return total >> np.uint64(WORD_BITS - bits)


def negacyclic_product(ring: Negacyclic, words: Words, small: Spectrum) -> Words:
    """Product modulo ``X**N + 1`` and modulo ``2**64`` of words with a small polynomial; exact.

    By limbs of 16 bits. The product's coefficients are integers of at most ``N 2**16`` <= 2**29, and the transforms'
    error is at most some ``log2 N`` units in the last place of ``norm(limb) norm(small) <= N 2**16`` (see
    ``_negacyclic``): below 2**-15, far from the half that would matter.

    Parameters
    ----------
    ring : Negacyclic
        For N.
    words : ndarray of shape (N,), uint64
    small : ndarray of shape (N / 2,), complex128
        ``ring.spectrum`` of coefficients in {-1, 0, 1}.

    Returns
    -------
    ndarray of shape (N,), uint64
    """
    shifts = np.arange(0, WORD_BITS, LIMB_BITS, dtype=np.uint64)[:, None]
    limbs = words >> shifts & np.uint64((1 << LIMB_BITS) - 1)
    products = ring.coefficients(ring.spectrum(limbs) * small).view(np.uint64)
    return np.asarray((products << shifts).sum(axis=0, dtype=np.uint64))
