"""One-hot bins of single features: what counting detectors look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

from ._encoding import MAX_LENGTH, Encoder, Floats, Ints, OneHot, bounded_list, matrix, number

__all__ = ["OneHotBins", "bin_index"]


@dataclass(frozen=True, kw_only=True)
class OneHotBins(OneHot):
    """One-hot bin of each feature: every record has exactly one 1 per feature.

    Parameters
    ----------
    edges : tuple of tuple of float
        Per feature the strictly increasing inner edges; k edges make k + 1 bins, of which the outer two are open,
        so that values never seen before have a place. A value equal to an edge belongs to the bin right of it. A
        categorical feature with K categories (codes 0 .. K - 1) has the edges .5, 1.5, ..., K - .5: its last bin
        stands for every undeclared category.

    Notes
    -----
    ``length`` is the total number of bins; slot ``offsets[f] + b`` means *feature f lies in bin b*.
    """

    kind: ClassVar[str] = "one_hot_bins"

    edges: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.edges:
            raise ParameterError("OneHotBins needs at least one feature", got="no edges")
        for f, inner in enumerate(self.edges):
            array = np.asarray(inner, dtype=np.float64)
            if array.size == 0 or not np.isfinite(array).all() or (np.diff(array) <= 0).any():
                raise ParameterError(
                    f"Feature {f} has unusable bin edges",
                    got=f"{array.size} edges",
                    rule="at least one edge, all finite, strictly increasing",
                )
        if self.length > MAX_LENGTH:
            raise ParameterError("The encoding is too long", got=f"{self.length} slots", rule=f"at most {MAX_LENGTH}")

    @property
    def n_features(self) -> int:
        """Number of input features d."""
        return len(self.edges)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of bins of each feature."""
        return tuple(len(inner) + 1 for inner in self.edges)

    def slots(self, X: Floats) -> npt.NDArray[np.int32]:
        """Return the slot of each feature's bin, shape (n, d), int32."""
        X = matrix(X, self.n_features)
        out = np.empty(X.shape, dtype=np.int32)
        for f, (inner, offset) in enumerate(zip(self.edges, self.offsets, strict=True)):
            out[:, f] = bin_index(X[:, f], np.asarray(inner)) + offset
        return out

    def dot(self, X: Floats, weights: Ints) -> Ints:
        """Sum of the weights at each record's slots, shape (n,), int64; one feature at a time."""
        X = matrix(X, self.n_features)
        total = np.zeros(len(X), dtype=np.int64)
        for f, table in enumerate(np.split(weights, self.offsets[1:])):
            total += table[bin_index(X[:, f], np.asarray(self.edges[f]))]
        return total

    def block_names(self, features: Sequence[str]) -> tuple[str, ...]:
        """A block is a feature."""
        return tuple(features)

    def same_form(self, other: Encoder) -> bool:
        """Whether both have as many bins everywhere, and edges that are equal up to their last bits."""
        return (
            isinstance(other, OneHotBins)
            and self.sizes == other.sizes
            and all(
                np.allclose(a, b, rtol=1e-9, atol=1e-9 * float(np.abs(b).max()))
                for a, b in zip(self.edges, other.edges, strict=True)
            )
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without ``kind``."""
        return {"edges": [list(inner) for inner in self.edges]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Rebuild from untrusted values; TypeError or ParameterError on anything malformed."""
        if set(value) != {"edges"}:
            raise TypeError
        total = 0
        edges = []
        for row in bounded_list(value["edges"]):
            inner = tuple(number(v) for v in bounded_list(row))
            total += len(inner) + 1
            if total > MAX_LENGTH:
                raise TypeError
            edges.append(inner)
        return cls(edges=tuple(edges))


def bin_index(x: Floats, edges: Floats) -> npt.NDArray[np.int32]:
    """Bin of each value: the number of edges at or below it; int32 in 0 .. len(edges).

    Equal to ``np.searchsorted(edges, x, side="right")``, but several times faster where the edges are evenly spaced:
    the bin is guessed by arithmetic and then corrected by comparing with the true neighbouring edges, so that the
    result does not depend on rounding.
    """
    k = edges.size
    step = (edges[-1] - edges[0]) / (k - 1) if k > 1 else 0.0
    if k < 4 or not np.allclose(np.diff(edges), step, rtol=1e-6, atol=0.0):
        return np.searchsorted(edges, x, side="right").astype(np.int32)
    with np.errstate(over="ignore"):  # far out of range: infinity is clipped like the rest
        guess = np.clip((x - edges[0]) * (1.0 / step), -1.0, float(k)).astype(np.int32)
    np.clip(guess, 0, k - 1, out=guess)
    # guess is within one of the truth: g' = #(edges <= x) is in {guess, guess + 1, guess + 2}
    padded = np.concatenate([edges, [np.inf, np.inf]])
    result = guess + (x >= padded[guess])
    result += x >= padded[result]
    result -= (result > 0) & (x < padded[np.maximum(result - 1, 0)])
    corrected: npt.NDArray[np.int32] = result.astype(np.int32, copy=False)
    return corrected
