"""The one training loop of all torch detectors: local epochs, every remedy for parties that differ, and DP-SGD.

Imported only where a torch detector is used; see ``_torch`` for the contract of a module.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from blindsight.errors import DataError
from blindsight.privacy import NoiseSource, SampledNoise, bound_contributions

from ._queries import Local
from ._rounds import Parameters, Trained, Weights, held_out, own_chunks
from ._training import Training

__all__ = ["Data", "fine_tune", "loaded", "losses", "outputs", "read", "train"]

Floats = npt.NDArray[np.float64]
Build = Callable[[], nn.Module]

GRADIENT_NORM = 1.0
"""Longest mean gradient of a batch without privacy: what keeps square activations from running away."""

JITTER = 0.1
"""Deviation of the noise on augmented inputs, in deviations of a feature."""

MIXUP = 0.4
"""Zhang et al. 2018 (arXiv 1710.09412): mixing weights are Beta(.4, .4)."""

MAX_GRADIENTS = 1 << 25
"""Per-record gradients in memory at once; a larger Poisson batch is taken in parts, with one noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """One party's records as inputs: (n, m) float32 to train on, (k, m) held out, and whose each row is."""

    train: torch.Tensor
    held: torch.Tensor
    person: npt.NDArray[np.int64] | None


def read(local: Local, inputs: Callable[[Floats], Floats], validation: float) -> Data:
    """Read a party's records once."""
    chunks = own_chunks(local)
    if not chunks:
        nothing = torch.zeros((0, 0))
        return Data(train=nothing, held=nothing, person=None)
    X = np.concatenate([chunk.X for chunk in chunks])
    held = held_out(X, validation)
    Z = torch.from_numpy(inputs(X).astype(np.float32))
    person = None
    if local.noise is not None and local.noise.by_person:
        ids = [chunk.person for chunk in chunks]
        if any(part is None for part in ids):
            raise DataError(
                "The person column is missing from the data",
                rule="unit='person' samples whole persons",
                fix="give tables with that column, not arrays",
            )
        whole = np.concatenate([np.asarray(part) for part in ids])
        person = np.unique(whole, return_inverse=True)[1].reshape(-1).astype(np.int64)[~held]
    mask = torch.from_numpy(held)
    return Data(train=Z[~mask], held=Z[mask], person=person)


def loaded(module: nn.Module, parameters: Parameters) -> nn.Module:
    """The module with these parameters, set in place."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(parameters[name])))
    return module


def losses(module: nn.Module, Z: Floats) -> Floats:
    """Per-record losses of (n, m) inputs in the module's own precision, shape (n,), float64."""
    module.eval()
    with torch.no_grad():
        dtype = next(module.parameters()).dtype
        values: Floats = _losses(module, torch.from_numpy(np.ascontiguousarray(Z)).to(dtype)).double().numpy()
    return values


def outputs(module: nn.Module, Z: Floats) -> Floats:
    """What the module answers to (n, m) inputs, in its own precision, as float64."""
    module.eval()
    with torch.no_grad():
        dtype = next(module.parameters()).dtype
        values: Floats = module(torch.from_numpy(np.ascontiguousarray(Z)).to(dtype)).double().numpy()
    return values


def train(
    build: Build,
    start: Parameters,
    data: Data,
    local: Local,
    *,
    training: Training,
    momentum: float,
    correction: Weights | None,
    mean_rows: float,
    seed: tuple[int, int],
) -> Trained:
    """One round of local training.

    Parameters
    ----------
    build : callable () -> Module
    start : parameters
    data : Data
    local : Local
        ``noise`` decides between plain and private steps; ``cache`` keeps the private engine for the whole run.
    training : Training
    momentum : float
    correction : ndarray of shape (P,), float32, optional
        SCAFFOLD's ``c - c_i``, added to every gradient.
    mean_rows : float
        A party's mean number of records, as released: what a private step is divided by, so that no party's own
        number shows.
    seed : (int, int)
        Public: order of the batches without privacy. With privacy, batches and noise come from the system.
    """
    steps = training.local_epochs * math.ceil(1.0 / training.sampling_rate - 1e-9)
    pull = _Pull(start, proximal=training.proximal, correction=correction)
    if local.noise is None and not len(data.train):
        return Trained(flat=_flat(start.values()), rows=0, steps=0)
    if local.noise is not None:
        engine = local.cache.get("engine")
        if engine is None:
            engine = _PrivateSteps(build(), local.noise, training, momentum=momentum, mean_rows=mean_rows)
            local.cache["engine"] = engine
        assert isinstance(engine, _PrivateSteps)
        module = engine.run(start, data, steps, pull)
        before = after = math.nan
    else:
        module = loaded(build(), start)
        before = _mean_loss(module, data.held)
        generator = np.random.Generator(np.random.Philox(key=list(seed)))
        optimiser = torch.optim.SGD(module.parameters(), lr=training.learning_rate, momentum=momentum)
        augment = training.augment if len(data.train) < training.augment_below else "none"
        module.train()
        for rows in _batches(len(data.train), training.sampling_rate, steps, generator):
            batch = _augmented(data.train[rows], augment, generator)
            _step(module, optimiser, _losses(module, batch).mean(), pull)
        after = _mean_loss(module, data.held)
    flat = _flat(p.detach().numpy() for p in module.parameters())
    return Trained(flat=flat, rows=len(data.train), steps=steps, before=before, after=after)


def fine_tune(
    build: Build,
    start: Parameters,
    Z: Floats,
    *,
    epochs: int,
    learning_rate: float,
    sampling_rate: float,
    momentum: float,
    distil: float,
    seed: tuple[int, int],
) -> Floats:
    """Train on one's own inputs from the shared parameters on; returns the flat parameters, perhaps not finite."""
    inputs = torch.from_numpy(Z.astype(np.float32))
    module, teacher = loaded(build(), start), loaded(build(), start).eval()
    optimiser = torch.optim.SGD(module.parameters(), lr=learning_rate, momentum=momentum)
    generator = np.random.Generator(np.random.Philox(key=list(seed)))
    steps = epochs * math.ceil(1.0 / sampling_rate - 1e-9)
    module.train()
    for rows in _batches(len(inputs), sampling_rate, steps, generator):
        batch = inputs[rows]
        loss = _losses(module, batch).mean()
        if distil > 0:
            with torch.no_grad():
                wanted = teacher(batch)
            loss = loss + distil * ((module(batch) - wanted) ** 2).mean()
        _step(module, optimiser, loss, None)
    return _flat(p.detach().numpy() for p in module.parameters())


class _Pull:
    """What is added to a gradient besides the loss's: FedProx's pull to the start, SCAFFOLD's correction."""

    def __init__(self, start: Parameters, *, proximal: float, correction: Weights | None) -> None:
        self.start = [torch.from_numpy(np.array(array)) for array in start.values()]
        self.proximal = proximal
        self.corrections: list[torch.Tensor] | None = None
        if correction is not None:
            parts = torch.split(torch.from_numpy(np.array(correction)), [p.numel() for p in self.start])
            self.corrections = [part.reshape(p.shape) for part, p in zip(parts, self.start, strict=True)]

    def __call__(self, parameters: list[nn.Parameter]) -> None:
        for i, parameter in enumerate(parameters):
            assert parameter.grad is not None
            if self.proximal > 0:
                parameter.grad.add_(parameter.detach() - self.start[i], alpha=self.proximal)
            if self.corrections is not None:
                parameter.grad.add_(self.corrections[i])


def _step(module: nn.Module, optimiser: torch.optim.Optimizer, loss: torch.Tensor, pull: _Pull | None) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = list(module.parameters())
    torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
    if pull is not None:
        pull(parameters)
    optimiser.step()


def _batches(n: int, rate: float, steps: int, generator: np.random.Generator) -> Iterator[torch.Tensor]:
    """Shuffled batches of ``ceil(rate * n)`` rows; each epoch is a new order, and wraps at its end."""
    size = max(1, math.ceil(rate * n - 1e-9))
    per_epoch = math.ceil(1.0 / rate - 1e-9)
    order = np.zeros(0, dtype=np.int64)
    for step in range(steps):
        if step % per_epoch == 0:
            order = generator.permutation(n)
        yield torch.from_numpy(order[np.arange(step % per_epoch * size, (step % per_epoch + 1) * size) % n])


def _augmented(batch: torch.Tensor, how: str, generator: np.random.Generator) -> torch.Tensor:
    """The batch, and as many augmented copies."""
    if how == "none":
        return batch
    if how == "jitter":
        noise = generator.standard_normal(batch.shape, dtype=np.float32) * np.float32(JITTER)
        return torch.cat([batch, batch + torch.from_numpy(noise)])
    other = batch[torch.from_numpy(generator.permutation(len(batch)))]
    share = torch.from_numpy(generator.beta(MIXUP, MIXUP, size=(len(batch), 1)).astype(np.float32))
    return torch.cat([batch, share * batch + (1.0 - share) * other])


class _PrivateSteps:
    """DP-SGD (Abadi et al. 2016, arXiv 1607.00133, algorithm 1) by Opacus's per-record gradients, hooks mode.

    One for a party's whole run. Sampling and noise multiplier are the ones that the ledger charged, executed here:
    every step draws its own Poisson sample and adds its noise, also where the sample is empty. The noise is
    floating-point Gaussian from a ChaCha20 stream keyed by the system; a torch.Generator on a CPU takes 32 bits of its
    seed, which whoever sees an update can try one by one.
    """

    def __init__(
        self, module: nn.Module, noise: SampledNoise, training: Training, *, momentum: float, mean_rows: float
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
        size = sum(p.numel() for p in module.parameters())
        self.part = max(1, MAX_GRADIENTS // size)

    def run(self, start: Parameters, data: Data, steps: int, pull: _Pull) -> nn.Module:
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
        jitter = self.training.augment == "jitter"  # whatever the number of records, which is private
        for _ in range(steps):
            batch = data.train[self._sample(data)]
            if jitter:
                batch = batch + JITTER * self._normal(batch.shape)
            self._step(batch, parameters)
        return self.module

    def _sample(self, data: Data) -> torch.Tensor:
        n = len(data.train)
        if not self.noise.by_person:
            return torch.from_numpy(self._drawn(n))
        if data.person is None or not n:
            return torch.zeros(n, dtype=torch.bool)
        rows = np.flatnonzero(self._drawn(int(data.person.max()) + 1)[data.person])
        chosen = np.zeros(n, dtype=np.bool_)
        if len(rows):
            chosen[rows[bound_contributions(data.person[rows], self.noise.records_per_unit)]] = True
        return torch.from_numpy(chosen)

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

    def _step(self, batch: torch.Tensor, parameters: list[nn.Parameter]) -> None:
        parts = list(torch.split(batch, self.part)) if len(batch) else []
        self.optimiser.zero_grad()
        for i, part in enumerate(parts):
            self.optimiser.signal_skip_step(i + 1 < len(parts))
            with warnings.catch_warnings():
                # the first layer's hook sees no input gradient: that is meant
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                _losses(self.module, part).sum().backward()  # type: ignore[no-untyped-call]
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


def _losses(module: nn.Module, z: torch.Tensor) -> torch.Tensor:
    values: torch.Tensor = module.losses(z)  # type: ignore[operator]
    return values


def _mean_loss(module: nn.Module, held: torch.Tensor) -> float:
    return float(losses(module, held.numpy()).mean()) if len(held) else math.nan


def _flat(parameters: Any) -> Floats:
    flat: Floats = np.concatenate([np.asarray(p).ravel() for p in parameters]).astype(np.float64)
    return flat
