"""Products modulo ``X**N + 1`` of short integer polynomials with longer ones, by floating-point transforms, exact.

Real polynomials are evaluated at the odd powers ``exp(-i pi (4 k + 1) / N)`` with one complex transform of length N / 2
(the right-angle convolution of Crandall and Fagin, Math. Comp. 62, 1994). Residues are centred and cut into digits of
at most 14 bits, so that the rounding error stays far below the half that would matter: it is at most some log2 N units
in the last place of the product of the two norms (Higham, *Accuracy and Stability of Numerical Algorithms*, theorem
24.2). For 16 factors of N = 16384 coefficients of 16 bits and digits of 14 bits that is below ``2**-5``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

__all__ = ["Negacyclic", "Spectrum"]

Residues = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Spectrum = npt.NDArray[np.complex128]

DIGIT_BITS = 14


class Negacyclic:
    """Transforms and products for one degree.

    Parameters
    ----------
    degree : int
        N, a power of two of at most 16384.
    primes : sequence of int
        Of at most 28 bits; for products with residues.
    """

    def __init__(self, degree: int, primes: Sequence[int] = ()) -> None:
        self.degree, self.primes = degree, tuple(primes)
        self._twist = np.exp(-1j * np.pi * np.arange(degree // 2) / degree)

    def spectrum(self, values: npt.NDArray[Any]) -> Spectrum:
        """Values at the odd powers, shape (..., N / 2), of real polynomials, shape (..., N)."""
        half = self.degree // 2
        folded = values[..., :half] - 1j * values[..., half:]
        folded *= self._twist
        return np.asarray(scipy.fft.fft(folded, overwrite_x=True))

    def coefficients(self, spectrum: Spectrum) -> Ints:
        """Integer coefficients, shape (..., N), of values at the odd powers; what :meth:`spectrum` takes, rounded."""
        folded = scipy.fft.ifft(spectrum, overwrite_x=True)
        folded *= self._twist.conj()
        return np.asarray(np.rint(np.concatenate([folded.real, -folded.imag], axis=-1)), dtype=np.int64)

    def digits(self, residues: npt.NDArray[np.unsignedinteger[Any]]) -> Spectrum:
        """Spectra of the digits of reduced residues, shape (..., primes, N) to (..., primes, 2, N / 2)."""
        p = np.asarray(self.primes, dtype=np.int64)[:, None]
        centred = residues.astype(np.int64)
        centred -= p * (2 * centred >= p)
        low = (centred + (1 << DIGIT_BITS - 1) & (1 << DIGIT_BITS) - 1) - (1 << DIGIT_BITS - 1)
        return self.spectrum(np.stack([low, (centred - low) >> DIGIT_BITS], axis=-2))

    def sum_of_products(self, short: Spectrum, digits: Spectrum) -> Residues:
        """Sum over l of ``short[l] * residues[l]``; reduced.

        Parameters
        ----------
        short : ndarray of shape (L, N / 2), complex128
            Spectra of L <= 16 polynomials with coefficients of at most 16 bits.
        digits : ndarray of shape (L, ..., primes, 2, N / 2), complex128
            From :meth:`digits`.

        Returns
        -------
        ndarray of shape (..., primes, N), uint64
        """
        shape = (len(short), *(1,) * (digits.ndim - 2), -1)
        total = digits[0] * short.reshape(shape)[0]
        for factor, other in zip(short.reshape(shape)[1:], digits[1:], strict=True):
            total += other * factor
        parts = self.coefficients(total)  # below 2**46, and so below 2**60 with the upper digit in its place
        value = parts[..., 1, :]
        value <<= DIGIT_BITS
        value += parts[..., 0, :]
        for i, p in enumerate(self.primes):  # NumPy divides by a constant several times faster than by an array
            row = value[..., i, :]
            row -= row // np.int64(p) * np.int64(p)
        return np.ascontiguousarray(value).view(np.uint64)
