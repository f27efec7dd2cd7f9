"""Rows: a record's encoding along the coefficients of one ciphertext; the answer is a product of polynomials.

Record r of a ciphertext puts entry j at coefficient ``r m + j``; the weights lie reversed, entry j at ``m - 1 - j``.
The product's coefficient ``r m + m - 1`` is then exactly ``<e_r, w>``: no other pair of coefficients adds up to it, nor
to it plus N, so that records do not disturb each other. An encoding longer than N is split over ciphertexts and summed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from blindsight.he import (
    SEED_BYTES,
    HeContext,
    NttCipher,
    NttPlain,
    SecretKey,
    add_mod,
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

    def prepare(self, weights: Ints) -> Callable[[memoryview, Mask], Residues]:
        """Make a function from one group's bytes and a mask's terms to the masked product, shape (2, primes, N)."""
        plains = self.plains(weights)

        def evaluate(body: memoryview, mask: Mask) -> Residues:
            zeros, multipliers = mask
            return self.context.inner_product([*self.ciphers(body), *zeros], [*plains, *multipliers])

        return evaluate

    def plains(self, weights: Ints) -> list[NttPlain | None]:
        """Reverse and transform weights: one polynomial for each ciphertext of a group, None where all are 0."""
        p = self.parameters
        padded = np.zeros(p.ciphertexts_per_group * self._stride, dtype=np.int64)
        padded[: p.entries] = weights
        plains = []
        for piece in padded.reshape(-1, self._stride):
            polynomial = np.zeros(p.degree, dtype=np.int64)
            polynomial[: self._stride] = piece[::-1]
            plains.append(self.context.prepare_plain(polynomial))
        return plains

    def ciphers(self, body: memoryview) -> list[NttCipher]:
        """Read and transform one group's ciphertexts, strictly."""
        p, context = self.parameters, self.context
        shape, width, size = (len(context.primes), p.degree), p.he.residue_bytes, p.ciphertext_bytes
        ciphers = []
        for start in range(0, p.ciphertexts_per_group * size, size):
            seed = bytes(body[start : start + SEED_BYTES])
            c0 = unpack_residues(body[start + SEED_BYTES : start + size], shape, width)
            ciphers.append(context.prepare_cipher(context.seeded_ciphertext(seed, c0)))
        return ciphers

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
