"""Secret real-valued networks, for the engines that are not exact: CKKS where every step is a polynomial, MPC else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from blindsight.errors import ParameterError

from ._encoding import Floats

__all__ = ["Activation", "Dense", "Layer", "Network", "Shape", "frozen"]

MAX_WIDTH = 1 << 16
MAX_LAYERS = 32
LEAKY_SLOPE = 0.1
ROWS = 4096
NUMBERS = 1 << 24
"""Most numbers that records scored together hold at once."""

Shape = tuple[int, ...]


class Layer(Protocol):
    """One step of a network: a map between arrays of public shapes, by secret weights."""

    @property
    def kind(self) -> str:
        """Its name in messages and descriptions."""

    @property
    def secrets(self) -> tuple[Floats, ...]:
        """Its weights, in the order in which they are shared."""

    def after(self, shape: Shape) -> Shape:
        """Shape of a record's output for that of its input; ParameterError where it does not fit."""

    def peak(self, shape: Shape) -> int:
        """Most numbers of one record that it holds at once, for an input of this shape."""

    def __call__(self, Z: Floats, /) -> Floats:
        """Apply to inputs of shape (n, *shape)."""


def frozen(values: Floats, name: str, *, dimensions: tuple[int, ...]) -> Floats:
    """A read-only float64 copy; ParameterError for another number of dimensions, no or too many numbers, or infinite
    ones."""
    array = np.array(values, dtype=np.float64, copy=True)
    if array.ndim not in dimensions or not 0 < array.size <= MAX_WIDTH * MAX_WIDTH:
        raise ParameterError("A layer's weights have the wrong shape", got=f"{name}: {array.shape}")
    if max(array.shape) > MAX_WIDTH or not np.isfinite(array).all():
        raise ParameterError("A layer's weights are too many or not finite", got=f"{name}: {array.shape}")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense:
    """``z -> weights @ z + bias``.

    Parameters
    ----------
    weights : ndarray of shape (outputs, inputs), float64
        Finite. Copied and made read-only.
    bias : ndarray of shape (outputs,), float64

    Security
    --------
    The weights are the model. ``repr`` does not show them.
    """

    kind: ClassVar[str] = "dense"

    weights: Floats
    bias: Floats

    def __post_init__(self) -> None:
        weights = frozen(self.weights, "weights", dimensions=(2,))
        bias = frozen(self.bias, "bias", dimensions=(1,))
        if bias.shape != weights.shape[:1]:
            raise ParameterError("A layer's weights have the wrong shape", got=f"{weights.shape}, {bias.shape}")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "bias", bias)

    @property
    def secrets(self) -> tuple[Floats, ...]:
        """Weights and bias."""
        return self.weights, self.bias

    def after(self, shape: Shape) -> Shape:
        """The last axis changes: rows are mapped one by one."""
        if not shape or shape[-1] != self.weights.shape[1]:
            raise ParameterError("Two layers do not fit", got=f"{shape} into {self.weights.shape[1]}")
        return (*shape[:-1], len(self.weights))

    def peak(self, shape: Shape) -> int:
        """Input or output."""
        return max(math.prod(shape), math.prod(self.after(shape)))

    def __call__(self, Z: Floats) -> Floats:
        """Apply to the last axis of an array."""
        product: Floats = Z @ self.weights.T + self.bias
        return product

    def __repr__(self) -> str:
        return f"Dense(<{self.weights.shape[0]} x {self.weights.shape[1]} secret weights>)"


@dataclass(frozen=True)
class Activation:
    """Elementwise step between layers.

    Parameters
    ----------
    kind : {"square", "relu", "leaky", "tanh"}
        ``square`` is ``x + coefficient * x**2``; ``leaky`` has slope .1 below 0.
    coefficient : float
        Of the square; secret, for it is learned.
    """

    kind: Literal["square", "relu", "leaky", "tanh"]
    coefficient: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("square", "relu", "leaky", "tanh") or not np.isfinite(self.coefficient):
            raise ParameterError("The activation is not known", got=f"{self.kind}, {self.coefficient}")

    @property
    def secrets(self) -> tuple[Floats, ...]:
        """The coefficient of a square."""
        return (np.asarray(self.coefficient, dtype=np.float64),) if self.kind == "square" else ()

    def after(self, shape: Shape) -> Shape:
        """The same shape."""
        return shape

    def peak(self, shape: Shape) -> int:
        """Input and output are of the same size."""
        return math.prod(shape)

    def __call__(self, z: Floats) -> Floats:
        """Apply to an array of any shape."""
        if self.kind == "square":
            return z + self.coefficient * z * z
        if self.kind == "tanh":
            return np.tanh(z)
        return np.where(z > 0, z, (LEAKY_SLOPE if self.kind == "leaky" else 0.0) * z)


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A secret network whose squared distance from a target is the score.

    Parameters
    ----------
    layers : tuple of Layer
        Applied in turn; no two activations stand side by side. Without a ``shape`` the first is Dense.
    target : {"inputs", "centre"}
        ``inputs``: mean squared error of the output as a reconstruction of what was read, or as a forecast of what
        follows it. ``centre``: sum of squared differences from ``centre``.
    centre : ndarray of shape (outputs,), float64, optional
        Secret. All zeros: the squared length of the output, as for a wide quadratic form ``|A z + b|**2``.
    shape : tuple of int, optional
        How the numbers that are read are arranged: (rows, width) of a window, (channels, length) or (channels, height,
        width) of a signal or an image. As many numbers as the first layer takes without it.
    following : int
        Numbers of a record after those that are read: what the output is to foretell. 0: it reconstructs.
    compared : int, optional
        How many numbers of the output and of its target count, from the last backwards; all without it.
    """

    layers: tuple[Layer, ...]
    target: Literal["inputs", "centre"]
    centre: Floats | None = None
    shape: Shape | None = None
    following: int = 0
    compared: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise ParameterError("A network has too few or too many layers", rule=f"1 to {MAX_LAYERS}, Dense first")
        if self.shape is None:
            first = self.layers[0]
            if not isinstance(first, Dense):
                raise ParameterError("A network of unknown shape begins with another layer", rule="Dense first")
            object.__setattr__(self, "shape", (first.weights.shape[1],))
        width = math.prod(self.shapes[-1])
        for before, layer in zip(self.layers, self.layers[1:], strict=False):
            if isinstance(before, Activation) and isinstance(layer, Activation):
                raise ParameterError("Two activations stand side by side")
        if self.target == "inputs":
            if width != (self.following or self.reads) or self.centre is not None or self.following < 0:
                raise ParameterError("A reconstruction has the width of its inputs", got=f"{width}, {self.n_inputs}")
        elif self.target == "centre":
            centre = np.zeros(width) if self.centre is None else np.array(self.centre, dtype=np.float64, copy=True)
            if centre.shape != (width,) or not np.isfinite(centre).all() or self.following:
                raise ParameterError("The centre has the wrong shape", got=str(centre.shape), rule=f"({width},)")
            centre.setflags(write=False)
            object.__setattr__(self, "centre", centre)
        else:
            raise ParameterError("The target is not known", got=str(self.target)[:40], rule="inputs or centre")
        compared = width if self.compared is None else self.compared
        if not 1 <= compared <= width or (self.target == "centre" and compared != width):
            raise ParameterError("What is compared is not part of the output", got=str(compared), rule=f"1 to {width}")
        object.__setattr__(self, "compared", compared)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Shape of what is read, and then of each layer's output."""
        assert self.shape is not None
        found = [self.shape]
        for layer in self.layers:
            found.append(layer.after(found[-1]))
        return tuple(found)

    @property
    def reads(self) -> int:
        """How many of a record's numbers the first layer is given: those in front."""
        assert self.shape is not None
        return math.prod(self.shape)

    @property
    def n_inputs(self) -> int:
        """Number of inputs m of a record."""
        return self.reads + self.following

    @property
    def squares(self) -> int:
        """Ciphertext products one after the other: one for each square activation, and one for the score."""
        return 1 + sum(isinstance(layer, Activation) for layer in self.layers)

    @property
    def is_polynomial(self) -> bool:
        """Whether every step is a polynomial, as CKKS needs."""
        return all(layer.kind in ("dense", "square") for layer in self.layers)

    def outputs(self, Z: Floats) -> Floats:
        """Apply the layers to inputs of shape (n, m); shape (n, outputs)."""
        assert self.shape is not None
        Z = Z[:, : self.reads].reshape(len(Z), *self.shape)
        for layer in self.layers:
            Z = layer(Z)
        return Z.reshape(len(Z), math.prod(self.shapes[-1]))

    def scores(self, Z: Floats) -> Floats:
        """Score inputs of shape (n, m), as :meth:`Standardised.encode` gives them; shape (n,), float64, at least 0."""
        found = np.empty(len(Z))
        peak = max(layer.peak(shape) for layer, shape in zip(self.layers, self.shapes, strict=False))
        step = max(1, min(ROWS, NUMBERS // peak))
        compared = self.compared or 0  # a number, once this exists
        for start in range(0, len(Z), step):
            z = Z[start : start + step]
            goal = z if self.centre is None else self.centre[None]
            difference = self.outputs(z)[:, -compared:] - goal[:, -compared:]
            squares = difference * difference
            found[start : start + step] = squares.mean(axis=1) if self.target == "inputs" else squares.sum(axis=1)
        return found

    def __repr__(self) -> str:
        return f"Network({', '.join(repr(layer) for layer in self.layers)}, target={self.target!r})"
