"""From parties' updates to one: robust aggregation of updates in the open, and the coordinator's optimisers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

__all__ = ["krum", "median", "robust", "server_step", "trimmed_mean"]

Floats = npt.NDArray[np.float64]

MOMENTUM = 0.9
SECOND_MOMENT = 0.99
ADAPTIVITY = 1e-3
"""Reddi et al. 2021 (arXiv 2003.00295), section 5: beta1 = .9, beta2 = .99, tau = 1e-3."""


def median(updates: Floats) -> Floats:
    """Coordinate-wise median of (parties, length) updates (Yin et al. 2018, arXiv 1803.01498, definition 1)."""
    result: Floats = np.median(_checked(updates), axis=0)
    return result


def trimmed_mean(updates: Floats, trimmed: float) -> Floats:
    """Coordinate-wise mean without the ``floor(trimmed * parties)`` smallest and largest values (ibid., definition 2).

    Raises
    ------
    ParameterError
        Nothing would be left.
    """
    n = len(_checked(updates))
    cut = int(trimmed * n)
    if n - 2 * cut < 1:
        raise ParameterError(
            "trimmed-mean would leave no update",
            got=f"{cut} of {n} cut at each end",
            fix="trim less, or ask more parties",
        )
    result: Floats = np.sort(updates, axis=0)[cut : n - cut].mean(axis=0)
    return result


def krum(updates: Floats, trimmed: float) -> Floats:
    """The one update that is nearest to its ``parties - f - 2`` nearest neighbours, f = floor(trimmed * parties).

    Blanchard et al. 2017 (NeurIPS, "Machine Learning with Adversaries", section 4). Its guarantee needs
    parties >= 2 f + 3.

    Raises
    ------
    ParameterError
        Fewer parties than that.
    """
    n = len(_checked(updates))
    hostile = int(trimmed * n)
    if n < 2 * hostile + 3:
        raise ParameterError(
            "Krum has too few parties",
            got=f"{n} parties, {hostile} of them taken to be hostile",
            rule="parties >= 2 * hostile + 3 (Blanchard et al. 2017)",
            fix='lower training.trimmed, or use aggregation="median"',
        )
    squares = (updates**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2.0 * (updates @ updates.T), 0.0)
    np.fill_diagonal(distances, np.inf)
    scores = np.sort(distances, axis=1)[:, : n - hostile - 2].sum(axis=1)
    chosen: Floats = updates[int(np.argmin(scores))]
    return chosen


def robust(updates: Floats, how: Literal["median", "trimmed-mean", "krum"], trimmed: float) -> Floats:
    """Aggregate (parties, length) updates by name."""
    if how == "median":
        return median(updates)
    return trimmed_mean(updates, trimmed) if how == "trimmed-mean" else krum(updates, trimmed)


def server_step(
    state: Mapping[str, Floats], update: Floats, *, server: str, rate: float, round_number: int, rounds: int
) -> tuple[Floats, dict[str, Floats]]:
    """What the coordinator adds to the model for an averaged update, and its optimiser's next state.

    Parameters
    ----------
    state : mapping of str to ndarray
        Empty before the first round.
    update : ndarray of shape (length,), float64
    server : {"fedavg", "fedavgm", "fedadam", "fedyogi", "reptile"}
        McMahan et al. 2017; Hsu et al. 2019 (FedAvgM); Reddi et al. 2021, algorithm 2; Reptile's outer step with its
        linearly falling rate (Nichol et al. 2018, section 6).
    rate : float
    round_number, rounds : int
        The first round is 0.

    Returns
    -------
    (step, state)
    """
    if server == "fedavg":
        return rate * update, {}
    if server == "reptile":
        return rate * (1.0 - round_number / rounds) * update, {}
    zero = np.zeros_like(update)
    if server == "fedavgm":
        momentum = MOMENTUM * state.get("m", zero) + update
        return rate * momentum, {"m": momentum}
    momentum = MOMENTUM * state.get("m", zero) + (1.0 - MOMENTUM) * update
    second, square = state.get("v", zero + ADAPTIVITY**2), update**2
    if server == "fedadam":
        second = SECOND_MOMENT * second + (1.0 - SECOND_MOMENT) * square
    else:
        second = second - (1.0 - SECOND_MOMENT) * square * np.sign(second - square)
    return rate * momentum / (np.sqrt(second) + ADAPTIVITY), {"m": momentum, "v": second}


def _checked(updates: Floats) -> Floats:
    if updates.ndim != 2 or not len(updates):
        raise ParameterError("There is no update to aggregate", fix="at least one party must take part in a round")
    return updates
