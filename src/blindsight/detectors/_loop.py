"""The one training loop of all torch detectors: local epochs, every remedy for parties that differ, and DP-SGD.

Imported only where a torch detector is used; see ``_torch`` for the contract of a module. DP-SGD's steps are in
``_private_steps``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from blindsight.errors import DataError

from ._answers import loaded, losses, outputs, record_losses
from ._batches import Data, Rows, batches, in_parts, rows_at_once
from ._own_records import held_out, own_chunks
from ._parameters import Parameters, Weights
from ._private_steps import PrivateSteps
from ._queries import Local
from ._round_vector import Trained
from ._training import Training

__all__ = ["Data", "fine_tune", "loaded", "losses", "outputs", "read", "train"]

Floats = npt.NDArray[np.float64]
Build = Callable[[], nn.Module]

GRADIENT_NORM = 1.0
"""Longest mean gradient of a batch without privacy: what keeps square activations from running away."""


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
        if not len(data.held):
            return Trained(flat=_flat(start.values()), rows=0, steps=0)
        # all of its few records were held out. Under DP-SGD this would make one record's part depend on the others
        data = replace(data, train=data.held)
    if local.noise is not None:
        engine = local.cache.get("engine")
        if engine is None:
            module = build()
            size = sum(p.numel() for p in module.parameters())
            engine = PrivateSteps(
                module,
                local.noise,
                training,
                momentum=momentum,
                mean_rows=mean_rows,
                part=rows_at_once(module, data.train, besides=size),
            )
            local.cache["engine"] = engine
        assert isinstance(engine, PrivateSteps)
        module = engine.run(start, data, steps, pull)
        before = after = math.nan
    else:
        module = loaded(build(), start)
        part = rows_at_once(module, data.train)
        before = _mean_loss(module, data.held, part)
        generator = np.random.Generator(np.random.Philox(key=list(seed)))
        optimiser = torch.optim.SGD(module.parameters(), lr=training.learning_rate, momentum=momentum)
        augment = training.augment if len(data.train) < training.augment_below else "none"
        module.train()
        for rows in batches(len(data.train), training.sampling_rate, steps, generator):
            parts = in_parts(data.train, rows, part, augment, generator)
            _step(module, optimiser, parts, lambda batch: record_losses(module, batch).mean(), pull)
        after = _mean_loss(module, data.held, part)
    flat = _flat(p.detach().numpy() for p in module.parameters())
    return Trained(flat=flat, rows=len(data.train), steps=steps, before=before, after=after)


def fine_tune(
    build: Build,
    start: Parameters,
    inputs: Rows,
    *,
    epochs: int,
    learning_rate: float,
    sampling_rate: float,
    momentum: float,
    distil: float,
    seed: tuple[int, int],
) -> Floats:
    """Train on one's own inputs from the shared parameters on; returns the flat parameters, perhaps not finite."""
    module, teacher = loaded(build(), start), loaded(build(), start).eval()
    optimiser = torch.optim.SGD(module.parameters(), lr=learning_rate, momentum=momentum)
    generator = np.random.Generator(np.random.Philox(key=list(seed)))
    steps = epochs * math.ceil(1.0 / sampling_rate - 1e-9)
    part = rows_at_once(module, inputs, passes=2 if distil > 0 else 1)

    def loss(batch: torch.Tensor) -> torch.Tensor:
        total = record_losses(module, batch).mean()
        if distil > 0:
            with torch.no_grad():
                wanted = teacher(batch)
            total = total + distil * ((module(batch) - wanted) ** 2).mean()
        return total

    module.train()
    for rows in batches(len(inputs), sampling_rate, steps, generator):
        _step(module, optimiser, in_parts(inputs, rows, part, "none", generator), loss, None)
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


def _step(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    parts: Iterator[tuple[torch.Tensor, float]],
    loss: Callable[[torch.Tensor], torch.Tensor],
    pull: _Pull | None,
) -> None:
    """One step along the gradient of the batch's mean loss, summed part by part."""
    optimiser.zero_grad()
    for batch, share in parts:
        (loss(batch) * share).backward()  # type: ignore[no-untyped-call]
    parameters = list(module.parameters())
    torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
    if pull is not None:
        pull(parameters)
    optimiser.step()


def _mean_loss(module: nn.Module, held: Rows, part: int) -> float:
    if not len(held):
        return math.nan
    each = [losses(module, held[rows].numpy()) for rows in torch.split(torch.arange(len(held)), part)]
    return float(np.concatenate(each).mean())


def _flat(parameters: Any) -> Floats:
    flat: Floats = np.concatenate([np.asarray(p).ravel() for p in parameters]).astype(np.float64)
    return flat
