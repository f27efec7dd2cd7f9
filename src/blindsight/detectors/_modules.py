"""The torch modules of AutoEncoder and DeepSVDD, and their activations. Imported only where torch is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

__all__ = ["Encoding", "LearnedSquare", "Reconstruction", "layers"]

SQUARE_START = 0.1
"""Where the weight of the square begins: near the identity, so that nothing runs away before it has learned."""

SQUARE_BOUND = 0.1
"""A larger one lets the network rebuild anomalies, too."""


class LearnedSquare(nn.Module):
    """x + a x**2, one learned a per layer, kept within +-.1: of degree two, which an encrypted layer can compute."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.full((1,), SQUARE_START))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise."""
        return x + self.a.clamp(-SQUARE_BOUND, SQUARE_BOUND) * x * x


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "square": LearnedSquare,
}


def layers(sizes: tuple[int, ...], activation: str, *, bias: bool, last: bool) -> nn.Sequential:
    """Linear layers from ``sizes[0]`` to ``sizes[-1]``, activated in between, and after the last one if asked."""
    made: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        made.append(nn.Linear(a, b, bias=bias))
        if last or i + 2 < len(sizes):
            made.append(ACTIVATIONS[activation]())
    return nn.Sequential(*made)


class Reconstruction(nn.Module):
    """Squeeze and reconstruct; a record's loss is its mean squared error."""

    def __init__(self, n_inputs: int, hidden: tuple[int, ...], activation: str) -> None:
        super().__init__()
        sizes = (n_inputs, *hidden, *hidden[-2::-1], n_inputs)
        self.net = layers(sizes, activation, bias=True, last=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(n, m) -> (n, m)."""
        reconstructed: torch.Tensor = self.net(z)
        return reconstructed

    def losses(self, z: torch.Tensor) -> torch.Tensor:
        """(n, m) -> (n,)."""
        errors: torch.Tensor = (self(z) - z) ** 2
        return errors.mean(dim=1)


class Encoding(nn.Module):
    """Map into a small space without bias terms; a record's loss is its squared distance from a fixed centre."""

    def __init__(self, sizes: tuple[int, ...], activation: str, centre: list[float]) -> None:
        super().__init__()
        self.net = layers(sizes, activation, bias=False, last=False)
        self.centre = centre

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(n, m) -> (n, k)."""
        encoded: torch.Tensor = self.net(z)
        return encoded

    def losses(self, z: torch.Tensor) -> torch.Tensor:
        """(n, m) -> (n,)."""
        distances: torch.Tensor = (self(z) - z.new_tensor(self.centre)) ** 2
        return distances.sum(dim=1)
