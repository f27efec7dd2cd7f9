"""The CKKS engine: columns of records in slots, for networks whose every step is a polynomial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.he import (
    SEED_BYTES,
    CkksContext,
    CkksKey,
    add_mod,
    centred,
    check_residues,
    pack_residues,
    slots_of,
    unpack_residues,
)

from ._ckks_circuit import IntegerNetwork
from ._ckks_plan import RESIDUE_BYTES, CkksParameters
from ._ckks_protect import CkksRerandomiser, finish, functionals
from ._device import ResidueDevice
from ._engine import material_of
from ._protect import Protections

__all__ = ["CkksOwner", "CkksScorer"]

Floats = npt.NDArray[np.float64]
Residues = npt.NDArray[np.uint64]


class CkksScorer:
    """The model holder's side.

    Parameters
    ----------
    parameters : CkksParameters
    network : IntegerNetwork
        Secret.
    threads : int
        For products of residues.
    device : ResidueDevice, optional
        Where residues are multiplied; None: here, with NumPy.
    """

    def __init__(
        self,
        parameters: CkksParameters,
        network: IntegerNetwork,
        *,
        threads: int = 1,
        device: ResidueDevice | None = None,
    ) -> None:
        self.parameters, self.context = parameters, CkksContext(parameters.he)
        self.protections = Protections()
        self._network, primes = network, self.context.primes
        self._evaluate: Callable[[npt.NDArray[np.unsignedinteger[Any]]], Residues]
        if device is None:
            self._evaluate = lambda inputs: network.evaluate(inputs, primes, threads)
        else:
            self._evaluate = device.scores(network, primes)

    def masks(self, material: memoryview) -> CkksRerandomiser:
        """Read an owner's encryptions of zero, strictly."""
        return CkksRerandomiser(self.context, self.parameters, material)

    def answer(self, body: memoryview, rows: int, masks: CkksRerandomiser) -> tuple[Residues, Residues]:
        """Evaluate one group, switch down, protect; see ``_ckks_protect``."""
        inputs = self._unpack(body)
        parts = self.context.switch_down(self._evaluate(inputs))
        mask = masks.take() if self.protections.rerandomise else None
        return finish(self.context, self.parameters, parts, mask, rows=rows, protections=self.protections)

    def _unpack(self, body: memoryview) -> npt.NDArray[np.unsignedinteger[Any]]:
        """(primes, entries, 2, N) residues; checked where they are used."""
        p = self.parameters
        if p.upload == "unseeded":
            return unpack_residues(body, (p.count, p.entries, 2, p.degree), RESIDUE_BYTES)
        out = np.empty((p.count, p.entries, 2, p.degree), dtype=np.uint32)
        for j in range(p.entries):
            piece = body[j * p.ciphertext_bytes : (j + 1) * p.ciphertext_bytes]
            c0 = unpack_residues(piece[SEED_BYTES:], (p.count, p.degree), RESIDUE_BYTES)
            out[:, j] = self.context.expand(bytes(piece[:SEED_BYTES]), c0).transpose(1, 0, 2)
        return out


class CkksOwner:
    """The record owner's side.

    Parameters
    ----------
    parameters : CkksParameters
    """

    def __init__(self, parameters: CkksParameters) -> None:
        self.parameters, self.context = parameters, CkksContext(parameters.he)
        self.key: CkksKey

    def generate(self) -> bytes:
        """Draw a new key; returns the encryptions of zero to register."""
        self.key = CkksKey.generate(self.context)
        return material_of(self.key, self.parameters.zeros, RESIDUE_BYTES)

    def key_bytes(self) -> bytes:
        """The key, to be stored."""
        return self.key.to_bytes()

    @property
    def key_length(self) -> int:
        """Its length."""
        return 8 * len(self.context.key_primes) * self.context.degree

    def restore(self, key: bytes) -> None:
        """Take a stored key."""
        self.key = CkksKey.from_bytes(self.context, key)

    def seal(self, encoded: npt.NDArray[Any]) -> list[bytes]:
        """Encrypt up to N / 2 records, shape (n, entries): input j of record i in slot i of ciphertext j.

        Fewer than N / 2 are repeated with the period of the next power of two.
        """
        p = self.parameters
        period = p.owed(len(encoded))
        padded = np.zeros((period, p.entries))
        padded[: len(encoded)] = encoded
        columns = np.tile(padded.T, p.rows_per_ciphertext // period)
        if p.upload == "seeded":
            pieces = []
            for column in columns:
                seed, c0 = self.key.encrypt_seeded(column, p.input_scale)
                pieces += [seed, pack_residues(c0, RESIDUE_BYTES)]
            return pieces
        out = np.empty((p.count, p.entries, 2, p.degree), dtype="<u4")
        for j, column in enumerate(columns):
            out[:, j] = self.key.encrypt(column, p.input_scale).transpose(1, 0, 2)
        return [out.tobytes()]

    def open(self, piece: memoryview, rows: int) -> Floats:
        """Scores of one answered group; approximate, and never for the scorer's eyes."""
        p, context = self.parameters, self.context
        owed = p.owed(rows)
        size = owed * p.kept * RESIDUE_BYTES
        first = unpack_residues(piece[:size], (p.kept, owed), RESIDUE_BYTES).astype(np.uint64)
        parts = np.zeros((p.parts, p.kept, p.degree), dtype=np.uint64)
        parts[1:] = unpack_residues(piece[size:], (p.parts - 1, p.kept, p.degree), RESIDUE_BYTES)
        primes = context.kept_primes
        check_residues(first, primes)
        check_residues(parts, primes)
        return slots_from(first, self.key.phase(parts), primes)[:rows] / p.answer_scale


def slots_from(first: Residues, rest: Residues, primes: tuple[int, ...]) -> Floats:
    """Slots from the owed functionals of c_0, (kept, owed), and ``c_1 s + c_2 s**2 + ..``, (kept, N); scaled."""
    owed, degree = first.shape[1], rest.shape[1]
    values = centred(add_mod(first, functionals(rest, owed, primes), primes), primes)
    values[1:] /= 2  # m_j = -m_{N-j}, and the functional is their difference
    step = degree // (2 * owed)
    polynomial = np.zeros(degree)
    polynomial[: degree // 2 : step] = values
    polynomial[degree // 2 + step :: step] = -values[:0:-1]
    return slots_of(polynomial, owed)
