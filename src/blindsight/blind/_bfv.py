"""The BFV engine: exact integer inner products, packed in rows or in columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.circuits import InnerProduct
from blindsight.errors import CapacityError
from blindsight.he import (
    SEED_BYTES,
    HeContext,
    SecretKey,
    check_residues,
    scale_up,
    unpack_residues,
)

from ._columns import Columns
from ._device import ResidueDevice
from ._engine import material_of
from ._plan import BlindParameters
from ._protect import Mask, Protections, Rerandomiser, finish
from ._rows import Rows

__all__ = ["BfvOwner", "BfvScorer", "bfv_masks", "packing_of"]

Residues = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


def packing_of(
    context: HeContext, parameters: BlindParameters, *, threads: int = 1, device: ResidueDevice | None = None
) -> Rows | Columns:
    """How records lie in ciphertexts."""
    if parameters.packing == "columns":
        return Columns(context, parameters, threads=threads, device=device)
    return Rows(context, parameters)


def bfv_masks(context: HeContext, parameters: BlindParameters, material: memoryview) -> Rerandomiser:
    """Read an owner's encryptions of zero, strictly."""
    p = parameters
    size, shape = SEED_BYTES + p.part_bytes, (len(p.he.prime_bits), p.degree)
    pieces = (material[i * size : (i + 1) * size] for i in range(p.zeros))
    return Rerandomiser(
        context, [(bytes(v[:SEED_BYTES]), unpack_residues(v[SEED_BYTES:], shape, p.residue_bytes)) for v in pieces]
    )


class BfvScorer:
    """The model holder's side.

    Parameters
    ----------
    parameters : BlindParameters
    circuit : InnerProduct
        Secret.
    threads : int
        For products of residues in columns.
    device : ResidueDevice, optional
        Likewise; None: NumPy.
    """

    def __init__(
        self,
        parameters: BlindParameters,
        circuit: InnerProduct,
        *,
        threads: int = 1,
        device: ResidueDevice | None = None,
    ) -> None:
        self.parameters, self.context = parameters, HeContext(parameters.he)
        if self.context.modulus < parameters.least_modulus:
            raise CapacityError("SEAL found smaller primes than planned")
        self.packing = packing_of(self.context, parameters, threads=threads, device=device)
        self.protections = Protections()
        self._evaluate = self.packing.prepare(np.asarray(circuit.weights))
        bias = np.array([circuit.bias], dtype=np.int64)
        self._bias = scale_up(bias, self.context.primes, parameters.plain_bits)

    def masks(self, material: memoryview) -> Rerandomiser:
        """Read an owner's encryptions of zero, strictly."""
        return bfv_masks(self.context, self.parameters, material)

    def answer(self, body: memoryview, rows: int, masks: Rerandomiser) -> tuple[Residues, Residues]:
        """Evaluate one group and protect the result; see ``_protect``."""
        masked = self.protections.rerandomise
        ready = masks.take() if masked else None
        terms: Mask = masks.terms() if masked and ready is None else ([], [])
        product = self._evaluate(body, terms, self.protections.owed_only)
        if masked:
            product = masks.complete(product, ready)
        return finish(
            self.context,
            self.parameters,
            product,
            owed=self.packing.owed(rows),
            bias=self._bias,
            protections=self.protections,
        )


class BfvOwner:
    """The record owner's side.

    Parameters
    ----------
    parameters : BlindParameters
    score_scale : float
        What integer scores are multiplied by.
    """

    def __init__(self, parameters: BlindParameters, score_scale: float) -> None:
        self.parameters, self.context = parameters, HeContext(parameters.he)
        self.packing = packing_of(self.context, parameters)
        self._score_scale = score_scale
        self.key: SecretKey

    def generate(self) -> bytes:
        """Draw a new key; returns the encryptions of zero to register."""
        self.key = SecretKey.generate(self.context)
        return material_of(self.key, self.parameters.zeros, self.parameters.residue_bytes)

    def key_bytes(self) -> bytes:
        """The key, to be stored."""
        return self.key.to_bytes()

    @property
    def key_length(self) -> int:
        """Its length."""
        return 8 * len(self.context.key_primes) * self.context.degree

    def restore(self, key: bytes) -> None:
        """Take a stored key."""
        self.key = SecretKey.from_bytes(self.context, key)

    def seal(self, encoded: npt.NDArray[Any]) -> list[bytes]:
        """Encrypt one group of encoded records, int64."""
        return self.packing.seal(self.key, encoded)

    def open(self, piece: memoryview, rows: int) -> Floats:
        """Scores of one answered group."""
        p, context = self.parameters, self.context
        primes, width = len(context.primes), p.residue_bytes
        size = rows * primes * width
        owed = self.packing.owed(rows)
        first = unpack_residues(piece[:size], (primes, rows), width)
        check_residues(first, context.primes)
        parts = np.zeros((2, primes, p.degree), dtype=np.uint64)
        parts[0][:, owed] = first
        parts[1] = unpack_residues(piece[size:], (primes, p.degree), width)
        return self.key.decrypt(parts)[owed] * self._score_scale
