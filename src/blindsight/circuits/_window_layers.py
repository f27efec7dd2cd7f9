"""Secret layers over the rows of a window: recurrent ones and attention, in the form that an engine evaluates.

What is affine is folded before it gets here: halves of gates, scales of norms and of attention, positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import ndtr

from blindsight.errors import ParameterError

from ._encoding import Floats
from ._network import Shape, frozen

__all__ = ["NORM_FLOOR", "Block", "Lstm", "Repeat", "Reshape", "Shift"]

NORM_FLOOR = 1e-5
"""Added to the variance of a row before its root is taken."""

MAX_SIZE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Reshape:
    """The same numbers in another shape, row-major; public.

    Parameters
    ----------
    shape : tuple of int
    """

    kind: ClassVar[str] = "reshape"

    shape: Shape

    def __post_init__(self) -> None:
        if not 1 <= len(self.shape) <= 3 or min(self.shape) < 1 or math.prod(self.shape) > MAX_SIZE:
            raise ParameterError("A shape is out of its domain", got=str(self.shape)[:60])

    @property
    def secrets(self) -> tuple[Floats, ...]:
        """None."""
        return ()

    def after(self, shape: Shape) -> Shape:
        """The new shape."""
        if math.prod(shape) != math.prod(self.shape):
            raise ParameterError("A shape does not fit", got=f"{shape} into {self.shape}")
        return self.shape

    def peak(self, shape: Shape) -> int:
        """All numbers."""
        return math.prod(shape)

    def __call__(self, Z: Floats) -> Floats:
        """(n, *any) -> (n, *shape)."""
        return Z.reshape(len(Z), *self.shape)


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """The last row, so many times over; public.

    Parameters
    ----------
    rows : int
    """

    kind: ClassVar[str] = "repeat"

    rows: int

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= MAX_SIZE:
            raise ParameterError("A number of rows is out of its domain", got=str(self.rows)[:40])

    @property
    def secrets(self) -> tuple[Floats, ...]:
        """None."""
        return ()

    def after(self, shape: Shape) -> Shape:
        """(any, width) -> (rows, width)."""
        if len(shape) != 2:
            raise ParameterError("Only rows are repeated", got=str(shape))
        return self.rows, shape[1]

    def peak(self, shape: Shape) -> int:
        """Input or output."""
        return max(math.prod(shape), math.prod(self.after(shape)))

    def __call__(self, Z: Floats) -> Floats:
        """(n, any, width) -> (n, rows, width)."""
        return np.repeat(Z[:, -1:], self.rows, axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shift:
    """``z -> z + values``: a bias for every place, as positions in a window are.

    Parameters
    ----------
    values : ndarray of the input's shape, float64
    """

    kind: ClassVar[str] = "shift"

    values: Floats

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", frozen(self.values, "values", dimensions=(1, 2, 3)))

    @property
    def secrets(self) -> tuple[Floats, ...]:
        """The values."""
        return (self.values,)

    def after(self, shape: Shape) -> Shape:
        """The same shape."""
        if shape != self.values.shape:
            raise ParameterError("A shift does not fit", got=f"{shape} and {self.values.shape}")
        return shape

    def peak(self, shape: Shape) -> int:
        """Input and output are of the same size."""
        return math.prod(shape)

    def __call__(self, Z: Floats) -> Floats:
        """Add the values to every record."""
        return Z + self.values

    def __repr__(self) -> str:
        return f"Shift(<{' x '.join(map(str, self.values.shape))} secret numbers>)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Lstm:
    """A recurrent layer (Hochreiter and Schmidhuber 1997) whose gates are all a tanh.

    With ``a, b, g, o = tanh(inputs @ x + states @ h + bias)`` by quarters, ``c = ((1 + b) c + (1 + a) g) / 2`` and
    ``h = (1 + o) tanh(c) / 2``, both 0 at first. Since ``sigmoid(z) = (1 + tanh(z / 2)) / 2``, it is the usual layer
    with the weights of its input, forget and output gates halved.

    Parameters
    ----------
    inputs : ndarray of shape (4 h, m), float64
        Input, forget, cell and output gate, in this order.
    states : ndarray of shape (4 h, h), float64
    bias : ndarray of shape (4 h,), float64
    """

    kind: ClassVar[str] = "lstm"

    inputs: Floats
    states: Floats
    bias: Floats

    def __post_init__(self) -> None:
        for name, dimensions in (("inputs", 2), ("states", 2), ("bias", 1)):
            object.__setattr__(self, name, frozen(getattr(self, name), name, dimensions=(dimensions,)))
        four, hidden = self.states.shape
        if four != 4 * hidden or len(self.inputs) != four or len(self.bias) != four:
            raise ParameterError("A recurrent layer's weights do not fit", got=f"{self.inputs.shape}, {four}, {hidden}")

    @property
    def secrets(self) -> tuple[Floats, ...]:
        """Weights of inputs and of states, and bias."""
        return self.inputs, self.states, self.bias

    def after(self, shape: Shape) -> Shape:
        """(rows, m) -> (rows, h)."""
        if len(shape) != 2 or shape[1] != self.inputs.shape[1]:
            raise ParameterError("Two layers do not fit", got=f"{shape} into rows of {self.inputs.shape[1]}")
        return shape[0], self.states.shape[1]

    def peak(self, shape: Shape) -> int:
        """What goes into the gates of all rows."""
        return shape[0] * max(shape[1], len(self.bias))

    def __call__(self, Z: Floats) -> Floats:
        """(n, rows, m) -> (n, rows, h)."""
        hidden = self.states.shape[1]
        before = Z @ self.inputs.T + self.bias
        h = c = np.zeros((len(Z), hidden))
        found = np.empty((*Z.shape[:2], hidden))
        for row in range(Z.shape[1]):
            a, b, g, o = np.split(np.tanh(before[:, row] + h @ self.states.T), 4, axis=1)
            c = ((1 + b) * c + (1 + a) * g) / 2
            h = (1 + o) * np.tanh(c) / 2
            found[:, row] = h
        return found

    def __repr__(self) -> str:
        return f"Lstm(<{self.inputs.shape[1]} to {self.states.shape[1]} by secret weights>)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Attention and a small network, each on standardised rows and beside a shortcut (Xiong et al. 2020, pre-norm).

    ``norm`` takes a row less its mean, over the root of its variance plus 1e-5. With ``q, k, v = into @ norm(x) +
    into_bias`` by thirds, cut into heads, ``x += out @ A + out_bias`` and ``x += down @ gelu(up @ norm(x) + up_bias) +
    down_bias``. ``A`` are the rows of ``softmax(q k') v``: all of the first head, then all of the second, laid out
    again as rows of the full width, as ``opacus.layers.DPMultiheadAttention`` does it for batches that come first.

    Parameters
    ----------
    heads : int
        Divides the width w.
    into, into_bias : ndarray of shape (3 w, w) and (3 w,), float64
        The scale of attention is in the first third, those of the norm are in all.
    out, out_bias : ndarray of shape (w, w) and (w,), float64
    up, up_bias : ndarray of shape (u, w) and (u,), float64
    down, down_bias : ndarray of shape (w, u) and (w,), float64
    """

    kind: ClassVar[str] = "block"

    heads: int
    into: Floats
    into_bias: Floats
    out: Floats
    out_bias: Floats
    up: Floats
    up_bias: Floats
    down: Floats
    down_bias: Floats

    def __post_init__(self) -> None:
        for name in ("into", "out", "up", "down"):
            object.__setattr__(self, name, frozen(getattr(self, name), name, dimensions=(2,)))
            bias = frozen(getattr(self, f"{name}_bias"), name, dimensions=(1,))
            object.__setattr__(self, f"{name}_bias", bias)
        width, wide = self.out.shape[0], len(self.up)
        expected = {"into": (3 * width, width), "out": (width, width), "up": (wide, width), "down": (width, wide)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape or getattr(self, f"{name}_bias").shape != shape[:1]:
                raise ParameterError("The weights of a block do not fit", got=f"{name}: {getattr(self, name).shape}")
        if self.heads < 1 or width % self.heads:
            raise ParameterError("heads does not divide the width", got=f"{width} / {self.heads}")

    @property
    def secrets(self) -> tuple[Floats, ...]:
        """Weights and bias of each of the four maps."""
        return (
            self.into, self.into_bias, self.out, self.out_bias, self.up, self.up_bias, self.down, self.down_bias,
        )  # fmt: skip

    def after(self, shape: Shape) -> Shape:
        """The same shape, (rows, w)."""
        if len(shape) != 2 or shape[1] != len(self.out):
            raise ParameterError("Two layers do not fit", got=f"{shape} into rows of {len(self.out)}")
        return shape

    def peak(self, shape: Shape) -> int:
        """Attention of every row to every row, or what goes into it, or the small network."""
        return shape[0] * max(self.heads * shape[0], len(self.into), len(self.up))

    def __call__(self, Z: Floats) -> Floats:
        """(n, rows, w) -> (n, rows, w)."""
        n, rows, width = Z.shape
        mixed = standardised_rows(Z) @ self.into.T + self.into_bias
        q, k, v = (part.reshape(n, rows, self.heads, -1).transpose(0, 2, 1, 3) for part in np.split(mixed, 3, axis=2))
        logits = q @ k.transpose(0, 1, 3, 2)
        powers = np.exp(logits - logits.max(axis=3, keepdims=True))
        attended = (powers / powers.sum(axis=3, keepdims=True)) @ v
        Z = Z + attended.reshape(n, rows, width) @ self.out.T + self.out_bias
        u = standardised_rows(Z) @ self.up.T + self.up_bias
        found: Floats = Z + (u * ndtr(u)) @ self.down.T + self.down_bias
        return found

    def __repr__(self) -> str:
        return f"Block({self.heads} heads, <{len(self.out)} wide, secret weights>)"


def standardised_rows(Z: Floats) -> Floats:
    """Every row less its mean, over the root of its variance plus 1e-5 (Ba et al. 2016, arXiv 1607.06450)."""
    centred = Z - Z.mean(axis=-1, keepdims=True)
    found: Floats = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + NORM_FLOOR)
    return found
