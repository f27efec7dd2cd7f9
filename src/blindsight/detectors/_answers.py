"""A torch module with given parameters, and what it answers. Needs torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ._parameters import Parameters

__all__ = ["loaded", "losses", "outputs", "record_losses"]

Floats = npt.NDArray[np.float64]


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
        values: Floats = record_losses(module, torch.from_numpy(np.ascontiguousarray(Z)).to(dtype)).double().numpy()
    return values


def outputs(module: nn.Module, Z: Floats) -> Floats:
    """What the module answers to (n, m) inputs, in its own precision, as float64."""
    module.eval()
    with torch.no_grad():
        dtype = next(module.parameters()).dtype
        values: Floats = module(torch.from_numpy(np.ascontiguousarray(Z)).to(dtype)).double().numpy()
    return values


def record_losses(module: nn.Module, z: torch.Tensor) -> torch.Tensor:
    """Loss of each record with its graph, (n, m) -> (n,)."""
    values: torch.Tensor = module.losses(z)  # type: ignore[operator]
    return values
