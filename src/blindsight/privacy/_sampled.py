"""DP-SGD's parameters: noise in the gradients of Poisson-sampled batches, drawn by each party on its own."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SampledNoise"]


@dataclass(frozen=True, kw_only=True)
class SampledNoise:
    """What local training must do to be worth the event that the ledger charges.

    Parameters
    ----------
    sampling_rate : float in (0, 1]
        Probability with which each unit enters a step's batch, independently (Poisson sampling).
    noise_multiplier : float
        Standard deviation of the Gaussian noise on a step's summed clipped gradients, over its sensitivity
        ``clip_norm * records_per_unit``.
    records_per_unit : int
        Most records of one unit that enter a batch: 1 for unit "record".
    by_person : bool
        Whether units are persons: they are sampled whole, with at most ``records_per_unit`` records each.
    """

    sampling_rate: float
    noise_multiplier: float
    records_per_unit: int = 1
    by_person: bool = False
