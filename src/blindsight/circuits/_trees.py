"""Complete random trees drawn from a public seed: what isolation forests look at, and how to walk them quickly."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

from ._bins import OneHotBins, bin_index
from ._encoding import MAX_LENGTH, Encoder, Floats, Ints, OneHot, matrix

__all__ = ["MAX_DEPTH", "TreeLeaves", "Trees"]

Cells = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Words = npt.NDArray[np.uint64]

MAX_DEPTH = 8
"""A leaf's number is one byte."""

MAX_DRAWING = 1 << 30
"""Largest leaves x features: what drawing the trees costs, and another party may ask for it."""

STREAM = 1
"""Second half of the generator's key: other structures of the same seed use other streams."""

CHUNK_ROWS = 16_384
"""Rows walked at a time: a test's bits for all of them are 2 KiB, and a tree's reach stays in the L2 cache."""

FEW_ROWS = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Trees:
    """Complete binary trees over the cells of features; a record goes right where ``cell > cut``.

    Parameters
    ----------
    features : ndarray of shape (trees, 2**depth - 1), intp
        Feature that each node tests; children of node i are 2 i + 1 (left) and 2 i + 2 (right).
    cuts : ndarray of shape (trees, 2**depth - 1), intp
        A cut at or above the feature's last cell sends everything left.
    """

    features: npt.NDArray[np.intp]
    cuts: npt.NDArray[np.intp]

    @property
    def depth(self) -> int:
        """Number of tests on every path."""
        return int(self.features.shape[1] + 1).bit_length() - 1

    @functools.cached_property
    def _tests(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Different tests by feature and cut, and which of them each node makes."""
        width = int(self.cuts.max()) + 1
        distinct, node = np.unique(self.features * width + self.cuts, return_inverse=True)
        return distinct // width, distinct % width, node.reshape(self.features.shape)

    def leaves(self, cells: Cells) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield, tree after tree, the leaf of every record.

        Parameters
        ----------
        cells : ndarray of shape (d, n), uint8 or uint16
            Cell of each feature of each record.

        Yields
        ------
        ndarray of shape (n,), uint8
            Valid until the next one is asked for.

        Notes
        -----
        64 records to a machine word: every distinct test is made once for all trees, as one bit a record. From the root
        down, a node's reach is the set of records that come to it; the union of the right children's reach on a level
        is one bit of the leaf's number. All work is bitwise on whole levels, and no step depends on a record.
        """
        n = cells.shape[1]
        if n < FEW_ROWS:
            yield from self._leaves_of_few(cells)
            return
        depth = self.depth
        words = -(-n // 64)
        features, cuts, node = self._tests
        bits = np.zeros((len(features), words * 8), dtype=np.uint8)
        starts = np.flatnonzero(np.diff(features, prepend=-1))
        for start, stop in zip(starts, np.append(starts[1:], len(features)), strict=True):
            right = cells[features[start]] > cuts[start:stop, None].astype(cells.dtype)
            bits[start:stop, : -(-n // 8)] = np.packbits(right, axis=1, bitorder="little")
        tests = bits.view(np.uint64)
        taken = np.empty((node.shape[1], words), dtype=np.uint64)
        reach = np.empty((2**depth - 1, words), dtype=np.uint64)
        reach[0] = ~np.uint64(0)
        number = np.zeros((8, words), dtype=np.uint64)
        spare = np.empty(words * 8, dtype=np.uint64)
        for tree in node:
            np.take(tests, tree, axis=0, out=taken, mode="clip")  # "clip" is what lets take write into ``out`` directly
            for level in range(depth):
                first, last = 2**level - 1, 2 ** (level + 1) - 1
                here, right_part = reach[first:last], taken[first:last]
                right_part &= here
                np.bitwise_or.reduce(right_part, axis=0, out=number[depth - 1 - level])
                if level < depth - 1:
                    children = reach[last : 2 * last + 1].reshape(-1, 2, words)
                    children[:, 1] = right_part
                    np.bitwise_xor(here, right_part, out=children[:, 0])
            yield _bytes_of_bits(number, spare)[:n]

    def _leaves_of_few(self, cells: Cells) -> Iterator[npt.NDArray[np.uint8]]:
        """Walk all trees at once, level by level: less to set up."""
        row, tree = np.arange(cells.shape[1])[:, None], np.arange(len(self.features))
        node = np.zeros((cells.shape[1], len(tree)), dtype=np.intp)
        for _ in range(self.depth):
            node = 2 * node + 1 + (cells[self.features[tree, node], row] > self.cuts[tree, node])
        yield from (node - (2**self.depth - 1)).astype(np.uint8).T


def _bytes_of_bits(planes: Words, spare: Words) -> npt.NDArray[np.uint8]:
    """Gather bit i of eight bit planes into byte i: the 8 x 8 transpose of Hacker's Delight, section 7-3."""
    blocks = np.ascontiguousarray(planes.view(np.uint8).T).view(np.uint64).ravel()
    for mask, shift in ((0x00AA00AA00AA00AA, 7), (0x0000CCCC0000CCCC, 14), (0x00000000F0F0F0F0, 28)):
        np.right_shift(blocks, np.uint64(shift), out=spare)
        spare ^= blocks
        spare &= np.uint64(mask)
        blocks ^= spare
        spare <<= np.uint64(shift)
        blocks ^= spare
    return blocks.view(np.uint8)


@functools.lru_cache(maxsize=8)
def _draw(sizes: tuple[int, ...], trees: int, depth: int, seed: int) -> Trees:
    """Draw the trees: at every node a feature that still has an edge inside the cell, then one of these edges.

    Both uniform, from the raw words of Philox (Salmon et al. 2011), whose stream is fixed for good, by integers alone:
    every platform draws the same.
    """
    words = np.random.Philox(key=np.array([seed, STREAM], dtype=np.uint64)).random_raw
    features = np.empty((trees, 2**depth - 1), dtype=np.intp)
    cuts = np.empty_like(features)
    for tree in range(trees):
        low = np.zeros((1, len(sizes)), dtype=np.int64)
        high = np.asarray([sizes], dtype=np.int64) - 1
        for level in range(depth):
            nodes = np.arange(2**level)
            here = slice(2**level - 1, 2 ** (level + 1) - 1)
            room = high - low
            eligible = np.cumsum(room > 0, axis=1, dtype=np.int64)
            count = eligible[:, -1]
            drawn = words(2 * 2**level).reshape(2, -1) >> np.uint64(32)
            feature = np.argmax(eligible > _below(drawn[0], count)[:, None], axis=1)
            cut = low[nodes, feature] + _below(drawn[1], room[nodes, feature])
            cut = np.where(count > 0, cut, sizes[0] - 1)  # no feature has an edge left: all go left
            features[tree, here] = np.where(count > 0, feature, 0)
            cuts[tree, here] = cut
            open_nodes = nodes[count > 0]
            low, high = np.repeat(low, 2, axis=0), np.repeat(high, 2, axis=0)
            high[2 * open_nodes, feature[open_nodes]] = cut[open_nodes]
            low[2 * open_nodes + 1, feature[open_nodes]] = cut[open_nodes] + 1
    return Trees(features=features, cuts=cuts)


def _below(words: Words, bounds: Ints) -> Ints:
    """Scale 32-bit words to 0 .. bound - 1, each as likely to one part in ``2**32 / bound``."""
    scaled: Ints = (words.astype(np.int64) * bounds) >> 32
    return scaled


@dataclass(frozen=True, kw_only=True)
class TreeLeaves(OneHot):
    """One-hot leaf in each of many complete random trees: every record has exactly one 1 per tree.

    Parameters
    ----------
    edges : tuple of tuple of float
        Per feature the edges of its cells, as in :class:`OneHotBins`: where trees may cut. Evenly spaced on the public
        scale, a cut is uniform in the node's cell of the unit cube; values beyond the range fall in the outer cells.
    trees : int
        Number of trees.
    depth : int in [1, 8]
        Tests on every path; a tree has ``2**depth`` leaves.
    seed : int in [0, 2**63)
        Public; the trees follow from it, from ``trees``, ``depth`` and the number of edges of each feature.
    """

    kind: ClassVar[str] = "tree_leaves"

    edges: tuple[tuple[float, ...], ...]
    trees: int
    depth: int
    seed: int

    def __post_init__(self) -> None:
        cells = OneHotBins(edges=self.edges)  # checks the edges
        if max(cells.sizes) > 1 << 16:
            raise ParameterError("A feature has too many cells", got=str(max(cells.sizes)), rule="at most 65536")
        if not 1 <= self.depth <= MAX_DEPTH or not 0 <= self.seed < 1 << 63:
            raise ParameterError(
                "The trees are out of their domain",
                got=f"depth={self.depth}, seed={self.seed}"[:80],
                rule=f"1 <= depth <= {MAX_DEPTH}, 0 <= seed < 2**63",
            )
        if not 1 <= self.trees <= MAX_LENGTH >> self.depth or self.length * self.n_features > MAX_DRAWING:
            raise ParameterError(
                "The encoding is too long",
                got=f"{self.trees} trees of depth {self.depth} over {self.n_features} features",
                rule=f"at most {MAX_LENGTH} leaves, and {MAX_DRAWING} leaves times features",
            )

    @property
    def n_features(self) -> int:
        """Number of input features d."""
        return len(self.edges)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of leaves of each tree."""
        return (2**self.depth,) * self.trees

    @property
    def structure(self) -> Trees:
        """The trees themselves."""
        return _draw(tuple(len(inner) + 1 for inner in self.edges), self.trees, self.depth, self.seed)

    def _cells(self, X: Floats) -> Cells:
        """Cell of each value, shape (d, n), as the shortest integers that hold them."""
        edges = [np.asarray(inner) for inner in self.edges]
        small = max(len(inner) for inner in edges) < 1 << 8
        shape = X.shape[::-1]
        out: Cells = np.empty(shape, dtype=np.uint8) if small else np.empty(shape, dtype=np.uint16)
        for f, inner in enumerate(edges):
            # below some hundred rows bin_index's shortcut costs more than it saves
            out[f] = bin_index(X[:, f], inner) if len(X) > 256 else np.searchsorted(inner, X[:, f], side="right")
        return out

    def _walk(self, X: Floats) -> Iterator[tuple[slice, int, npt.NDArray[np.uint8]]]:
        """Yield (rows, tree, leaf of each of these rows)."""
        X = matrix(X, self.n_features)
        structure = self.structure
        for start in range(0, len(X), CHUNK_ROWS):
            rows = slice(start, min(start + CHUNK_ROWS, len(X)))
            for tree, leaf in enumerate(structure.leaves(self._cells(X[rows]))):
                yield rows, tree, leaf

    def slots(self, X: Floats) -> npt.NDArray[np.int32]:
        """Return the slot of each record's leaf in each tree, shape (n, trees), int32."""
        out = np.empty((self.trees, len(X)), dtype=np.int32)
        for rows, tree, leaf in self._walk(X):
            np.add(leaf, tree << self.depth, out=out[tree, rows], dtype=np.int32)
        return out.T

    def dot(self, X: Floats, weights: Ints) -> Ints:
        """Sum of the weights of each record's leaves, shape (n,), int64; no array is longer than a chunk."""
        total = np.zeros(len(X), dtype=np.int64)
        tables = np.asarray(weights, dtype=np.int64).reshape(self.trees, -1)
        for rows, tree, leaf in self._walk(X):
            total[rows] += np.take(tables[tree], leaf)
        return total

    def count(self, X: Floats, accumulator: Ints) -> None:
        """Add every record's encoding to ``accumulator``, shape (m,), int64, in place."""
        masses = accumulator.reshape(self.trees, -1)
        for _, tree, leaf in self._walk(X):
            masses[tree] += np.bincount(leaf, minlength=2**self.depth)

    def block_names(self, features: Sequence[str]) -> tuple[str, ...]:
        """A block is a tree: tree 0 and so on."""
        del features
        return tuple(f"tree {b}" for b in range(self.trees))

    def same_form(self, other: Encoder) -> bool:
        """Whether both have the same trees, and edges that are equal up to their last bits."""
        return (
            isinstance(other, TreeLeaves)
            and (self.trees, self.depth, self.seed) == (other.trees, other.depth, other.seed)
            and OneHotBins(edges=self.edges).same_form(OneHotBins(edges=other.edges))
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without ``kind``: edges and seed, not the trees."""
        edges = [list(inner) for inner in self.edges]
        return {"edges": edges, "trees": self.trees, "depth": self.depth, "seed": self.seed}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Rebuild from untrusted values; TypeError or ParameterError on anything malformed."""
        if set(value) != {"edges", "trees", "depth", "seed"}:
            raise TypeError
        trees, depth, seed = value["trees"], value["depth"], value["seed"]
        if not type(trees) is type(depth) is type(seed) is int:
            raise TypeError
        edges = OneHotBins.from_json({"edges": value["edges"]}).edges
        return cls(edges=edges, trees=trees, depth=depth, seed=seed)
