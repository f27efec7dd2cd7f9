"""The steps of a party that trains under differential privacy. Needs torch and Opacus."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from blindsight.privacy import NoiseSource, SampledNoise, bound_contributions

from ._answers import loaded, record_losses
from ._batches import JITTER, Data, Rows
from ._parameters import Parameters
from ._training import Training

__all__ = ["PrivateSteps"]


class PrivateSteps:
    """DP-SGD (Abadi et al. 2016, arXiv 1607.00133, algorithm 1) by Opacus's per-record gradients, hooks mode.

    One for a party's whole run. Sampling and noise multiplier are the ones that the ledger charged, executed here:
    every step draws its own Poisson sample and adds its noise, also where the sample is empty. The noise is
    floating-point Gaussian from a ChaCha20 stream keyed by the system; a torch.Generator on a CPU takes 32 bits of its
    seed, which whoever sees an update can try one by one.
    """

    def __init__(
        self,
        module: nn.Module,
        noise: SampledNoise,
        training: Training,
        *,
        momentum: float,
        mean_rows: float,
        part: int,
    ) -> None:
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

        self.noise = noise
        self.training = training
        self.source = NoiseSource.secure()
        self.module = module
        self.hooked = GradSampleModule(module, loss_reduction="sum")
        expected = max(noise.sampling_rate * mean_rows, 1.0)
        self.optimiser = DPOptimizer(
            torch.optim.SGD(module.parameters(), lr=training.learning_rate, momentum=momentum),
            noise_multiplier=0.0,  # the noise is added in run
            max_grad_norm=training.clip_norm,
            expected_batch_size=expected,
            loss_reduction="mean",
        )
        # a unit moves the sum by as many clipped gradients as it has records
        self.deviation = noise.noise_multiplier * noise.records_per_unit * training.clip_norm / expected
        self.part = part

    def run(self, start: Parameters, data: Data, steps: int, pull: Callable[[list[nn.Parameter]], None]) -> nn.Module:
        """Make this round's steps from ``start`` on; returns the trained module."""
        loaded(self.module, start)
        self.optimiser.original_optimizer.state.clear()
        parameters = list(self.module.parameters())

        def finish(_: object) -> None:
            """Once a step, after the clipped gradients were summed and divided."""
            self._add_noise(parameters)
            pull(parameters)

        self.optimiser.attach_step_hook(finish)
        self.hooked.train()
        for _ in range(steps):
            self._step(data.train, self._sample(data), parameters)
        return self.module

    def _sample(self, data: Data) -> torch.Tensor:
        """Numbers of the rows in a step's batch, in order."""
        n = len(data.train)
        if not self.noise.by_person:
            return torch.from_numpy(np.flatnonzero(self._drawn(n)))
        if data.person is None or not n:
            return torch.zeros(0, dtype=torch.int64)
        rows = np.flatnonzero(self._drawn(int(data.person.max()) + 1)[data.person])
        if len(rows):
            rows = rows[bound_contributions(data.person[rows], self.noise.records_per_unit)]
        return torch.from_numpy(rows)

    def _drawn(self, n: int) -> npt.NDArray[np.bool_]:
        """Poisson sample of n units: each with the rate that is charged, rounded down to 53 bits."""
        drawn: npt.NDArray[np.bool_] = (self.source.uint64(n) >> np.uint64(11)) < int(self.noise.sampling_rate * 2**53)
        return drawn

    def _normal(self, shape: torch.Size) -> torch.Tensor:
        """Standard normal numbers (Box and Muller 1958), computed in float64."""
        size = math.prod(shape)
        half = (size + 1) // 2
        uniform = ((self.source.uint64(2 * half) >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53
        radius, angle = np.sqrt(-2.0 * np.log(uniform[:half])), 2.0 * np.pi * uniform[half:]
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]
        return torch.from_numpy(normal.astype(np.float32)).reshape(shape)

    def _add_noise(self, parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.add_(self._normal(parameter.shape), alpha=self.deviation)

    def _step(self, inputs: Rows, chosen: torch.Tensor, parameters: list[nn.Parameter]) -> None:
        jitter = self.training.augment == "jitter"  # whatever the number of records, which is private
        parts = list(torch.split(chosen, self.part)) if len(chosen) else []
        self.optimiser.zero_grad()
        for i, rows in enumerate(parts):
            part = inputs[rows]
            if jitter:
                part = part + JITTER * self._normal(part.shape)
            self.optimiser.signal_skip_step(i + 1 < len(parts))
            with warnings.catch_warnings():
                # the first layer's hook sees no input gradient: that is meant
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                record_losses(self.module, part).sum().backward()  # type: ignore[no-untyped-call]
            for parameter in parameters:
                # one record's gradient that is not finite may not carry over to the others
                gradient: Any = parameter.grad_sample  # type: ignore[attr-defined]
                gradient.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
        if not parts:
            # an empty sample has no gradient, and its step has noise like any other
            for parameter in parameters:
                parameter.grad_sample = torch.zeros((0, *parameter.shape))  # type: ignore[attr-defined]
            self.optimiser.step()
            self.optimiser.zero_grad()
