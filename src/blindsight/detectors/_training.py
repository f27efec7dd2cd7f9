"""How a detector is trained by rounds: one frozen value, the same at every party."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from blindsight.errors import ParameterError

from ._domains import choice, flag, number, whole_number

__all__ = ["Training"]

MAX_STEPS = 1_000_000
"""Optimiser steps in a round."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Rounds of local training, and how the parties' updates become the next model.

    Parameters
    ----------
    rounds : int in [1, 10000]
        Sums of updates.
    local_epochs : int in [1, 1000]
        Passes over a party's records in each round; at most a million steps in all.
    sampling_rate : float in (0, 1]
        Fraction of a party's records in one batch; an epoch is ``ceil(1 / sampling_rate)`` steps at every party,
        whatever its size, so that nobody's number of records shows.
    learning_rate : float
        Of the local optimiser (SGD with momentum without privacy and for DP-SGD alike).
    clip_norm : float
        L2 bound on one party's whole update; the default defence against poisoning, and the sensitivity of
        party-level privacy. Under DP-SGD also the bound on one record's gradient.
    server : {"fedavg", "fedavgm", "fedadam", "fedyogi", "reptile"}
        What the coordinator does with the averaged update (McMahan et al. 2017; Reddi et al. 2021; Nichol et al. 2018).
    server_rate : float
        Its learning rate.
    proximal : float
        FedProx's mu (Li et al. 2020); 0 for none.
    scaffold : bool
        Control variates (Karimireddy et al. 2020).
    weighting : {"auto", "rows", "equal", "validation"}
        How much a party counts. "auto": by rows without privacy, equal with it (a number of rows is a release).
    parties : float in (0, 1]
        Fraction of the parties asked in each round.
    patience : int
        Rounds without a better privately summed validation loss after which training stops; 0 never stops.
        The sums of the losses are charged.
    validation : float in [0, .5]
        Fraction of each party's records kept for the validation loss.
    augment : {"none", "jitter", "mixup"}
        What a party with fewer than ``augment_below`` records trains on besides them.
    augment_below : int
    aggregation : {"mean", "median", "trimmed-mean", "krum"}
        Only "mean" is a masked sum. The others show the coordinator every party's update, and every party's policy
        must allow that by name.
    trimmed : float in [0, .5)
        Fraction of the parties that "trimmed-mean" and "krum" take to be hostile.
    sent_fraction : float in (0, 1]
        Fraction of the parameters that a round sends, drawn anew in each round from the detector's public seed, the
        same at every party. What is not sent waits at the party (error feedback; Stich et al. 2018, Karimireddy et al.
        2019).
    grid_bits : int in [4, 16]
        The clip norm is ``2 ** grid_bits`` units of the grid that updates are truncated to. Below 16 what was cut off
        waits at the party as well, parties count equally unless ``weighting`` says otherwise, and masked sums are as
        narrow as their bounds allow: 16 or 32 bits a coordinate instead of 64.
    """

    rounds: int = 30
    local_epochs: int = 1
    sampling_rate: float = 0.1
    learning_rate: float = 0.05
    clip_norm: float = 1.0
    server: Literal["fedavg", "fedavgm", "fedadam", "fedyogi", "reptile"] = "fedavg"
    server_rate: float = 1.0
    proximal: float = 0.0
    scaffold: bool = False
    weighting: Literal["auto", "rows", "equal", "validation"] = "auto"
    parties: float = 1.0
    patience: int = 0
    validation: float = 0.1
    augment: Literal["none", "jitter", "mixup"] = "none"
    augment_below: int = 500
    aggregation: Literal["mean", "median", "trimmed-mean", "krum"] = "mean"
    trimmed: float = 0.2
    sent_fraction: float = 1.0
    grid_bits: int = 16

    def __post_init__(self) -> None:
        whole_number("rounds", self.rounds, 1, 10_000)
        whole_number("local_epochs", self.local_epochs, 1, 1000)
        whole_number("patience", self.patience, 0, 10_000)
        whole_number("augment_below", self.augment_below, 0, 1 << 40)
        number("sampling_rate", self.sampling_rate, 1e-6, 1.0)
        number("learning_rate", self.learning_rate, 1e-9, 1e3)
        number("clip_norm", self.clip_norm, 1e-6, 1e6)
        number("server_rate", self.server_rate, 1e-9, 1e3)
        number("proximal", self.proximal, 0.0, 1e6)
        number("parties", self.parties, 1e-6, 1.0)
        number("validation", self.validation, 0.0, 0.5)
        number("trimmed", self.trimmed, 0.0, 0.5, open_high=True)
        number("sent_fraction", self.sent_fraction, 1e-4, 1.0)
        whole_number("grid_bits", self.grid_bits, 4, 16)
        choice("server", self.server, ("fedavg", "fedavgm", "fedadam", "fedyogi", "reptile"))
        choice("weighting", self.weighting, ("auto", "rows", "equal", "validation"))
        choice("augment", self.augment, ("none", "jitter", "mixup"))
        choice("aggregation", self.aggregation, ("mean", "median", "trimmed-mean", "krum"))
        flag("scaffold", self.scaffold)
        steps = self.local_epochs * math.ceil(1.0 / self.sampling_rate - 1e-9)
        if steps > MAX_STEPS:  # a coordinator's word: a party would be busy for weeks
            raise ParameterError(
                "A round has too many steps",
                got=f"{steps:,}",
                rule=f"local_epochs / sampling_rate is at most {MAX_STEPS:,}",
            )
        if self.compresses and (self.scaffold or self.aggregation != "mean"):
            raise ParameterError(
                "Updates cannot be compressed here",
                got=f"sent_fraction = {self.sent_fraction:g}, grid_bits = {self.grid_bits}",
                rule='compression goes with aggregation="mean" and scaffold=False: control variates and robust means '
                "need whole updates",
                fix="sent_fraction=1.0, grid_bits=16",
            )
        needs_validation = self.patience > 0 or self.weighting == "validation"
        if needs_validation and self.validation == 0:
            raise ParameterError(
                "Nothing is held out to validate on",
                got="validation = 0",
                rule="patience and weighting by validation need held-out records",
                fix="validation=0.1",
            )

    @property
    def compresses(self) -> bool:
        """Whether a round sends less than a whole update, so that what is left over waits at the party."""
        return self.sent_fraction < 1.0 or self.grid_bits < 16

    def under_privacy(self) -> Training:
        """Return the training as it is under differential privacy of any unit: "auto" means equal weights.

        Raises
        ------
        ParameterError
            Weights by rows or validation were asked for: a party's weight would be one more release.
        """
        if self.weighting in ("rows", "validation"):
            raise ParameterError(
                "A party's weight would be released without noise",
                got=f'weighting="{self.weighting}" under differential privacy',
                rule="weights by rows or validation are sums over records",
                fix='use weighting="auto" or "equal"',
            )
        return replace(self, weighting="equal")
