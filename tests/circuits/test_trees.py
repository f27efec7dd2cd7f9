"""Tree leaves against a walk written out, one record and one test at a time."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.circuits import TreeLeaves, Trees, encoder_from_json, encoder_to_json, even_edges
from blindsight.errors import FormatError, ParameterError


def forest(*, d: int = 3, cells: int = 64, trees: int = 7, depth: int = 5, seed: int = 1) -> TreeLeaves:
    inner = tuple(even_edges(0.0, 1.0, cells - 1, log=False).tolist())
    return TreeLeaves(edges=(inner,) * d, trees=trees, depth=depth, seed=seed)


def leaves_by_hand(encoder: TreeLeaves, X: np.ndarray) -> np.ndarray:
    """Leaf of each record in each tree, shape (n, trees)."""
    trees = encoder.structure
    out = np.empty((len(X), encoder.trees), dtype=np.int64)
    for i, row in enumerate(X):
        cell = [
            int(np.searchsorted(inner, value, side="right")) for inner, value in zip(encoder.edges, row, strict=True)
        ]
        for t in range(encoder.trees):
            node = 0
            for _ in range(encoder.depth):
                node = 2 * node + (2 if cell[trees.features[t, node]] > trees.cuts[t, node] else 1)
            out[i, t] = node - (2**encoder.depth - 1)
    return out


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 200, 16_384 + 70])
def test_any_number_of_rows_comes_to_the_leaves_found_by_hand(rows: int) -> None:
    encoder = forest(trees=5, depth=8)
    X = np.random.default_rng(rows).normal(0.5, 0.4, size=(rows, 3))
    sample = np.unique(np.concatenate([np.arange(min(rows, 100)), np.arange(max(rows - 100, 0), rows)]))
    slots = encoder.slots(X)
    assert slots.shape == (rows, 5)
    assert slots.dtype == np.int32
    assert np.array_equal(slots[sample], leaves_by_hand(encoder, X[sample]) + 256 * np.arange(5))


@given(
    st.integers(1, 8),
    st.integers(1, 6),
    st.integers(1, 9),
    st.lists(st.integers(1, 300), min_size=1, max_size=4),
    st.integers(0, 2**63 - 1),
    st.sampled_from([3, 130]),
)
@settings(max_examples=60, deadline=None)
def test_dot_and_count_are_those_of_the_dense_encoding(
    depth: int, trees: int, spread: int, sizes: list[int], seed: int, rows: int
) -> None:
    """Also where features are so coarse that paths run out of cuts, and so fine that cells need two bytes."""
    edges = tuple(tuple((np.arange(k) + 0.5).tolist()) for k in sizes)
    encoder = TreeLeaves(edges=edges, trees=trees, depth=depth, seed=seed)
    generator = np.random.default_rng(seed)
    X = generator.integers(-2, 32 * spread, size=(rows, len(sizes))).astype(np.float64)
    weights = generator.integers(-(2**39), 2**39, size=encoder.length)
    dense = encoder.encode(X)
    assert dense.sum() == rows * trees
    assert np.array_equal(dense @ weights, encoder.dot(X, weights))
    accumulator = np.arange(encoder.length)
    encoder.count(X, accumulator)
    assert np.array_equal(accumulator, np.arange(encoder.length) + dense.sum(axis=0))
    assert np.array_equal(encoder.slots(X), leaves_by_hand(encoder, X) + 2**depth * np.arange(trees))


def test_cuts_lie_inside_their_node_and_are_uniform_there() -> None:
    encoder = forest(d=2, cells=64, trees=400, depth=6)
    trees = encoder.structure
    positions = []
    for features, cuts in zip(trees.features, trees.cuts, strict=True):
        for node in range(len(cuts)):
            low, high, child = [0, 0], [63, 63], node
            path = []
            while child:
                path.append((child, (child - 1) // 2))
                child = (child - 1) // 2
            for child, parent in reversed(path):
                f, cut = features[parent], cuts[parent]
                if child == 2 * parent + 1:
                    high[f] = min(high[f], cut)
                else:
                    low[f] = max(low[f], cut + 1)
            if any(a > b for a, b in zip(low, high, strict=True)):
                continue  # right of a node that had no cut left: nothing comes here
            f = features[node]
            if high[f] == low[f]:
                assert high == low, "a node without a cut has a feature that could be cut"
                continue
            assert low[f] <= cuts[node] < high[f]
            if high[f] - low[f] >= 16:
                positions.append((cuts[node] - low[f] + 0.5) / (high[f] - low[f]))
    assert abs(np.mean(positions) - 0.5) < 0.02
    assert abs(np.var(positions) - 1 / 12) < 0.005
    assert abs(trees.features[:, 0].mean() - 0.5) < 0.1


def test_the_drawn_trees_are_fixed_for_good() -> None:
    trees = forest(d=20, trees=50, depth=8, seed=12345).structure
    drawn = np.stack([trees.features, trees.cuts]).astype("<i8")
    assert (
        hashlib.sha256(drawn.tobytes()).hexdigest()
        == "dd30238512d3bc2bcac2e0701de8176bac64c44d96cc5c15fa0e25a77312b0cd"
    )


def test_another_seed_draws_other_trees() -> None:
    assert not np.array_equal(forest(seed=1).structure.cuts, forest(seed=2).structure.cuts)


def test_a_category_is_cut_between_codes_and_keeps_a_cell_for_the_undeclared() -> None:
    encoder = TreeLeaves(edges=((0.5, 1.5, 2.5),), trees=3, depth=3, seed=0)
    slots = encoder.slots(np.array([[0.0], [1.0], [2.0], [3.0]]))
    assert all(len(set(column.tolist())) == 4 for column in slots.T)


def test_json_there_and_back() -> None:
    encoder = forest()
    value = json.loads(json.dumps(encoder_to_json(encoder)))
    assert set(value) == {"kind", "edges", "trees", "depth", "seed"}
    assert encoder_from_json(value) == encoder
    assert encoder.same_form(encoder_from_json(value))
    assert not encoder.same_form(forest(seed=9))
    nudged = {**value, "edges": [[float(np.nextafter(e, 2)) for e in inner] for inner in value["edges"]]}
    assert encoder.same_form(encoder_from_json(nudged))


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 9},
        {"depth": 0},
        {"depth": True},
        {"depth": 5.0},
        {"trees": 0},
        {"trees": 1 << 20},
        {"trees": "7"},
        {"seed": -1},
        {"seed": 1 << 63},
        {"edges": []},
        {"edges": [[]]},
        {"edges": [[0.0, 0.0]]},
        {"edges": [[float("nan")]]},
        {"edges": "x"},
        {"edges": [[0.5]] * 40_000, "trees": 4096, "depth": 8},
        {"extra": 1},
    ],
)
def test_malformed_json_is_refused_before_a_tree_is_drawn(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        encoder_from_json({**encoder_to_json(forest()), **change})


def test_too_many_cells_are_refused() -> None:
    with pytest.raises(ParameterError, match="cells"):
        TreeLeaves(edges=(tuple(float(v) for v in range(1 << 16)),), trees=1, depth=1, seed=0)


def test_trees_that_did_not_come_from_a_seed_are_walked_too() -> None:
    """A cut above every cell sends all to the left."""
    trees = Trees(features=np.array([[0, 1, 0]]), cuts=np.array([[3, 255, 1]]))
    cells = np.array([[0, 2, 4, 255], [9, 9, 9, 255]], dtype=np.uint8)
    for repeat in (1, 40):
        (leaves,) = (leaf.copy() for leaf in trees.leaves(np.tile(cells, repeat)))
        assert leaves.tolist() == [0, 0, 3, 3] * repeat
