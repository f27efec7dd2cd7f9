"""Isolation forest by counting: how early a record comes to lie alone in public random trees.

Parties sum: one count per leaf and tree. Combine: the masses of inner nodes are sums of leaves, and path lengths follow
from the masses. Circuit: the inner product of the one-hot leaves with a table of path lengths.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from blindsight.circuits import MAX_DEPTH, OneHot, TreeLeaves
from blindsight.data import Records, Schema

from ._counting import CountingDetector
from ._counts import BlockCounts
from ._domains import choice, number, seed_number, whole_number
from ._features import one_hot_bins
from ._own_records import content_hash
from ._queries import SumQuery

__all__ = ["IForest", "expected_path", "path_lengths"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CELLS = 64
"""Cells per number feature: trees cut at their edges. More cells rank no better."""

RECORD_MASS = 100.0
"""Every fitted record counts as so many: a leaf that holds one record is told from one that holds none, and what noise
leaves of an empty leaf is not. On clean normals it ranks better than 1; see the class's notes."""


class IForest(CountingDetector):
    """Isolation forest (Liu, Ting and Zhou 2008) on complete trees that a public seed draws.

    Parameters
    ----------
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    trees : int in [1, 4096]
        Number of trees. One hundred rank a little better than fifty, and double the encoding.
    depth : int in [1, 8]
        Tests on a path. The paper's trees, grown on 256 records, are cut off at 8 too.
    subsample : float in (0, 1]
        Fraction of the trees that each record counts in, rounded to whole trees: every tree then sees that fraction of
        the records. 1, the default, ranks as well and is better under noise: see the notes.
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

    The paper grows each tree on a few hundred records, which also keeps crowded anomalies apart. Here nothing is grown,
    and a record that counts in s of T trees lowers the noise by ``sqrt(s / T)`` but the counts by ``s / T``
    (benchmarks/subsample.py). Which trees those are follows from the record's own values, by a public hash: the same
    at every party, when it is forgotten, and in a central fit. Equal records share their trees.

    Categories are cut by the order in which they are declared.

    Privacy
    -------
    One record adds 1 to exactly one leaf of each tree that it counts in: L2 sensitivity sqrt(subsample * trees), add or
    remove one record. Only leaves are asked for. Exact counts are a release about persons: a leaf may hold one of them.
    """

    name = "IForest"

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        trees: int = 50,
        depth: int = 8,
        subsample: float = 1.0,
        scales: Literal["declared", "learned"] = "declared",
        seed: int = 0,
        schema: Schema | None = None,
    ) -> None:
        self.contamination = contamination
        self.trees = trees
        self.depth = depth
        self.subsample = subsample
        self.scales = scales
        self.seed = seed
        self.schema = schema

    def _validate(self) -> None:
        super()._validate()
        whole_number("trees", self.trees, 1, 4096)
        whole_number("depth", self.depth, 1, MAX_DEPTH)
        number("subsample", self.subsample, 0.0, 1.0, open_low=True)
        seed_number(self.seed)
        choice("scales", self.scales, ("declared", "learned"))

    def _learns_scales(self) -> bool:
        return self.scales == "learned"

    def encoder(self, schema: Schema) -> TreeLeaves:
        """Build the public trees: a function of schema and parameters and, with learned scales, the preparation."""
        if self.preparation_ is None:
            edges = one_hot_bins(schema, CELLS).edges
        else:
            edges = self.preparation_.even_edges(schema, CELLS)
        return TreeLeaves(edges=edges, trees=self.trees, depth=self.depth, seed=self.seed)

    @property
    def _ones_of_a_record(self) -> int:
        return max(1, round(self.subsample * self.trees))

    def fit_query(self, schema: Schema) -> SumQuery:
        """Counts per tree and leaf; L2 sensitivity sqrt(subsample * trees)."""
        query, per_record = super().fit_query(schema), self._ones_of_a_record
        if per_record == self.trees:
            return query
        encoder = self.encoder(schema)
        places = np.arange(self.trees)

        def add(accumulator: Ints, chunk: Records) -> None:
            # trees are alike, so that neighbouring ones are as good as any
            first = (content_hash(chunk.X) >> np.uint64(32)).astype(np.int64) % self.trees
            counts = (places - first[:, None]) % self.trees < per_record
            accumulator += np.bincount(encoder.slots(chunk.X)[counts], minlength=encoder.length)

        return replace(query, sensitivity_l2=math.sqrt(per_record), add=add)

    def noise_floor(self, noise_variance: float) -> int:
        """Records that outnumber the noise of one tree's leaves, all together, two to one."""
        return math.ceil(super().noise_floor(noise_variance) * self.trees / self._ones_of_a_record)

    def _tables(self, schema: Schema, encoder: OneHot, counts: BlockCounts) -> list[Floats]:  # noqa: ARG002
        lengths = path_lengths(np.array(counts.blocks) * RECORD_MASS)
        return list(lengths.max() - lengths)

    def _first_score(self) -> tuple[int, int]:
        low, high = self.circuit_.bounds(self.encoder_)
        return low, max((high - low) // 100, 1)

    @property
    def _slots_per_block(self) -> int:
        leaves: int = 2**self.depth
        return leaves


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
