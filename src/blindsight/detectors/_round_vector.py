"""A party's vector in a round: what it holds, what bounds it, and what a total of such vectors says.

In this order: its clipped update on an integer grid, times its weight; its weight; 1 if it trained under DP-SGD; and,
for SCAFFOLD, the clipped change of its control variate on a grid of its own.

With ``Training.sent_fraction`` below 1 the update is that of some parameters alone, the same at every party: their
places are drawn from public numbers, since a choice of a party's own would tell of its records, and vectors with
different places do not add up under masks.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from blindsight.errors import BlindsightWarning, ParameterError

from ._aggregation import robust
from ._queries import Total
from ._training import Training

__all__ = ["Opened", "RoundVector", "Trained", "clipped", "on_grid"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

MAX_ROWS = 1 << 20
"""A party's weight by rows is capped here."""

VALIDATION_LEVELS = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What local training came to.

    Parameters
    ----------
    flat : ndarray of shape (P,), float64
        The parameters after it, flattened in their order. Not necessarily finite.
    rows : int
        Records trained on.
    steps : int
        Optimiser steps made.
    before, after : float
        Mean loss of the held-out records before and after; NaN where none were held out.
    """

    flat: Floats
    rows: int
    steps: int
    before: float = math.nan
    after: float = math.nan


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """What a round's total says.

    Parameters
    ----------
    update : ndarray of shape (P,), float64
        The parties' mean update.
    control : ndarray of shape (P,), or (0,) without SCAFFOLD, float64
        The mean change of their control variates.
    sampled_noise : bool
        Whether the updates were trained by DP-SGD.
    empty : bool
        Whether no party added anything; False where noise hides it.
    """

    update: Floats
    control: Floats
    sampled_noise: bool
    empty: bool = False


@dataclass(frozen=True, kw_only=True)
class RoundVector:
    """The form of every party's vector in a round.

    Parameters
    ----------
    training : Training
    size : int
        Number of parameters P.
    seed, round_number : int
        Public; which parameters this round sends is drawn from them.
    """

    training: Training
    size: int
    seed: int = 0
    round_number: int = 0

    # -- what bounds it -----------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Optimiser steps in a round: the same at every party, so that nobody's number of records shows."""
        return self.training.local_epochs * math.ceil(1.0 / self.training.sampling_rate - 1e-9)

    @property
    def grid(self) -> int:
        """Grid units in the clip norm."""
        return 1 << self.training.grid_bits

    @property
    def sent(self) -> int:
        """Number of parameters K whose change is sent."""
        return max(1, math.ceil(self.training.sent_fraction * self.size - 1e-9))

    @cached_property
    def places(self) -> Places:
        """Which parameters those are, shape (K,), ascending; the same at every party, and for whoever looks."""
        if self.sent == self.size:
            return np.arange(self.size)
        raw = np.random.Philox(key=np.array([self.seed, self.round_number + 1], dtype=np.uint64)).random_raw(self.size)
        return np.sort(np.argsort(np.asarray(raw), kind="stable")[: self.sent])

    @property
    def weighting(self) -> str:
        """How much a party counts: by rows where that was left open, but equally on a coarse grid.

        A weight by rows takes twenty bits of every coordinate, which a coarse grid is there to save.
        """
        if self.training.weighting == "auto":
            return "rows" if self.training.grid_bits == 16 else "equal"
        return self.training.weighting

    @property
    def max_weight(self) -> int:
        """Largest weight of a party."""
        return {"rows": MAX_ROWS, "validation": VALIDATION_LEVELS, "equal": 1}[self.weighting]

    @property
    def max_abs(self) -> int:
        """Largest absolute coordinate."""
        return self.max_weight * self.grid

    @property
    def control_norm(self) -> float:
        """L2 bound on the change of a control variate: twice that of an update over (steps * learning rate)."""
        return 2.0 * self.training.clip_norm / (self.steps * self.training.learning_rate)

    @property
    def length(self) -> int:
        """Number of coordinates."""
        return self.sent + 2 + (self.size if self.training.scaffold else 0)

    @property
    def sensitivity_l2(self) -> float:
        """Largest L2 norm of a party's vector: truncation towards zero never lengthens one."""
        weight = self.max_weight
        return math.sqrt((weight * self.grid) ** 2 + weight**2 + 1 + (self.grid**2 if self.training.scaffold else 0))

    # -- at a party ---------------------------------------------------------------------------------------------------

    def weight(self, trained: Trained) -> int:
        """How much a party's update counts, 0 to ``max_weight``."""
        if self.weighting == "rows":
            return min(trained.rows, MAX_ROWS)
        if self.weighting == "equal":
            return 1
        # how much of the loss of records it did not see a party's training took away; half the levels where none
        before, after = trained.before, trained.after
        if not (math.isfinite(before) and math.isfinite(after)) or before + after <= 0:
            return VALIDATION_LEVELS // 2
        return round(VALIDATION_LEVELS * before / (before + after))

    def nothing(self, *, noised: bool) -> Ints:
        """Return the vector of a party that has nothing to add, shape (length,)."""
        empty = np.zeros(self.length, dtype=np.int64)
        # under DP-SGD the weight is a public constant: it may not tell that this happened
        empty[self.sent : self.sent + 2] = (1, 1) if noised else (0, 0)
        return empty

    def rounded(self, delta: Floats) -> tuple[Ints, Floats]:
        """What of an update is sent, and what is left of it.

        Parameters
        ----------
        delta : ndarray of shape (P,)

        Returns
        -------
        sent : ndarray of shape (K,), int64
            The chosen parameters' change, at most ``clip_norm`` long and truncated towards zero, which shortens it:
            whatever ``delta`` is, and whatever waited in it, the bound is exact. (Rounding at random would be unbiased
            and break it; the error is fed back instead.)
        left : ndarray of shape (P,), float64
            ``delta`` without what was sent.
        """
        sent = on_grid(delta[self.places], self.training.clip_norm, self.grid)
        left = delta.copy()
        left[self.places] -= sent / self.grid * self.training.clip_norm
        return sent, left

    def packed(self, delta: Ints, weight: int, change: Floats | None, *, noised: bool) -> Ints:
        """Return the vector of an update, shape (length,).

        Parameters
        ----------
        delta : ndarray of shape (K,), int64
            The update on the grid: see :meth:`rounded`.
        weight : int
        change : ndarray of shape (P,), optional
            Of the control variate, within ``control_norm``; with SCAFFOLD alone.
        noised : bool
            Whether it was trained by DP-SGD.
        """
        parts = [delta * weight, np.array([weight, int(noised)], dtype=np.int64)]
        if change is not None:
            parts.append(on_grid(change, self.control_norm, self.grid))
        return np.concatenate(parts)

    # -- at the coordinator -------------------------------------------------------------------------------------------

    def opened(self, total: Total, round_number: int) -> Opened:
        """Read a round's total.

        Raises
        ------
        ParameterError
            The mean is longer than honest updates can make it.
        """
        if self.training.aggregation != "mean":
            return self._robust(total, round_number)
        size, parties = self.sent, max(len(total.parties), 1)
        values = np.asarray(total.values, dtype=np.float64)
        weight = float(total.values[size])
        if total.noise_variance > 0:
            weight = float(parties)  # its own coordinate drowns in the noise
        update = np.zeros(self.size)
        update[self.places] = values[:size] / (max(weight, 1.0) * self.grid) * self.training.clip_norm
        opened = Opened(
            update=update,
            control=values[size + 2 :] / (parties * self.grid) * self.control_norm,
            sampled_noise=bool(total.values[size + 1] > 0) and total.noise_variance == 0,
            empty=weight == 0.0,
        )
        self._check(opened, total, weight, round_number)
        return opened

    def _check(self, opened: Opened, total: Total, weight: float, round_number: int) -> None:
        """Honest updates are at most the clip norm long each, so their mean is; beyond it somebody cheated."""
        parties = max(len(total.parties), 1)
        bounds = [(opened.update, self.training.clip_norm), (opened.control, self.control_norm)]
        # the noise of a whole vector is sqrt(length) deviations long, and ten more leave no honest round refused
        noise = math.sqrt(total.noise_variance) * (math.sqrt(self.sent) + 10.0) / (max(weight, 1.0) * self.grid)
        fine = all(np.linalg.norm(vector) <= bound * (1.0 + noise + 1e-6) for vector, bound in bounds)
        if not fine or not 0 <= weight <= self.max_weight * parties:
            raise ParameterError(
                f"Round {round_number} was refused: the parties' mean update is longer than any honest one",
                got=f"length {np.linalg.norm(opened.update):.4g}, weight {weight:g}",
                rule=f"at most clip_norm = {self.training.clip_norm:g}: somebody sent more than training allows",
                fix="under masking nobody can see who; find out with the parties, or fit with "
                'Training(aggregation="median"), which shows every update to the coordinator',
            )

    def _robust(self, total: Total, round_number: int) -> Opened:
        size, how = self.size, self.training.aggregation
        assert how != "mean"
        rows = np.asarray(total.values, dtype=np.float64)
        names = total.parties or tuple(str(i) for i in range(len(rows)))
        weights = rows[:, size]
        lengths = np.linalg.norm(rows[:, :size], axis=1)
        fine = (weights >= 0) & (weights <= self.max_weight) & (lengths <= weights * self.grid * (1.0 + 1e-9))
        for name in [n for n, ok in zip(names, fine, strict=True) if not ok]:
            warnings.warn(
                f"Round {round_number}: the update of {name} is longer than clip_norm allows; it is left out.",
                BlindsightWarning,
                stacklevel=5,
            )
        used = fine & (weights > 0)
        noised = bool((rows[:, size + 1] > 0).any())
        controls = rows[used, size + 2 :] / self.grid * self.control_norm
        if not used.any():
            nothing = np.zeros(size + controls.shape[1])
            return Opened(update=nothing[:size], control=nothing[size:], sampled_noise=noised, empty=True)
        updates = rows[used, :size] / (weights[used, None] * self.grid) * self.training.clip_norm
        return Opened(
            update=robust(updates, how, self.training.trimmed),
            control=robust(controls, how, self.training.trimmed) if controls.shape[1] else controls[0],
            sampled_noise=noised,
        )


def clipped(vector: Floats, norm: float) -> Floats:
    """Shorten a vector to an L2 norm of at most ``norm``."""
    length = float(np.linalg.norm(vector))
    # one part in 10**12 less, so that rounding in the division cannot carry it over
    return vector if length <= norm else vector * (norm / length * (1.0 - 1e-12))


def on_grid(vector: Floats, norm: float, grid: int) -> Ints:
    """Scale ``norm`` to ``grid`` and truncate towards zero, which shortens every coordinate: the bound stays exact."""
    integers: Ints = np.trunc(clipped(vector, norm) / norm * (grid * (1.0 - 1e-12))).astype(np.int64)
    return integers
