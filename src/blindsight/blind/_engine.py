"""What scorer and record owner ask of an engine: a way to turn encoded records into ciphertexts, answers and scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from blindsight.he import pack_residues

__all__ = ["AnyParameters", "ByRecord", "Masks", "OwnerEngine", "Priced", "PublicInputs", "ScorerEngine", "material_of"]

Floats = npt.NDArray[np.float64]
Residues = npt.NDArray[np.uint64]


class Priced(Protocol):
    """What answers to records cost, in bits and in records."""

    @property
    def answer_bits(self) -> float:
        """Most bits that the answer to one record can carry, whatever the owner encrypted."""

    def charge_bits(self, rows: int) -> int:
        """Bits released by answering this many records."""

    def charge_rows(self, rows: int) -> int:
        """Records that answering this many counts as: scores that leave."""

    def rows_for(self, bits: int) -> int:
        """Largest number of records that this many bits answer."""


class ByRecord(ABC):
    """A price at which every record counts the same."""

    @property
    @abstractmethod
    def answer_bits(self) -> float:
        """Most bits that the answer to one record can carry, whatever the owner encrypted."""

    def charge_bits(self, rows: int) -> int:
        """Bits released by answering this many records."""
        return math.ceil(rows * self.answer_bits)

    def charge_rows(self, rows: int) -> int:
        """Records that answering this many counts as: as many, each is owed numbers of its own."""
        return rows

    def rows_for(self, bits: int) -> int:
        """Largest number of records that this many bits answer."""
        return int(bits / self.answer_bits)


class AnyParameters(Protocol):
    """Public parameters of any engine."""

    @property
    def packing(self) -> Literal["rows", "columns"]:
        """How records lie in ciphertexts."""

    @property
    def rows_per_ciphertext(self) -> int:
        """Records of one group, which one answer ciphertext covers."""

    @property
    def group_bytes(self) -> int:
        """One uploaded group on the wire."""

    @property
    def material_bytes(self) -> int:
        """What an owner registers beside its public key."""

    @property
    def residue_bytes(self) -> int:
        """One residue on the wire."""

    @property
    def answer_bits(self) -> float:
        """Most bits that one owed number can carry, whatever the owner encrypted."""

    @property
    def thresholds(self) -> int:
        """0: the owner learns scores. Otherwise verdicts on this many thresholds."""

    def groups(self, rows: int) -> int:
        """Groups that carry this many records."""

    def answer_bytes(self, rows: int) -> int:
        """One answered group of this many records on the wire."""

    def charge_bits(self, rows: int) -> int:
        """Bits released by answering this many records."""

    def charge_rows(self, rows: int) -> int:
        """Records that answering this many counts as: scores that leave."""

    def rows_for(self, bits: int) -> int:
        """Largest number of records that this many bits answer."""

    def describe(self, *, answers: int = 1) -> str:
        """One line for people."""


class PublicInputs(Protocol):
    """What the owner does to a record in the clear: ``circuits.Encoder`` or ``circuits.Inputs``."""

    @property
    def n_features(self) -> int:
        """Number of features d."""

    def encode(self, X: Floats) -> npt.NDArray[Any]:
        """Rows of shape (n, d) to what is encrypted, (n, m)."""


class Masks(Protocol):
    """One owner's encryptions of zero, from which answers are re-randomised."""

    def prepare(self, answers: int) -> None:
        """Make masks ahead of time, until there are this many."""


class ScorerEngine(Protocol):
    """The model holder's side. Holds the weights and no key."""

    def masks(self, material: memoryview) -> Masks:
        """Read an owner's registered material, strictly; WireError for anything malformed."""

    def answer(self, body: memoryview, rows: int, masks: Any) -> tuple[Residues, Residues]:
        """Evaluate one group, protect the result; what is owed of the first part, and the other parts."""


class OwnerEngine(Protocol):
    """The record owner's side, with its key."""

    def generate(self) -> bytes:
        """Draw a new key; returns the material to register."""

    def key_bytes(self) -> bytes:
        """The key, to be stored."""

    @property
    def key_length(self) -> int:
        """Its length."""

    def restore(self, key: bytes) -> None:
        """Take a stored key; FormatError for a malformed one."""

    def seal(self, encoded: npt.NDArray[Any]) -> list[bytes]:
        """Encrypt one group of encoded records; pieces of its body."""

    def open(self, piece: memoryview, rows: int) -> Floats:
        """Scores of one answered group, from untrusted bytes of the right length."""


class SecretOwnerKey(Protocol):
    """What an owner's secret key does in every scheme."""

    def encrypt_zero_seeded(self) -> tuple[bytes, Residues]:
        """Fresh encryption of zero: the seed of its second part, and its first."""

    def to_bytes(self) -> bytes:
        """The key, to be stored."""


def material_of(key: SecretOwnerKey, zeros: int, residue_bytes: int) -> bytes:
    """Encryptions of zero to register: for each its seed and its first part."""
    pieces = (key.encrypt_zero_seeded() for _ in range(zeros))
    return b"".join(seed + pack_residues(first, residue_bytes) for seed, first in pieces)
