"""Isolation forest by counting: how early a record comes to lie alone in public random trees.

Parties sum: one count per leaf and tree. Combine: the masses of inner nodes are sums of leaves, and path lengths follow
from the masses. Circuit: the inner product of the one-hot leaves with a table of path lengths.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from blindsight.circuits import MAX_DEPTH, InnerProduct, TreeLeaves
from blindsight.data import Records, Schema
from blindsight.errors import ParameterError

from ._counts import consistent_counts
from ._features import one_hot_bins
from ._queries import SumQuery, Total
from ._sums import SumDetector

__all__ = ["IForest", "expected_path", "path_lengths"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CELLS = 64
"""Cells per number feature: trees cut at their edges. More cells rank no better."""

TABLE_UNIT = 2.0**-10
"""One table step, in tests on a path."""

RECORD_MASS = 100.0
"""Every fitted record counts as so many: a leaf that holds one record is told from one that holds none, and what noise
leaves of an empty leaf is not. On clean normals it ranks better than 1; see the class's notes."""


class IForest(SumDetector):
    """Isolation forest (Liu, Ting and Zhou 2008) on complete trees that a public seed draws.

    Parameters
    ----------
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    trees : int in [1, 4096]
        Number of trees. One hundred rank a little better than fifty, and double the encoding.
    depth : int in [1, 8]
        Tests on a path. The paper's trees, grown on 256 records, are cut off at 8 too.
    scales : {"declared", "learned"}
        Where trees may cut: over the declared ranges, or over the middle of the data as one more private histogram
        tells it, which costs budget and marks the model "not secret". For ranges that are much wider than the data.
    seed : int in [0, 2**63)
        Public: every party and every record owner draws the same trees from it.
    schema : Schema, optional
        Without it ``fit`` infers one and the ranges count as learned.

    Notes
    -----
    Trees see no data: at a node, a random feature is cut at one of 63 evenly spaced places that lie inside the node's
    cell (cf. the half-space trees of Tan, Ting and Liu 2011). The path length of a leaf is that of the paper, the depth
    at which the record lies alone or the depth of the tree plus ``c(mass)``, with each record counted as
    ``RECORD_MASS``. The score is the mean over the trees of the longest path's length less the record's: linear in the
    one-hot leaves, and of the same order as the paper's ``2 ** -(length / c(n))``.

    There is no subsampling. The paper's lowers the cost of growing trees, of which there is none here; and a record
    that counts in s of T trees lowers the noise by ``sqrt(s / T)`` but the counts by ``s / T``.

    Categories are cut by the order in which they are declared.

    Privacy
    -------
    One record adds 1 to exactly one leaf of each tree: L2 sensitivity sqrt(trees), add or remove one record. Only
    leaves are asked for. Exact counts are a release about persons: a leaf may hold one of them.
    """

    name = "IForest"

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        trees: int = 50,
        depth: int = 8,
        scales: Literal["declared", "learned"] = "declared",
        seed: int = 0,
        schema: Schema | None = None,
    ) -> None:
        self.contamination = contamination
        self.trees = trees
        self.depth = depth
        self.scales = scales
        self.seed = seed
        self.schema = schema

    def _validate(self) -> None:
        super()._validate()
        for name, low, high in (("trees", 1, 4096), ("depth", 1, MAX_DEPTH), ("seed", 0, (1 << 63) - 1)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ParameterError(
                    f"{name} is out of its domain",
                    got=repr(value)[:60],
                    rule=f"a whole number, {low} to {high}",
                    fix=f"leave {name} out for its default",
                )
        if self.scales not in ("declared", "learned"):
            raise ParameterError(
                "scales is out of its domain", got=repr(self.scales)[:60], rule="'declared' or 'learned'"
            )

    def _learns_scales(self) -> bool:
        return self.scales == "learned"

    def encoder(self, schema: Schema) -> TreeLeaves:
        """Build the public trees: a function of schema and parameters and, with learned scales, the preparation."""
        if self.preparation_ is None:
            edges = one_hot_bins(schema, CELLS).edges
        else:
            edges = self.preparation_.even_edges(schema, CELLS)
        return TreeLeaves(edges=edges, trees=self.trees, depth=self.depth, seed=self.seed)

    def fit_query(self, schema: Schema) -> SumQuery:
        """Counts per tree and leaf; L2 sensitivity sqrt(trees)."""
        self._validate()
        encoder = self.encoder(schema)

        def add(accumulator: Ints, chunk: Records) -> None:
            encoder.count(chunk.X, accumulator)

        return SumQuery(
            name="fit",
            length=encoder.length,
            sensitivity_l2=math.sqrt(encoder.trees),
            max_abs=1,
            add=add,
        )

    def _build(self, schema: Schema, total: Total) -> tuple[TreeLeaves, InnerProduct, float]:
        encoder = self.encoder(schema)
        leaves = np.asarray(total.values, dtype=np.int64).reshape(encoder.trees, -1)
        n = max(float(leaves.sum()) / encoder.trees, 1.0)
        if total.noise_variance > 0:
            masses = np.array([consistent_counts(row, n) for row in leaves])
        else:
            masses = leaves.astype(np.float64)
        lengths = path_lengths(masses * RECORD_MASS)
        weights = np.rint((lengths.max() - lengths) / TABLE_UNIT).astype(np.int64)
        return encoder, InnerProduct(weights=weights.reshape(-1)), TABLE_UNIT / encoder.trees

    def _first_score(self) -> tuple[int, int]:
        low, high = self.circuit_.bounds(self.encoder_)
        return low, max((high - low) // 100, 1)

    @property
    def n_records_(self) -> float:
        """Mean over the trees of their total count."""
        self._check_fitted()
        return max(float(self.totals_.sum()) / self.trees, 0.0)

    def noise_floor(self, noise_variance: float) -> int:
        """Records that outnumber the noise of one tree's leaves, all together, two to one."""
        return math.ceil(2.0 * math.sqrt(noise_variance * 2**self.depth))


def path_lengths(masses: Floats) -> Floats:
    """Length of the path to each leaf: tests until the record lies alone, or all of them and ``c(mass)``.

    Parameters
    ----------
    masses : ndarray of shape (trees, 2**depth), float64
        Records in each leaf.

    Returns
    -------
    ndarray of shape (trees, 2**depth), float64
    """
    lengths = expected_path(masses)
    inner, below = masses, 1
    while inner.shape[1] > 1:
        inner, below = inner[:, 0::2] + inner[:, 1::2], 2 * below
        lengths += np.repeat(inner > 1.0, below, axis=1)
    return lengths


def expected_path(mass: Floats) -> Floats:
    """Average path length c(n) of an unsuccessful search in a binary search tree (Liu et al. 2008, equation 1).

    0 at or below one record, 1 at two, and linear between.
    """
    beyond = np.maximum(mass, 2.0)
    expected: Floats = 2.0 * (np.log(beyond - 1.0) + np.euler_gamma) - 2.0 * (beyond - 1.0) / beyond
    return np.where(mass > 2.0, expected, np.clip(mass - 1.0, 0.0, 1.0))
