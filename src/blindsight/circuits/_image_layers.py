"""Secret layers over signals and images: convolutions, and the public ways to a larger size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from blindsight.errors import ParameterError

from ._encoding import Floats
from ._network import Shape, frozen

__all__ = ["Convolution", "Enlarge"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution:
    """Convolution by 3 or 3 x 3 weights over one or two axes, with a border of zeros one wide.

    Parameters
    ----------
    weights : ndarray of shape (filters, channels, 3) or (filters, channels, 3, 3), float64
    bias : ndarray of shape (filters,), float64
    stride : {1, 2}
        Places from one output to the next, along each axis.
    """

    kind: ClassVar[str] = "convolution"

    weights: Floats
    bias: Floats
    stride: int = 1

    def __post_init__(self) -> None:
        weights = frozen(self.weights, "weights", dimensions=(3, 4))
        bias = frozen(self.bias, "bias", dimensions=(1,))
        if set(weights.shape[2:]) != {3} or bias.shape != weights.shape[:1] or self.stride not in (1, 2):
            raise ParameterError(
                "A convolution is not of a kind that is evaluated",
                got=f"{weights.shape}, {bias.shape}, stride {self.stride}",
                rule="3 or 3 x 3 weights, stride 1 or 2",
            )
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "bias", bias)

    @property
    def secrets(self) -> tuple[Floats, ...]:
        """Weights as a matrix, (filters, channels x places), and bias."""
        return self.weights.reshape(len(self.weights), -1), self.bias

    def after(self, shape: Shape) -> Shape:
        """(channels, *sides) -> (filters, *sides over stride, rounded up)."""
        if len(shape) != self.weights.ndim - 1 or shape[0] != self.weights.shape[1]:
            raise ParameterError("Two layers do not fit", got=f"{shape} into {self.weights.shape[1]} channels")
        return (len(self.weights), *(-(-side // self.stride) for side in shape[1:]))

    def peak(self, shape: Shape) -> int:
        """Every output's neighbourhood."""
        places = math.prod(self.after(shape)[1:])
        return max(math.prod(shape), places * max(math.prod(self.weights.shape[1:]), len(self.weights)))

    def __call__(self, Z: Floats) -> Floats:
        """(n, channels, *sides) -> (n, filters, *sides)."""
        sides = Z.shape[2:]
        padded = np.pad(Z, [(0, 0), (0, 0), *[(1, 1)] * len(sides)])
        axes = tuple(range(2, 2 + len(sides)))
        view = np.lib.stride_tricks.sliding_window_view(padded, (3,) * len(sides), axis=axes)  # type: ignore[call-overload]
        windows: Floats = view[(slice(None), slice(None), *[slice(None, None, self.stride)] * len(sides))]
        around = (1, *range(2 + len(sides), 2 + 2 * len(sides)))
        found = np.tensordot(windows, self.weights, axes=(around, range(1, self.weights.ndim))) + self.bias
        moved: Floats = np.moveaxis(found, -1, 1)
        return moved

    def __repr__(self) -> str:
        return f"Convolution(<{' x '.join(map(str, self.weights.shape))} secret weights>, stride={self.stride})"


@dataclass(frozen=True, kw_only=True)
class Enlarge:
    """Every place twice along each axis, less the last one where a side is odd: the nearest neighbour; public.

    Parameters
    ----------
    sides : tuple of int
        Twice the input's sides, or one less.
    """

    kind: ClassVar[str] = "enlarge"

    sides: Shape

    def __post_init__(self) -> None:
        if not 1 <= len(self.sides) <= 2 or min(self.sides) < 1:
            raise ParameterError("Sides are out of their domain", got=str(self.sides)[:60])

    @property
    def secrets(self) -> tuple[Floats, ...]:
        """None."""
        return ()

    def after(self, shape: Shape) -> Shape:
        """(channels, *sides) -> (channels, *larger sides)."""
        fits = len(shape) == len(self.sides) + 1 and all(
            new in (2 * old, 2 * old - 1) for old, new in zip(shape[1:], self.sides, strict=True)
        )
        if not fits:
            raise ParameterError("Sides are not enlarged to these", got=f"{shape[1:]} to {self.sides}")
        return (shape[0], *self.sides)

    def peak(self, shape: Shape) -> int:
        """The output, before the last place is cut."""
        return math.prod(shape) << len(self.sides)

    def __call__(self, Z: Floats) -> Floats:
        """(n, channels, *sides) -> (n, channels, *larger sides)."""
        for axis, side in enumerate(self.sides, 2):
            Z = np.repeat(Z, 2, axis=axis)[(*[slice(None)] * axis, slice(side))]
        return Z
