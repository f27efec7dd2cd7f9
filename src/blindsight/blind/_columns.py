"""Columns: N records in the coefficients, one ciphertext for each entry; the answer is a matrix product of residues.

For each prime p the plain answer is ``w @ R mod p`` with R of shape (entries, 2N): residues below 2**30 and small
signed integers, summed exactly in float64 as long as ``sum |w| * 2**30 < 2**53``; then reduced, and so on with the next
entries. No ciphertext object is ever made of what the owner sent (Bae et al., CRYPTO 2024, eprint 2024/1284, on
plaintext-matrix products).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import WireError
from blindsight.he import SEED_BYTES, HeContext, SecretKey, add_mod, pack_residues, scale_up, unpack_residues

from ._device import ResidueDevice
from ._plan import BlindParameters
from ._protect import Mask

__all__ = ["Columns"]

Residues = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BLOCK_ENTRIES = 16
"""Entries converted to float64 at a time: 1 MB, which stays in cache between the passes over it."""

DIGIT_BITS = 20
EXACT_WEIGHT_SUM = 1 << 23


class Columns:
    """The columns packing on either side.

    Parameters
    ----------
    context : HeContext
    parameters : BlindParameters
    threads : int
        That multiply residues, one prime each.
    device : ResidueDevice, optional
        Where residues are multiplied; None: here, with NumPy.
    """

    def __init__(
        self,
        context: HeContext,
        parameters: BlindParameters,
        *,
        threads: int = 1,
        device: ResidueDevice | None = None,
    ) -> None:
        self.context, self.parameters, self.threads, self.device = context, parameters, threads, device

    # -- model holder

    def prepare(self, weights: Ints) -> Callable[[memoryview, Mask, bool], Residues]:
        """Make a function from one group's bytes to the masked product, shape (2, primes, N); see :class:`Rows`."""
        if int(np.abs(weights).max()) < EXACT_WEIGHT_SUM // 2:
            digits = [weights]
        else:  # weights of up to 40 bits: two digits, the upper one signed
            digits = [weights & (1 << DIGIT_BITS) - 1, weights >> DIGIT_BITS]
        rows = [digit.astype(np.float64) for digit in digits]
        context, multiply = self.context, self._multiplier(digits, rows)

        def evaluate(body: memoryview, mask: Mask, _owed_only: bool) -> Residues:
            product = multiply(self._unpack(body))
            return add_mod(product, context.inner_product(*mask), context.primes) if mask[0] else product

        return evaluate

    def _multiplier(
        self, digits: list[Ints], rows: list[Floats]
    ) -> Callable[[npt.NDArray[np.unsignedinteger[Any]]], Residues]:
        """From residues, (primes, entries, 2N), to their inner products with the weights, (2, primes, N)."""
        primes, degree = self.context.primes, self.parameters.degree
        if self.device is None:
            blocks = _blocks(digits, BLOCK_ENTRIES)
            return lambda residues: self._product(residues, rows, blocks)
        runs = [(start, stop) for start, stop, _ in _blocks(digits, len(rows[0]))]
        multiply = self.device.inner_products(rows, runs, primes, DIGIT_BITS)
        return lambda residues: multiply(residues).reshape(len(primes), 2, degree).transpose(1, 0, 2)

    def _unpack(self, body: memoryview) -> npt.NDArray[np.unsignedinteger[Any]]:
        """(primes, entries, 2N) residues, not yet checked."""
        p, context = self.parameters, self.context
        primes, width = len(context.primes), p.he.residue_bytes
        if p.upload == "unseeded":
            return unpack_residues(body, (primes, p.entries, 2 * p.degree), width)
        size = p.ciphertext_bytes
        out = np.empty((primes, p.entries, 2, p.degree), dtype=np.uint32)
        for j in range(p.entries):
            piece = body[j * size : (j + 1) * size]
            c0 = unpack_residues(piece[SEED_BYTES:], (primes, p.degree), width)
            out[:, j] = context.expand(bytes(piece[:SEED_BYTES]), c0).transpose(1, 0, 2)
        return out.reshape(primes, p.entries, 2 * p.degree)

    def _product(
        self, residues: npt.NDArray[np.unsignedinteger[Any]], rows: list[Floats], blocks: list[tuple[int, int, bool]]
    ) -> Residues:
        degree, primes = self.parameters.degree, self.context.primes
        out = np.empty((2, len(primes), degree), dtype=np.uint64)

        def work(i: int) -> None:
            out[:, i] = _product_modulo(residues[i], primes[i], rows, blocks).reshape(2, degree)

        if self.threads == 1:
            for i in range(len(primes)):
                work(i)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(work, range(len(primes))))
        return out

    def owed(self, rows: int) -> npt.NDArray[np.intp]:
        """Coefficients that hold the scores of one group's records."""
        return np.arange(rows)

    # -- record owner

    def seal(self, key: SecretKey, encoding: Ints) -> list[bytes]:
        """Encrypt up to N encoded records, shape (rows, entries); pieces of one group's body."""
        p, context = self.parameters, self.context
        width = p.he.residue_bytes
        messages = np.zeros((p.entries, p.degree), dtype=np.int64)
        messages[:, : len(encoding)] = encoding.T
        if p.upload == "seeded":
            pieces = []
            for message in messages:
                seed, c0 = key.encrypt_zero_seeded()
                c0 = add_mod(c0, scale_up(message, context.primes, p.plain_bits), context.primes)
                pieces += [seed, pack_residues(c0, width)]
            return pieces
        out = np.empty((len(context.primes), p.entries, 2, p.degree), dtype=np.uint32)
        for j, message in enumerate(messages):
            zero = key.encrypt_zero()
            out[:, j, 1] = zero[1]
            out[:, j, 0] = add_mod(zero[0], scale_up(message, context.primes, p.plain_bits), context.primes)
        return [out.astype("<u4", copy=False).tobytes()]


def _product_modulo(
    residues: npt.NDArray[np.unsignedinteger[Any]], p: int, rows: list[Floats], blocks: list[tuple[int, int, bool]]
) -> Residues:
    """Weights times residues of shape (entries, 2N), modulo one prime; shape (2N,)."""
    width = residues.shape[1]
    buffer = np.empty((BLOCK_ENTRIES, width))
    running = [np.zeros(width) for _ in rows]
    for start, stop, reduce in blocks:
        part = residues[start:stop]
        if int(part.max()) >= p:
            raise WireError("A residue is not reduced", rule=f"below {p}")
        block = buffer[: stop - start]
        np.copyto(block, part.view(f"i{part.itemsize}"))  # below p: the same as signed words, which convert faster
        for total, row in zip(running, rows, strict=True):
            total += row[start:stop] @ block
            if reduce:
                _reduce(total, p)
    value = running[0]
    if len(running) == 2:
        value = running[0] + running[1] * float(1 << DIGIT_BITS)  # below 2**51
        _reduce(value, p)
    return value.astype(np.uint64)


def _blocks(digits: list[Ints], most: int) -> list[tuple[int, int, bool]]:
    """Runs (start, stop, reduce after) of at most so many entries; no sum between reductions passes 2**53."""
    heaviest = np.max([np.abs(digit) for digit in digits], axis=0)
    blocks: list[tuple[int, int, bool]] = []
    start, in_block, since = 0, 0, 1  # 1: what a reduction leaves, below p
    for j, weight in enumerate(int(value) for value in heaviest):
        full = since + weight >= EXACT_WEIGHT_SUM
        if j > start and (full or in_block == most):
            blocks.append((start, j, full))
            start, in_block = j, 0
            if full:
                since = 1
        since += weight
        in_block += 1
    return [*blocks, (start, len(heaviest), True)]


def _reduce(values: Floats, prime: int) -> None:
    """Reduce integers below 2**53 in absolute value to [0, prime), in place and exactly.

    The quotient is below 2**24, so that rounding (at most 2**-30) cannot carry it over an integer that it is at least
    1 / prime away from; quotient times prime is below 2**53.
    """
    values -= np.floor(values / prime) * prime
