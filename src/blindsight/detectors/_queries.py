"""What a detector asks of the data: bounded integer sums, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from blindsight.data import Records
from blindsight.errors import ParameterError
from blindsight.privacy import SampledNoise

__all__ = ["Local", "Query", "SumQuery", "Total", "TotalOf", "Update", "UpdateQuery"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SumQuery:
    """One private sum: every record adds a bounded integer vector; only the total is ever released.

    Parameters
    ----------
    name : str
        Stable name of the step, e.g. ``"fit"`` or ``"round/3"``; unique in a run, part of the release id.
        ``"threshold"`` is the score histogram's.
    length : int
        Number of coordinates.
    sensitivity_l2 : float
        Largest L2 norm of the vector that one record adds (neighbours: one record added or removed). Grid units.
    max_abs : int
        Largest absolute coordinate that one record adds. Grid units.
    add : callable (accumulator, records) -> None
        Adds a chunk's vectors, in place, to an int64 accumulator of shape (length,).
    fraction : float
        Part of its purpose's share of the privacy budget that this sum takes; the sums of one purpose take at most 1.
    """

    name: str
    length: int
    sensitivity_l2: float
    max_abs: int
    add: Callable[[Ints, Records], None]
    fraction: float = 1.0

    def __post_init__(self) -> None:
        if self.length < 1 or not self.sensitivity_l2 > 0 or self.max_abs < 1 or not 0 < self.fraction <= 1:
            raise ParameterError(
                f"The query '{self.name}' has no bound", rule="length, sensitivity, max_abs > 0; 0 < fraction <= 1"
            )


@dataclass(frozen=True, kw_only=True)
class Local:
    """What a party puts at the disposal of local training, besides the query; nothing of it leaves.

    Parameters
    ----------
    records : callable () -> iterator of Records
        Reads the party's records, chunk by chunk; call it again to read them again. ``person`` is there where the
        schema has it.
    memory : mutable mapping of str to bytes
        This run's, at this party; kept from round to round, across restarts (control variates, say).
    cache : dict
        This run's, in this process alone: engines, tensors. Empty after a restart.
    noise : SampledNoise or None
        DP-SGD's parameters where record- or person-level privacy was asked for; else None.
    """

    records: Callable[[], Iterator[Records]]
    memory: MutableMapping[str, bytes] = field(default_factory=dict)
    cache: dict[str, object] = field(default_factory=dict)
    noise: SampledNoise | None = None


@dataclass(frozen=True, kw_only=True)
class Update:
    """One party's vector in a round, and what it tells about it.

    Parameters
    ----------
    values : ndarray of shape (length,), int64
        All zeros when the party has nothing to add (diverged, no records).
    notice : str
        Why it added nothing; "" otherwise. Told to the coordinator only where no privacy was asked for.
    """

    values: Ints
    notice: str = ""


@dataclass(frozen=True, kw_only=True)
class UpdateQuery:
    """One private sum over parties of what local training changed: one bounded integer vector a party.

    Parameters
    ----------
    name : str
        As for :class:`SumQuery`, e.g. ``"round/3"``.
    length : int
        Number of coordinates.
    sensitivity_l2 : float
        Largest L2 norm of one **party's** vector, grid units: the sensitivity for ``unit="party"``.
    max_abs : int
        Largest absolute coordinate of one party's vector.
    update : callable Local -> Update
        Trains and returns the party's vector; pure but for ``Local.memory``, ``Local.cache`` and randomness.
    sampling_rate, steps, total_steps : float, int, int
        DP-SGD as it will be executed under record- or person-level privacy: Poisson rate of each step, steps in this
        round, steps in the whole run.
    fraction : float
        Part of the purpose's share that the updates of the **whole run** take; under party-level privacy a round takes
        ``steps / total_steps`` of it.
    parties : float
        Fraction of the parties that a round asks, chosen at random by the coordinator.
    masked : bool
        False gives up masking: the coordinator reads every party's vector (robust aggregation). The policy of every
        party must allow it.
    narrow : bool
        True has a masked sum take no more bits a coordinate than its bounds need (16, 32 or 64), noise included;
        otherwise it takes 64.
    exact_only : bool
        True where no noise could make the update private: a request for privacy is then refused before any charge.
    """

    name: str
    length: int
    sensitivity_l2: float
    max_abs: int
    update: Callable[[Local], Update]
    sampling_rate: float
    steps: int
    total_steps: int
    fraction: float = 1.0
    parties: float = 1.0
    masked: bool = True
    narrow: bool = False
    exact_only: bool = False

    def __post_init__(self) -> None:
        if self.length < 1 or not self.sensitivity_l2 > 0 or self.max_abs < 1 or not 0 < self.fraction <= 1:
            raise ParameterError(
                f"The query '{self.name}' has no bound", rule="length, sensitivity, max_abs > 0; 0 < fraction <= 1"
            )
        if not 0 < self.sampling_rate <= 1 or not 1 <= self.steps <= self.total_steps or not 0 < self.parties <= 1:
            raise ParameterError(
                f"The query '{self.name}' has an impossible schedule",
                rule="0 < sampling_rate <= 1, 1 <= steps <= total_steps, 0 < parties <= 1",
            )


Query = SumQuery | UpdateQuery


@dataclass(frozen=True, kw_only=True)
class Total:
    """A released total.

    Parameters
    ----------
    values : ndarray of shape (length,), int64
        The sum over all records (or parties), plus integer noise if any was asked for. For a query that gives up
        masking, shape (parties, length): one row a party.
    noise_variance : float
        Variance of the noise on every coordinate; 0 for an exact sum, and where noise is inside the updates
        (DP-SGD). Grid units squared.
    parties : tuple of str
        Who is in the total, sorted; empty for a local sum.
    """

    values: Ints
    noise_variance: float = 0.0
    parties: tuple[str, ...] = ()


TotalOf = Callable[[Query], Total]
"""How a detector gets its totals: a local sum for ``fit``, a private one in a federation."""
