"""Rows: a record's encoding along the coefficients of one ciphertext; the answer is a product of polynomials.

Record r of a ciphertext puts entry j at coefficient ``r m + j``; the weights lie reversed, entry j at ``m - 1 - j``.
The product's coefficient ``r m + m - 1`` is then exactly ``<e_r, w>``: no other pair of coefficients adds up to it, nor
to it plus N, so that records do not disturb each other. An encoding longer than N is split over ciphertexts and summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.he import (
    SEED_BYTES,
    HeContext,
    NttCipher,
    NttPlain,
    SecretKey,
    add_mod,
    check_residues,
    dot_mod,
    pack_residues,
    scale_up,
    unpack_residues,
)

from ._plan import BlindParameters
from ._protect import Mask

__all__ = ["Rows"]

Residues = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


class Rows:
    """The rows packing on either side.

    Parameters
    ----------
    context : HeContext
    parameters : BlindParameters
    """

    def __init__(self, context: HeContext, parameters: BlindParameters) -> None:
        self.context, self.parameters = context, parameters
        self._stride = min(parameters.entries, parameters.degree)

    # -- model holder

    def prepare(self, weights: Ints) -> Callable[[memoryview, Mask, bool], Residues]:
        """Make a function from one group's bytes and a mask's terms to the masked product, shape (2, primes, N).

        Its third argument allows zeros in place of the first part's coefficients that hold no score. Those that do are
        inner products of what was sent with the weights; where the mask was made ahead, SEAL then multiplies second
        parts alone, and what it writes is half zeros, which its compression passes over.
        """
        p, context = self.parameters, self.context
        plains, pieces = self.plains(weights), self._pieces(weights)
        nothing = np.zeros((len(context.primes), p.degree), dtype=np.uint64)
        per, owed = p.rows_per_ciphertext, self.owed(p.rows_per_ciphertext)

        def evaluate(body: memoryview, mask: Mask, owed_only: bool) -> Residues:
            zeros, multipliers = mask
            if zeros or not owed_only:
                return context.inner_product([*self.ciphers(body), *zeros], [*plains, *multipliers])
            ciphers, scores = [], np.zeros((len(context.primes), per), dtype=np.uint64)
            for (seed, c0), piece in zip(self._read(body), pieces, strict=True):
                check_residues(c0, context.primes)
                ciphers.append(context.prepare_cipher(context.seeded_ciphertext(seed, nothing)))
                records = c0[:, : per * self._stride].reshape(-1, per, self._stride)
                dots = [dot_mod(part, piece, prime) for part, prime in zip(records, context.primes, strict=True)]
                scores = add_mod(scores, np.stack(dots), context.primes)
            product = context.inner_product(ciphers, plains).copy()
            product[0][:, owed] = scores
            return product

        return evaluate

    def plains(self, weights: Ints) -> list[NttPlain | None]:
        """Reverse and transform weights: one polynomial for each ciphertext of a group, None where all are 0."""
        plains = []
        for piece in self._pieces(weights):
            polynomial = np.zeros(self.parameters.degree, dtype=np.int64)
            polynomial[: self._stride] = piece[::-1]
            plains.append(self.context.prepare_plain(polynomial))
        return plains

    def _pieces(self, weights: Ints) -> Ints:
        """Weights for each ciphertext of a group, shape (ciphertexts, stride)."""
        p = self.parameters
        padded = np.zeros(p.ciphertexts_per_group * self._stride, dtype=np.int64)
        padded[: p.entries] = weights
        return padded.reshape(-1, self._stride)

    def ciphers(self, body: memoryview) -> list[NttCipher]:
        """Read and transform one group's ciphertexts, strictly."""
        context = self.context
        return [context.prepare_cipher(context.seeded_ciphertext(seed, c0)) for seed, c0 in self._read(body)]

    def _read(self, body: memoryview) -> Iterator[tuple[bytes, npt.NDArray[np.unsignedinteger[Any]]]]:
        """Seed and first part, not yet checked, of each ciphertext of one group."""
        p = self.parameters
        shape, width, size = (len(self.context.primes), p.degree), p.residue_bytes, p.ciphertext_bytes
        for start in range(0, p.ciphertexts_per_group * size, size):
            seed = bytes(body[start : start + SEED_BYTES])
            yield seed, unpack_residues(body[start + SEED_BYTES : start + size], shape, width)

    def owed(self, rows: int) -> npt.NDArray[np.intp]:
        """Coefficients that hold the scores of one group's records."""
        return np.arange(1, rows + 1) * self._stride - 1

    # -- record owner

    def seal(self, key: SecretKey, encoding: Ints) -> list[bytes]:
        """Encrypt one group of encoded records, shape (rows, entries); pieces of its body."""
        p, context = self.parameters, self.context
        width = p.he.residue_bytes
        flat = np.zeros(p.ciphertexts_per_group * p.degree, dtype=np.int64)
        flat[: encoding.size] = encoding.reshape(-1)
        pieces = []
        for message in flat.reshape(-1, p.degree):
            scaled = scale_up(message, context.primes, p.plain_bits)
            seed, c0 = key.encrypt_zero_seeded()
            pieces += [seed, pack_residues(add_mod(c0, scaled, context.primes), width)]
        return pieces
