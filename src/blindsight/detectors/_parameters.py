"""A shared model's parameters: named float32 arrays in a fixed order, flattened where they are summed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

__all__ = ["Layout", "Parameters", "Weights", "check_parameters", "dequantised", "initial_uniform", "untrusted_weights"]

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]
Parameters = dict[str, Weights]

MAX_PARAMETERS = 1 << 23
MAX_WEIGHT = 1e6
"""Largest absolute weight that a loaded model may have."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where each array is in the flat vector.

    Parameters
    ----------
    shapes : mapping of name to shape
        In order.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, parameters: Mapping[str, Weights]) -> Layout:
        """Read it off parameters."""
        return cls(shapes={name: array.shape for name, array in parameters.items()})

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def flat(self, parameters: Mapping[str, Weights]) -> Floats:
        """Return the parameters one after the other, shape (P,), float64."""
        flat: Floats = np.concatenate([parameters[name].ravel() for name in self.shapes]).astype(np.float64)
        return flat

    def named(self, flat: Floats) -> Parameters:
        """Return the arrays of a vector of shape (P,), as float32."""
        found, place = {}, 0
        weights = flat.astype(np.float32)
        for name, shape in self.shapes.items():
            count = math.prod(shape)
            found[name] = weights[place : place + count].reshape(shape)
            place += count
        return found


def check_parameters(size: int) -> None:
    """Raise ParameterError for a network without parameters, or with more than travel in one message."""
    if not 1 <= size <= MAX_PARAMETERS:
        raise ParameterError("The network has too many parameters", got=f"{size:,}", rule=f"1 to {MAX_PARAMETERS:,}")


def untrusted_weights(array: npt.NDArray[np.generic], shape: tuple[int, ...]) -> Weights:
    """Return an array of a file as weights of this shape; ValueError where it is something else, or out of range."""
    if array.dtype != np.float32 or array.shape != shape or not (np.abs(array) <= MAX_WEIGHT).all():
        raise ValueError("a parameter has another form than the network's, or is out of range")
    weights: Weights = array.astype(np.float32, copy=False)
    return weights


def dequantised(array: npt.NDArray[np.int8], scale: float) -> Weights:
    """The float32 weights that int8 ones stand for."""
    return (array.astype(np.float64) * scale).astype(np.float32)


def initial_uniform(shapes: Mapping[str, tuple[int, ...]], seed: int, *, gain: float = 1.0) -> Parameters:
    """Glorot-uniform matrices and zero vectors from a public seed, the same whatever library trains them.

    Parameters
    ----------
    shapes : mapping of name to shape
        In order. One axis: zeros. More: uniform with bound ``gain * sqrt(6 / (fan_in + fan_out))`` (Glorot and Bengio
        2010, equation 16), the trailing axes counting as a receptive field.
    seed : int
    gain : float
    """
    stream = np.random.Philox(key=seed)
    found = {}
    for name, shape in shapes.items():
        values = np.zeros(shape, dtype=np.float64)
        if len(shape) > 1:
            field_size = math.prod(shape[2:])
            bound = gain * math.sqrt(6.0 / ((shape[0] + shape[1]) * field_size))
            raw = np.asarray(stream.random_raw(math.prod(shape)), dtype=np.uint64)
            values = ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0).reshape(shape) * bound
        found[name] = values.astype(np.float32)
    return found
