"""The small sums beside the updates: how many records there are, and the loss of those that were held out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from blindsight.data import Records

from ._queries import SumQuery

__all__ = ["LOSS_SHARE", "SIZE_SHARE", "loss_levels", "loss_query", "size_query"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LOSS_LEVELS = 1024
SIZE_SHARE, LOSS_SHARE = 0.02, 0.1
"""Parts of the fit's share of the budget: the count of records, all losses together."""


def size_query() -> SumQuery:
    """Return the number of records: what scales DP-SGD's steps.

    Privacy
    -------
    One record adds 1: L2 sensitivity 1, add or remove one record.
    """

    def add(accumulator: Ints, chunk: Records) -> None:
        accumulator += len(chunk)

    return SumQuery(name="size", length=1, sensitivity_l2=1.0, max_abs=1, add=add, fraction=SIZE_SHARE)


def loss_query(add: Callable[[Ints, Records], None], round_number: int, rounds: int) -> SumQuery:
    """Return the sum and the number of the held-out records' losses after a round.

    Parameters
    ----------
    add : callable (accumulator, records) -> None
        Adds :func:`loss_levels` of a chunk's held-out records.
    round_number, rounds : int
        The round that was taken, and how many there are at most.

    Privacy
    -------
    One record adds (loss, 1) in 1,024 levels each, its loss clipped: L2 sensitivity 1,024 * sqrt(2), add or remove one
    record.
    """
    return SumQuery(
        name=f"loss/{round_number}",
        length=2,
        sensitivity_l2=LOSS_LEVELS * math.sqrt(2.0),
        max_abs=LOSS_LEVELS,
        add=add,
        fraction=LOSS_SHARE / rounds * (1.0 - 1e-9),
    )


def loss_levels(losses: Floats, clip: float) -> Ints:
    """Return what losses within [0, clip] add: their sum and their number in levels, shape (2,)."""
    levels = np.rint(losses * LOSS_LEVELS / clip)
    return np.array([int(levels.sum()), LOSS_LEVELS * len(losses)], dtype=np.int64)
