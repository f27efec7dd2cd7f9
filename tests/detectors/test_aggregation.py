"""Robust aggregation and server optimisers against naive re-implementations."""

from __future__ import annotations

import numpy as np
import pytest

from blindsight.detectors._aggregation import krum, median, robust, server_step, trimmed_mean
from blindsight.errors import ParameterError


@pytest.fixture(params=[3, 7, 10])
def updates(request: pytest.FixtureRequest) -> np.ndarray:
    return np.random.default_rng(request.param).normal(size=(request.param, 5))


def test_median_is_the_middle_of_each_coordinate(updates: np.ndarray) -> None:
    for j, column in enumerate(updates.T):
        ordered = sorted(column)
        n = len(ordered)
        middle = ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2
        assert median(updates)[j] == pytest.approx(middle)


@pytest.mark.parametrize("trimmed", [0.0, 0.2, 0.3])
def test_trimmed_mean_leaves_out_both_ends(updates: np.ndarray, trimmed: float) -> None:
    cut = int(trimmed * len(updates))
    for j, column in enumerate(updates.T):
        kept = sorted(column)[cut : len(column) - cut]
        assert trimmed_mean(updates, trimmed)[j] == pytest.approx(sum(kept) / len(kept))


def test_krum_is_the_update_with_the_nearest_neighbours() -> None:
    updates = np.random.default_rng(4).normal(size=(9, 6))
    hostile = int(0.25 * 9)
    scores = []
    for i in range(9):
        distances = sorted(float(((updates[i] - updates[j]) ** 2).sum()) for j in range(9) if j != i)
        scores.append(sum(distances[: 9 - hostile - 2]))
    assert np.array_equal(krum(updates, 0.25), updates[int(np.argmin(scores))])


@pytest.mark.parametrize("how", ["median", "trimmed-mean", "krum"])
def test_one_wild_update_does_not_move_the_result_far(how: str) -> None:
    honest = np.random.default_rng(5).normal(size=(9, 4)) * 0.1 + 1.0
    wild = np.vstack([honest, np.full((1, 4), -1e6)])
    assert np.abs(robust(wild, how, 0.2) - 1.0).max() < 0.3


def test_too_few_parties_are_named() -> None:
    with pytest.raises(ParameterError, match=r"2 \* hostile \+ 3"):
        krum(np.zeros((4, 2)), 0.3)
    with pytest.raises(ParameterError, match="no update"):
        median(np.zeros((0, 2)))


def test_fedavg_moves_by_the_mean_and_reptile_less_and_less() -> None:
    update = np.array([1.0, -2.0])
    assert np.array_equal(server_step({}, update, server="fedavg", rate=0.5, round_number=3, rounds=9)[0], update / 2)
    steps = [server_step({}, update, server="reptile", rate=1.0, round_number=r, rounds=4)[0][0] for r in range(4)]
    assert steps == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("server", ["fedavgm", "fedadam", "fedyogi"])
def test_server_optimisers_against_the_formulas(server: str) -> None:
    """Reddi et al. 2021, algorithm 2, coordinate by coordinate in plain floats."""
    generator = np.random.default_rng(6)
    state: dict[str, np.ndarray] = {}
    m = [0.0] * 3
    v = [1e-6] * 3
    for r in range(5):
        update = generator.normal(size=3) * 0.01
        step, state = server_step(state, update, server=server, rate=0.1, round_number=r, rounds=5)
        for j in range(3):
            d = float(update[j])
            if server == "fedavgm":
                m[j] = 0.9 * m[j] + d
                assert step[j] == pytest.approx(0.1 * m[j])
                continue
            m[j] = 0.9 * m[j] + 0.1 * d
            if server == "fedadam":
                v[j] = 0.99 * v[j] + 0.01 * d * d
            else:
                v[j] = v[j] - 0.01 * d * d * (1 if v[j] > d * d else -1)
            assert step[j] == pytest.approx(0.1 * m[j] / (v[j] ** 0.5 + 1e-3))
