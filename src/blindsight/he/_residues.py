"""Arithmetic on residues: arrays of shape (..., primes, N), one row for each prime of the coefficient modulus."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import WireError

__all__ = [
    "add_mod",
    "check_residues",
    "dot_mod",
    "lift",
    "multiply_constant",
    "pack_residues",
    "scale_up",
    "uniform_below",
    "unpack_residues",
]

Residues = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

DIGIT_BITS = 16
EXACT_BITS = 53
"""Of integers that float64 holds."""
LIMB_BITS = 32
LIMB = 1 << LIMB_BITS
WEIGHT_DIGIT_BITS = 20
FEW = 16


def _mod(values: Residues, prime: int) -> Residues:
    """Remainders: NumPy divides by a constant several times faster than it takes them itself."""
    p = np.uint64(prime)
    return values - values // p * p


def lift(values: Ints, primes: Sequence[int]) -> Residues:
    """Signed integers, shape (...,), to residues, shape (primes, ...)."""
    out = np.empty((len(primes), *values.shape), dtype=np.uint64)
    short = values.size and max(int(values.max()), -int(values.min())) < min(primes)
    for i, p in enumerate(primes):
        if short:  # several times faster than a remainder; of a negative number p brings back what had wrapped around
            bits = values.view(np.uint64)
            np.minimum(bits, bits + np.uint64(p), out=out[i])
        else:
            out[i] = np.mod(values, np.int64(p))
    return out


def add_mod(a: Residues, b: Residues, primes: Sequence[int]) -> Residues:
    """Sum of two arrays of shape (..., primes, N), reduced."""
    p = np.asarray(primes, dtype=np.uint64)[:, None]
    total = a + b  # below 2**47
    return np.minimum(total, total - p)  # where it was below p, the difference wraps around and is huge


def multiply_constant(values: Residues, factor: int, prime: int) -> Residues:
    """``values * factor`` modulo one prime of at most 46 bits, by Horner's rule on 16-bit digits of the factor."""
    factor %= prime
    if prime < 1 << 31:
        return _mod(values * np.uint64(factor), prime)
    result = np.zeros_like(values)
    for shift in range(DIGIT_BITS * ((factor.bit_length() - 1) // DIGIT_BITS), -1, -DIGIT_BITS):
        digit = np.uint64(factor >> shift & (1 << DIGIT_BITS) - 1)
        result = _mod((result << np.uint64(DIGIT_BITS)) + _mod(values * digit, prime), prime)
    return result


def dot_mod(rows: Residues, weights: Ints, prime: int) -> Residues:
    """Inner products of rows of residues with integers, modulo one prime of at most 46 bits.

    Exact in float64: residues are cut into limbs so short that no sum of products with them reaches ``2**53``, large
    weights into two digits first, so that limbs have 16 bits at least.

    Parameters
    ----------
    rows : ndarray of shape (n, m), uint64
        Reduced; m <= 2**16.
    weights : ndarray of shape (m,), int64
        \\|w\\| <= 2**40; or <= 2**44 where m <= 2**12.

    Returns
    -------
    ndarray of shape (n,), uint64
    """
    digits = weights[:, None]
    if _reach(digits) > EXACT_BITS - DIGIT_BITS:
        digits = np.stack([weights & (1 << WEIGHT_DIGIT_BITS) - 1, weights >> WEIGHT_DIGIT_BITS], axis=1)
    width = EXACT_BITS - _reach(digits)
    shifts = np.arange(0, prime.bit_length(), width, dtype=np.uint64)
    limbs = (rows >> shifts[:, None, None] & np.uint64((1 << width) - 1)).astype(np.float64)
    found = limbs.reshape(-1, rows.shape[1]) @ digits.astype(np.float64)
    sums = found.astype(np.int64).reshape(len(shifts), len(rows), -1).tolist()  # Python's integers: there are few
    totals = [0] * len(rows)
    for shift, limb in zip(shifts.tolist(), sums, strict=True):
        for i, parts in enumerate(limb):
            totals[i] += sum(part << shift + k * WEIGHT_DIGIT_BITS for k, part in enumerate(parts))
    return np.array([total % prime for total in totals], dtype=np.uint64)


def _reach(digits: Ints) -> int:
    """Bits of the largest sum of absolute values of a column."""
    return int(np.abs(digits).sum(axis=0).max()).bit_length()


def scale_up(message: Ints, primes: Sequence[int], plain_bits: int) -> Residues:
    """``q * m / t``, rounded to within one unit: what BFV adds to an encryption of zero to make it one of ``m``.

    Parameters
    ----------
    message : ndarray of shape (...,), int64
        Signed plaintext coefficients, \\|m\\| <= 2**45.
    primes : sequence of int
        Their product is q.
    plain_bits : int
        log2 t.

    Returns
    -------
    ndarray of shape (primes, ...), uint64
    """
    modulus = math.prod(primes)
    whole, rest = modulus >> plain_bits, modulus & ((1 << plain_bits) - 1)
    # q m / t = whole * m + rest * m / t, and the second term is below 2**45: float64 is off by less than one unit
    fraction = np.rint(message * (rest / (1 << plain_bits))).astype(np.int64)
    size = max(int(message.max()), -int(message.min())).bit_length()
    result = np.empty((len(primes), *message.shape), dtype=np.uint64)
    for i, p in enumerate(primes):
        if size + p.bit_length() < 62:
            value = message * np.int64(whole % p) + fraction
            result[i] = value - value // np.int64(p) * np.int64(p)  # as in _mod
        else:
            product = multiply_constant(np.mod(message, np.int64(p)).astype(np.uint64), whole, p)
            result[i] = _mod(product + np.mod(fraction, np.int64(p)).astype(np.uint64), p)
    return result


def uniform_below(bound: int, size: int, primes: Sequence[int], offset: int = 0) -> Residues:
    """Residues of ``size`` uniform integers in ``[offset, offset + bound)``; shape (primes, size).

    *Security*: the operating system's generator, and rejection, so that there is no bias to account for.
    """
    if size <= FEW:  # one record: what NumPy's calls cost would be more than the numbers
        few = [secrets.randbelow(bound) + offset for _ in range(size)]
        return np.array([[value % p for value in few] for p in primes], dtype=np.uint64)
    if bound < 1 << 63:
        values = np.empty(0, dtype="<u8")
        while len(values) < size:
            draws = np.frombuffer(os.urandom(8 * (size - len(values))), dtype="<u8")
            draws = draws & np.uint64((1 << bound.bit_length()) - 1)
            values = np.concatenate([values, draws[draws < bound]])
        return np.stack([_mod(values + np.uint64(offset % p), p) for p in primes])
    limbs = [bound >> shift & LIMB - 1 for shift in range(0, bound.bit_length(), LIMB_BITS)]
    masks = np.full(len(limbs), LIMB - 1, dtype="<u4")
    masks[-1] = (1 << limbs[-1].bit_length()) - 1
    rows = np.empty((0, len(limbs)), dtype="<u4")
    while len(rows) < size:
        missing = size - len(rows)
        draws = np.frombuffer(os.urandom(4 * len(limbs) * missing), dtype="<u4").reshape(missing, -1) & masks
        below, equal = np.zeros(missing, dtype=bool), np.ones(missing, dtype=bool)
        for i in range(len(limbs) - 1, -1, -1):
            below |= equal & (draws[:, i] < limbs[i])
            equal &= draws[:, i] == limbs[i]
        rows = np.concatenate([rows, draws[below]])
    result = np.zeros((len(primes), size), dtype=np.uint64)
    for row, p in zip(result, primes, strict=True):
        for i in range(len(limbs) - 1, -1, -1):
            row[:] = _mod(multiply_constant(row, LIMB, p) + rows[:, i], p)
        row[:] = _mod(row + np.uint64(offset % p), p)
    return result


def pack_residues(residues: Residues, width: int) -> bytes:
    """Residues to little-endian bytes, ``width`` bytes each, in C order."""
    flat = np.ascontiguousarray(residues, dtype="<u8").reshape(-1)
    if width == 4:
        return flat.astype("<u4").tobytes()
    return flat.view(_low_bytes(width))["low"].tobytes()


def unpack_residues(
    data: bytes | memoryview, shape: tuple[int, ...], width: int
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Bytes to residues: uint32 without a copy where the width is 4, else uint64. Not yet checked to be reduced."""
    count = math.prod(shape)
    if len(data) != count * width:
        raise WireError("Residues have the wrong length", got=f"{len(data)} bytes", rule=f"{count * width} bytes")
    if width == 4:
        return np.frombuffer(data, dtype="<u4").reshape(shape)
    wide = np.zeros(count, dtype="<u8")
    wide.view(_low_bytes(width))["low"] = np.frombuffer(data, dtype=f"V{width}")
    return wide.reshape(shape)


def _low_bytes(width: int) -> np.dtype[np.void]:
    """The lower bytes of a little-endian uint64, as one field: NumPy copies it at once."""
    return np.dtype({"names": ["low"], "formats": [f"V{width}"], "offsets": [0], "itemsize": 8})


def check_residues(residues: npt.NDArray[np.unsignedinteger[Any]], primes: Sequence[int]) -> None:
    """Raise WireError unless every residue of an array of shape (..., primes, N) is below its prime."""
    for i, p in enumerate(primes):
        part = residues[..., i, :]
        if part.size and int(part.max()) >= p:
            raise WireError(
                "A residue is not reduced", got=f"a value of {int(part.max()).bit_length()} bits", rule=f"below {p}"
            )
