"""What a training step takes: batches of a party's inputs, in parts that fit into memory. Needs torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ._answers import record_losses

__all__ = ["JITTER", "Data", "Rows", "batches", "in_parts", "rows_at_once"]

JITTER = 0.1
"""Deviation of the noise on augmented inputs, in deviations of a feature."""

MIXUP = 0.4
"""Zhang et al. 2018 (arXiv 1710.09412): mixing weights are Beta(.4, .4)."""

MAX_VALUES = 1 << 25
"""Numbers that a step has in memory at once, activations and per-record gradients: a larger batch is taken in parts,
which changes its gradient by rounding alone, and under DP-SGD has one noise."""


class Rows(Protocol):
    """Input rows of which a batch is taken: a tensor of shape (n, m), or windows that are copied when asked for."""

    def __len__(self) -> int:
        """Return n."""

    def __getitem__(self, which: torch.Tensor, /) -> torch.Tensor:
        """Return the chosen rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """One party's records as inputs: (n, m) float32 to train on, (k, m) held out, and whose each row is."""

    train: Rows
    held: Rows
    person: npt.NDArray[np.int64] | None


def batches(n: int, rate: float, steps: int, generator: np.random.Generator) -> Iterator[torch.Tensor]:
    """Shuffled batches of ``ceil(rate * n)`` rows; each epoch is a new order, and wraps at its end."""
    size = max(1, math.ceil(rate * n - 1e-9))
    per_epoch = math.ceil(1.0 / rate - 1e-9)
    order = np.zeros(0, dtype=np.int64)
    for step in range(steps):
        if step % per_epoch == 0:
            order = generator.permutation(n)
        yield torch.from_numpy(order[np.arange(step % per_epoch * size, (step % per_epoch + 1) * size) % n])


def rows_at_once(module: nn.Module, rows: Rows, *, besides: int = 0, passes: int = 1) -> int:
    """How many rows go through the module together: what they hold stays within ``MAX_VALUES``.

    Parameters
    ----------
    module : Module
    rows : Rows
        One of them is tried: a window's activations are as many as it is long, whatever the module.
    besides : int
        Numbers that a row holds besides its activations.
    passes : int
        Times that a row goes through the module in one step.
    """
    if not len(rows):
        return 1
    own = {parameter.data_ptr() for parameter in module.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            held[tensor.data_ptr()] = max(tensor.numel(), held.get(tensor.data_ptr(), 0))
        return tensor

    module.eval()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = record_losses(module, rows[torch.zeros(1, dtype=torch.int64)])  # what it saved lives as long as it does
    del loss
    return max(1, MAX_VALUES // (passes * sum(held.values()) + besides + 1))


def in_parts(
    inputs: Rows, rows: torch.Tensor, part: int, augment: str, generator: np.random.Generator
) -> Iterator[tuple[torch.Tensor, float]]:
    """A batch in parts, each with its share of the batch; only where it is augmented is the batch copied whole."""
    whole = None if augment == "none" else _augmented(inputs[rows], augment, generator)
    n = len(rows) if whole is None else len(whole)
    for begin in range(0, n, part):
        end = min(begin + part, n)
        yield inputs[rows[begin:end]] if whole is None else whole[begin:end], (end - begin) / n


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
