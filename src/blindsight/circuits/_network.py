"""Secret real-valued networks, for the engines that are not exact: CKKS where every step is a polynomial, MPC else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from blindsight.errors import ParameterError

from ._encoding import Floats

__all__ = ["Activation", "Dense", "Network"]

MAX_WIDTH = 1 << 16
MAX_LAYERS = 32
LEAKY_SLOPE = 0.1
ROWS = 4096


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

    weights: Floats
    bias: Floats

    def __post_init__(self) -> None:
        weights, bias = (np.array(value, dtype=np.float64, copy=True) for value in (self.weights, self.bias))
        if weights.ndim != 2 or bias.shape != weights.shape[:1] or not 0 < weights.size <= MAX_WIDTH * MAX_WIDTH:
            raise ParameterError("A layer's weights have the wrong shape", got=f"{weights.shape}, {bias.shape}")
        if max(weights.shape) > MAX_WIDTH or not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise ParameterError("A layer's weights are too many or not finite", got=str(weights.shape))
        for name, value in (("weights", weights), ("bias", bias)):
            value.setflags(write=False)
            object.__setattr__(self, name, value)

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
    layers : tuple of Dense or Activation
        Applied in turn; the first is Dense, and no two activations stand side by side.
    target : {"inputs", "centre"}
        ``inputs``: mean squared error of the output as a reconstruction of the input. ``centre``: sum of squared
        differences from ``centre``.
    centre : ndarray of shape (outputs,), float64, optional
        Secret. All zeros: the squared length of the output, as for a wide quadratic form ``|A z + b|**2``.
    """

    layers: tuple[Dense | Activation, ...]
    target: Literal["inputs", "centre"]
    centre: Floats | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS or not isinstance(self.layers[0], Dense):
            raise ParameterError("A network has too few or too many layers", rule=f"1 to {MAX_LAYERS}, Dense first")
        width, before = self.n_inputs, None
        for layer in self.layers:
            if isinstance(layer, Dense):
                if layer.weights.shape[1] != width:
                    raise ParameterError("Two layers do not fit", got=f"{width} into {layer.weights.shape[1]}")
                width = layer.weights.shape[0]
            elif isinstance(before, Activation):
                raise ParameterError("Two activations stand side by side")
            before = layer
        if self.target == "inputs":
            if width != self.n_inputs or self.centre is not None:
                raise ParameterError("A reconstruction has the width of its inputs", got=f"{width}, {self.n_inputs}")
        elif self.target == "centre":
            centre = np.zeros(width) if self.centre is None else np.array(self.centre, dtype=np.float64, copy=True)
            if centre.shape != (width,) or not np.isfinite(centre).all():
                raise ParameterError("The centre has the wrong shape", got=str(centre.shape), rule=f"({width},)")
            centre.setflags(write=False)
            object.__setattr__(self, "centre", centre)
        else:
            raise ParameterError("The target is not known", got=str(self.target)[:40], rule="inputs or centre")

    @property
    def n_inputs(self) -> int:
        """Number of inputs m."""
        first = self.layers[0]
        assert isinstance(first, Dense)
        return int(first.weights.shape[1])

    @property
    def squares(self) -> int:
        """Ciphertext products one after the other: one for each square activation, and one for the score."""
        return 1 + sum(isinstance(layer, Activation) for layer in self.layers)

    @property
    def is_polynomial(self) -> bool:
        """Whether every step is a polynomial, as CKKS needs."""
        return all(isinstance(layer, Dense) or layer.kind == "square" for layer in self.layers)

    def outputs(self, Z: Floats) -> Floats:
        """Apply the layers to inputs of shape (n, m)."""
        for layer in self.layers:
            Z = Z @ layer.weights.T + layer.bias if isinstance(layer, Dense) else layer(Z)
        return Z

    def scores(self, Z: Floats) -> Floats:
        """Score inputs of shape (n, m), as :meth:`Standardised.encode` gives them; shape (n,), float64, at least 0."""
        found = np.empty(len(Z))
        for start in range(0, len(Z), ROWS):
            z = Z[start : start + ROWS]
            goal = z if self.centre is None else self.centre
            difference = self.outputs(z) - goal
            squares = difference * difference
            found[start : start + ROWS] = squares.mean(axis=1) if self.target == "inputs" else squares.sum(axis=1)
        return found

    def __repr__(self) -> str:
        return f"Network({', '.join(repr(layer) for layer in self.layers)}, target={self.target!r})"
