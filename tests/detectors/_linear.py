"""A module of two weights, whose training can be written out by hand."""

from __future__ import annotations

from typing import Any

import torch

from blindsight.data import Column, Schema
from blindsight.detectors import TorchDetector, Training

# declared scales make an input of -4 .. 4 its own standardised value
SQUARE_SCHEMA = Schema((Column(name="a", low=-4, high=4), Column(name="b", low=-4, high=4)))


class Line(torch.nn.Module):
    """loss(z) = (w . z - 1)**2."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(n_inputs, 1, bias=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layer(z)

    def losses(self, z: torch.Tensor) -> torch.Tensor:
        return (self(z)[:, 0] - 1.0) ** 2


class LineDetector(TorchDetector):
    name = "Line"

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        training: Training | None = None,
        scales: str = "declared",
        seed: int = 0,
        schema: Schema | None = None,
    ) -> None:
        self.contamination = contamination
        self.training = training
        self.scales = scales
        self.seed = seed
        self.schema = schema

    def _module(self, schema: Schema) -> Any:
        return Line(self._width(schema))
