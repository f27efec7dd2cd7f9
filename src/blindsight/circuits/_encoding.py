"""What every public encoder offers: a map from records to bounded integers, and its products with a weight vector."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

__all__ = ["MAX_LENGTH", "Encoder", "OneHot", "bounded_list", "matrix", "number"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_LENGTH = 1 << 20
"""Longest encoding accepted from a file or another party."""


class Encoder(ABC):
    """A public map from a float64 feature matrix to bounded integers; a frozen value.

    Subclasses are frozen dataclasses, compared by value. ``kind`` names them in files and offers.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Number of input features d."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Number of slots m of the encoding."""

    @property
    @abstractmethod
    def max_abs(self) -> int:
        """Largest absolute value of any entry of the encoding."""

    @abstractmethod
    def encode(self, X: Floats) -> Ints:
        """Return the encoding, shape (n, m), int64."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without ``kind``; floats survive exactly (shortest round-trip form)."""

    @classmethod
    @abstractmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Rebuild from untrusted values without ``kind``; TypeError or ParameterError on anything malformed."""

    def dot(self, X: Floats, weights: Ints) -> Ints:
        """``encode(X) @ weights`` exactly, shape (n,), int64; encoders override it where they can be faster."""
        product: Ints = self.encode(X) @ weights
        return product

    def reach(self, weights: Ints) -> tuple[int, int]:
        """Least and greatest ``<e, weights>`` over every record at all; inclusive, not necessarily attained."""
        top = self.max_abs * int(np.abs(weights).sum())
        return -top, top

    def freedom(self) -> int:
        """Number of linear equations in the weights that determine every score: what scoring can extract."""
        return self.length

    def same_form(self, other: Encoder) -> bool:
        """Whether both are equal up to the last bits of floats, which may differ between platforms."""
        return self == other


class OneHot(Encoder):
    """An encoder with exactly one 1 in each of its blocks (a feature's bins, a tree's leaves).

    ``offsets[b] + s`` is the slot of *block b is in state s*.
    """

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """Number of slots of each block."""

    @abstractmethod
    def slots(self, X: Floats) -> npt.NDArray[np.int32]:
        """Return the slot that each block's 1 falls in.

        Parameters
        ----------
        X : ndarray of shape (n, d), float64
            Feature values; finite (the schema has refused NaN before).

        Returns
        -------
        ndarray of shape (n, blocks), int32
            Indices into the encoding of length m.
        """

    @property
    def blocks(self) -> int:
        """Number of blocks: of ones in every encoding."""
        return len(self.sizes)

    @property
    def offsets(self) -> Ints:
        """First slot of each block, shape (blocks,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    @property
    def length(self) -> int:
        """Number of slots m of the encoding."""
        return sum(self.sizes)

    @property
    def max_abs(self) -> int:
        """Largest absolute value of any entry of the encoding."""
        return 1

    def encode(self, X: Floats) -> Ints:
        """Return the dense encoding, shape (n, m), int64 of zeros and ones."""
        slots = self.slots(X)
        out = np.zeros((len(slots), self.length), dtype=np.int64)
        np.put_along_axis(out, slots, 1, axis=1)
        return out

    def dot(self, X: Floats, weights: Ints) -> Ints:
        """Sum of the weights at each record's slots, shape (n,), int64."""
        total = np.zeros(len(X), dtype=np.int64)
        for column in self.slots(X).T:
            total += weights[column]
        return total

    def contributions(self, X: Floats, weights: Ints) -> Ints:
        """What each block adds to ``dot(X, weights)``: the weights at each record's slots, shape (n, blocks), int64."""
        parts: Ints = np.asarray(weights, dtype=np.int64)[self.slots(X)]
        return parts

    def block_names(self, features: Sequence[str]) -> tuple[str, ...]:
        """Name the blocks for people, given the features' names; block 0 and so on where nothing better is known."""
        del features
        return tuple(f"block {b}" for b in range(self.blocks))

    def count(self, X: Floats, accumulator: Ints) -> None:
        """Add every record's encoding to ``accumulator``, shape (m,), int64, in place."""
        for column in self.slots(X).T:
            accumulator += np.bincount(column, minlength=self.length)

    def reach(self, weights: Ints) -> tuple[int, int]:
        """Least and greatest sum of one weight per block; attained when the blocks are independent."""
        parts = np.split(weights, self.offsets[1:])
        return sum(int(part.min()) for part in parts), sum(int(part.max()) for part in parts)

    def freedom(self) -> int:
        """One number per slot, less one per block (they add up to one), and the constant."""
        return self.length - self.blocks + 1


def matrix(X: Floats, d: int) -> Floats:
    """Return X as float64 of shape (n, d); ParameterError for another shape."""
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or X.shape[1] != d:
        raise ParameterError("The feature matrix has the wrong shape", got=str(X.shape), rule=f"(n, {d})")
    return X


def bounded_list(value: object) -> list[Any]:
    """Return an untrusted list of at most ``MAX_LENGTH`` items; TypeError otherwise."""
    if not isinstance(value, list) or len(value) > MAX_LENGTH:
        raise TypeError
    return value


def number(value: object) -> float:
    """Return an untrusted finite number; TypeError otherwise."""
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise TypeError
    return float(value)  # type: ignore[arg-type]
