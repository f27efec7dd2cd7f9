"""Locally grown isolation forests that vote: the classic federated isolation forest, with its leak named.

Each party grows trees on its own records and shows them, in the clear, to the coordinator; the ensemble of all forests
is the model. Nothing is summed, so nothing is masked, and the trees' cuts and path lengths are computed from records.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.circuits import MAX_DEPTH, Trees
from blindsight.data import Schema
from blindsight.errors import ParameterError

from ._base import EXACT_SCORE_BINS, Detector
from ._domains import seed_number, whole_number
from ._features import one_hot_bins
from ._queries import Local, Query, Total, Update, UpdateQuery
from ._scores import score_edges
from ._state import State
from .iforest import expected_path

__all__ = ["VotingForest"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CELLS = 256
"""Public cells per number feature: a party's cut is told to this precision and no finer."""

LENGTH_UNIT = 2.0**-8
"""One step of a path length, in tests."""

VOTE_STEPS = 1 << 16
"""Steps of one forest's vote between 0 and 1."""

MAX_FORESTS = 10_000


class VotingForest(Detector):
    """One isolation forest (Liu, Ting and Zhou 2008) a party, grown on its own records; the mean of their votes.

    Parameters
    ----------
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    trees : int in [1, 1024]
        Trees that each party grows.
    depth : int in [1, 8]
        Largest depth of a tree.
    samples : int in [2, 65536]
        Records, drawn at random, that each tree is grown on.
    seed : int in [0, 2**63)
        Of the draws.
    schema : Schema, optional
        Without it ``fit`` infers one and the ranges count as learned.

    Notes
    -----
    A forest votes ``2 ** -(mean path length / c(samples))``, the paper's score; every party has one vote, whatever its
    size. What a party has not seen its forest calls anomalous, so that where parties differ an :class:`IForest`, whose
    counts add up, knows more. Scores cannot be evaluated blind: the trees are the model, and a record owner would need
    them to encode its records.

    Privacy
    -------
    **Each party's forest is read by the coordinator, and is a release about its records.** A cut lies between the least
    and the greatest value of a few of the party's records, to a 256th of the declared range, and a path that ends early
    tells that one record lies there alone. Nothing is masked; no noise is added, and differential privacy is refused:
    use :class:`IForest`. Every party's policy must allow updates in the clear.
    """

    name = "VotingForest"

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        trees: int = 50,
        depth: int = 8,
        samples: int = 256,
        seed: int = 0,
        schema: Schema | None = None,
    ) -> None:
        self.contamination = contamination
        self.trees = trees
        self.depth = depth
        self.samples = samples
        self.seed = seed
        self.schema = schema

    def _validate(self) -> None:
        super()._validate()
        whole_number("trees", self.trees, 1, 1024)
        whole_number("depth", self.depth, 1, MAX_DEPTH)
        whole_number("samples", self.samples, 2, 1 << 16)
        seed_number(self.seed)

    # -- one query: a forest from each party ------------------------------------------------------------------------

    def _next_fit_query(self) -> Query:
        cells = one_hot_bins(self.schema_, CELLS)
        largest = max(cells.n_features, *cells.sizes, round(_longest(self.depth, self.samples) / LENGTH_UNIT))
        length = 1 + self.trees * _per_tree(self.depth)
        return UpdateQuery(
            name="forest",
            length=length,
            sensitivity_l2=float(largest) * float(np.sqrt(length)),
            max_abs=largest,
            update=self._grow,
            sampling_rate=1.0,
            steps=1,
            total_steps=1,
            masked=False,
            exact_only=True,
        )

    def _grow(self, local: Local) -> Update:
        """Grow this party's forest: a 1, then features, cuts and path lengths of every tree, one after the other."""
        if local.noise is not None:
            raise self._no_privacy()
        cells = one_hot_bins(self.schema_, CELLS)
        generator = np.random.default_rng(self.seed)
        rows = _sample(local, self.trees * self.samples, generator)
        values = np.zeros(1 + self.trees * _per_tree(self.depth), dtype=np.int64)
        if not len(rows):
            return Update(values=values, notice="no records: it grew no forest")
        cell = cells.slots(rows) - cells.offsets
        values[0] = 1
        for tree in values[1:].reshape(self.trees, -1):
            chosen = generator.permutation(len(cell))[: self.samples]
            tree[:] = _grow_tree(cell[chosen], self.depth, generator)
        return Update(values=values)

    def _advance_fit(self, query: Query, total: Total) -> None:  # noqa: ARG002 (there is one query)
        if total.noise_variance > 0:
            raise self._no_privacy()
        forests = np.asarray(total.values, dtype=np.int64)
        self._adopt(np.ascontiguousarray(forests[forests[:, 0] == 1, 1:]))

    def _no_privacy(self) -> ParameterError:
        return ParameterError(
            "VotingForest cannot be fitted with differential privacy",
            rule="each party shows trees grown on its records, exactly and in the clear",
            fix="use IForest, which sums counts on public trees",
        )

    def _adopt(self, forests: Ints) -> None:
        if forests.ndim != 2 or not 1 <= len(forests) <= MAX_FORESTS:
            raise ParameterError(
                "No usable forest", got=f"{len(forests)} forests", rule="at least one party with records"
            )
        if forests.shape[1] != self.trees * _per_tree(self.depth):
            raise ParameterError("A forest has the wrong length", got=str(forests.shape[1]))
        cells = one_hot_bins(self.schema_, CELLS)
        features, cuts, lengths = _parts(forests, self.depth)
        limits = (
            (features, cells.n_features - 1),
            (cuts, max(cells.sizes)),
            (lengths, round(_longest(self.depth, self.samples) / LENGTH_UNIT)),
        )
        if not all(((part >= 0) & (part <= high)).all() for part, high in limits):
            raise ParameterError("A forest does not fit the schema", rule="known features, cells and path lengths")
        self.forests_ = forests
        self.score_scale_ = 1.0 / (VOTE_STEPS * len(forests))

    def _can_score(self) -> bool:
        return hasattr(self, "forests_")

    # -- scoring ------------------------------------------------------------------------------------------------------

    def _integer_scores(self, X: Floats) -> Ints:
        cells = one_hot_bins(self.schema_, CELLS)
        features, cuts, lengths = _parts(self.forests_, self.depth)
        trees = Trees(features=features.astype(np.intp), cuts=cuts.astype(np.intp))
        votes = self._votes()
        out = np.zeros(len(X), dtype=np.int64)
        for start in range(0, len(X), 16_384):
            rows = slice(start, start + 16_384)
            cell = np.ascontiguousarray((cells.slots(X[rows]) - cells.offsets).astype(np.uint16).T)
            length = np.zeros(cell.shape[1], dtype=np.int64)
            for tree, (leaf, table) in enumerate(zip(trees.leaves(cell), lengths, strict=True), 1):
                length += table[leaf]
                if tree % self.trees == 0:
                    out[rows] += votes[length]
                    length[:] = 0
        return out

    def _votes(self) -> Ints:
        """One forest's vote by its trees' path lengths together: a table, so that no row depends on another."""
        expected = float(expected_path(np.array([float(self.samples)]))[0]) * self.trees / LENGTH_UNIT
        sums = np.arange(round(_longest(self.depth, self.samples) / LENGTH_UNIT) * self.trees + 1)
        votes: Ints = np.rint(VOTE_STEPS * np.exp2(-sums / expected)).astype(np.int64)
        return votes

    def _score_grid(self) -> Ints:
        high = VOTE_STEPS * len(self.forests_)
        return score_edges(0, high // 64, high, EXACT_SCORE_BINS)

    @property
    def n_records_(self) -> float:
        """Records in the score histogram; the forests do not tell."""
        self._check_fitted()
        return self.score_histogram_.n_records

    def noise_floor(self, noise_variance: float) -> int:  # noqa: ARG002 (there is no noise)
        """0: nothing here is noisy."""
        return 0

    @property
    def is_secret_(self) -> bool:
        """Never: the trees come from records, and whoever encodes a record needs them."""
        self._check_fitted()
        return False

    def describe_state(self) -> dict[str, Any]:
        """Numbers of forests and trees."""
        return {**super().describe_state(), "forests": len(self.forests_), "trees": len(self.forests_) * self.trees}

    def _dump(self) -> State:
        if not self._can_score():
            return State()
        return State(values={"forests": len(self.forests_)}, arrays={"forests": self.forests_})

    def _load(self, state: State) -> None:
        if not state.values and not state.arrays:
            return
        forests = state.arrays["forests"]
        if set(state.values) != {"forests"} or set(state.arrays) != {"forests"} or forests.dtype != np.int64:
            raise ValueError("the state has unknown parts")
        self._adopt(forests)
        if state.values["forests"] != len(forests):
            raise ValueError("the state has another number of forests than it says")


def _per_tree(depth: int) -> int:
    inner: int = 2**depth - 1
    return 3 * inner + 1


def _parts(forests: Ints, depth: int) -> tuple[Ints, Ints, Ints]:
    """Features, cuts and path lengths, one row a tree."""
    inner = 2**depth - 1
    rows = forests.reshape(-1, _per_tree(depth))
    return rows[:, :inner], rows[:, inner : 2 * inner], rows[:, 2 * inner :]


def _longest(depth: int, samples: int) -> float:
    return depth + float(expected_path(np.array([float(samples)]))[0])


def _sample(local: Local, size: int, generator: np.random.Generator) -> Floats:
    """Draw at most ``size`` of the party's records, each equally likely, in one pass: the smallest of random keys."""
    kept: Floats | None = None
    keys = np.empty(0)
    for chunk in local.records():
        kept = chunk.X if kept is None else np.concatenate([kept, chunk.X])
        keys = np.concatenate([keys, generator.random(len(chunk.X))])
        if len(keys) > size:
            smallest = np.sort(np.argpartition(keys, size)[:size])
            kept, keys = kept[smallest], keys[smallest]
    return np.empty((0, 0)) if kept is None else kept


def _grow_tree(cell: Ints, depth: int, generator: np.random.Generator) -> Ints:
    """Grow one tree; node by node a random feature that varies, cut uniformly between its least and greatest cell."""
    inner = 2**depth - 1
    features, cuts = np.zeros((2, inner), dtype=np.int64)
    lengths = np.zeros(2**depth)
    waiting = [(0, 0, np.arange(len(cell)))]
    while waiting:
        node, level, here = waiting.pop()
        low, high = cell[here].min(axis=0), cell[here].max(axis=0)  # no cut leaves a side empty
        varying = np.flatnonzero(high > low)
        if level == depth or len(here) <= 1 or not varying.size:
            # an early end: whatever comes below is a leaf of this one
            first = (node + 1) * 2 ** (depth - level) - 1 - inner
            length = level + expected_path(np.array([float(len(here))]))[0]
            lengths[first : first + 2 ** (depth - level)] = length
            continue
        feature = int(generator.choice(varying))
        cut = int(generator.integers(low[feature], high[feature]))
        features[node], cuts[node] = feature, cut
        right = cell[here, feature] > cut
        waiting += [(2 * node + 1, level + 1, here[~right]), (2 * node + 2, level + 1, here[right])]
    whole: Ints = np.concatenate([features, cuts, np.rint(lengths / LENGTH_UNIT).astype(np.int64)])
    return whole
