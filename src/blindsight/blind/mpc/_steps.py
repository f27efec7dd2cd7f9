"""Steps of a network without their weights: what they do to a shape, which secrets they take, and how they run in JAX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from blindsight.circuits import Block, Convolution, Dense, Enlarge, Layer, Lstm, Repeat, Reshape, Shape

from ._functions import ACTIVATIONS, gelu, norm, softmax, tanh

__all__ = ["PRECISE", "Size", "Step", "after", "apply", "nonlinear", "peak", "secret_shapes", "step_of"]

MAX_WIDTH = 1 << 16
MAX_ROWS_OF_WINDOW = 2048
PLACES = 3
"""Weights of a convolution along each axis."""

PRECISE = ("lstm", "block")
"""Steps whose errors grow from row to row, or that take roots: in ABY3 they have a ring of 128 bits."""

Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a network: its form, not its weights.

    Parameters
    ----------
    kind : str
        See :class:`blindsight.circuits.Layer` and its implementations.
    outputs : int
        Width after a dense step or an LSTM, rows after a repetition, filters of a convolution, width of a block's
        small network; 0 for the others.
    shape : tuple of int, optional
        After reshaping; sides after enlarging.
    heads : int, optional
        Of a block.
    stride : {1, 2}, optional
        Of a convolution.
    """

    kind: Literal[
        "dense", "relu", "leaky", "square", "tanh",
        "lstm", "repeat", "reshape", "shift", "block", "convolution", "enlarge",
    ]  # fmt: skip
    outputs: Annotated[int, msgspec.Meta(ge=0, le=MAX_WIDTH)] = 0
    shape: Annotated[tuple[Size, ...], msgspec.Meta(min_length=1, max_length=3)] | UnsetType = UNSET
    heads: Annotated[int, msgspec.Meta(ge=1, le=256)] | UnsetType = UNSET
    stride: Annotated[int, msgspec.Meta(ge=1, le=2)] | UnsetType = UNSET


class _Kind(NamedTuple):
    """What one kind of step is, as functions of a step and of the shape that goes into it.

    ``peak`` is of what it holds besides its input and output, ``nonlinear`` the number of its comparisons, exponentials
    and roots.
    """

    after: Callable[[Step, Shape], Shape | None]
    secrets: Callable[[Step, Shape], tuple[Shape, ...]]
    run: Callable[..., Any]
    uses: tuple[str, ...] = ()
    peak: Callable[[Step, Shape], int] = lambda step, shape: 0
    nonlinear: Callable[[Step, Shape], int] = lambda step, shape: 0


def after(step: Step, shape: Shape) -> Shape:
    """Shape after a step; ValueError where the step does not fit, or has not just the fields of its kind."""
    kind = _KINDS[step.kind]
    given = [name for name in ("outputs", "shape", "heads", "stride") if getattr(step, name) not in (0, UNSET)]
    if set(given) != set(kind.uses):
        raise ValueError(f"a {step.kind} step has {' and '.join(kind.uses) or 'no fields'}")
    found = kind.after(step, shape)
    if found is None or math.prod(found) > 1 << 24:
        raise ValueError("the steps of a network do not fit")
    return found


def peak(step: Step, shape: Shape) -> int:
    """Most numbers of one record that a step holds in one array."""
    return max(math.prod(shape), math.prod(after(step, shape)), _KINDS[step.kind].peak(step, shape))


def nonlinear(step: Step, shape: Shape) -> int:
    """Number of comparisons, exponentials and roots of one record: what time goes into."""
    return _KINDS[step.kind].nonlinear(step, shape)


def secret_shapes(step: Step, shape: Shape) -> tuple[Shape, ...]:
    """Shapes of a step's secrets, in order."""
    return _KINDS[step.kind].secrets(step, shape)


def apply(step: Step, z: Any, secrets: list[Any], ring_bits: int) -> Any:
    """Run a step in JAX on records of shape (n, *shape), taking from the front of ``secrets`` what it needs."""
    count = len(secret_shapes(step, tuple(z.shape[1:])))
    own, secrets[:count] = secrets[:count], []
    return _KINDS[step.kind].run(step, z, own, ring_bits)


def step_of(layer: Layer) -> Step:
    """The public form of a secret layer."""
    if isinstance(layer, Dense):
        return Step("dense", len(layer.weights))
    if isinstance(layer, Lstm):
        return Step("lstm", layer.states.shape[1])
    if isinstance(layer, Repeat):
        return Step("repeat", layer.rows)
    if isinstance(layer, Reshape):
        return Step("reshape", shape=layer.shape)
    if isinstance(layer, Block):
        return Step("block", len(layer.up), heads=layer.heads)
    if isinstance(layer, Convolution):
        return Step("convolution", len(layer.weights), stride=layer.stride)
    if isinstance(layer, Enlarge):
        return Step("enlarge", shape=layer.sides)
    return Step(layer.kind)  # type: ignore[arg-type]


# -- rows of numbers


def _dense_run(step: Step, z: Any, own: list[Any], ring_bits: int) -> Any:  # noqa: ARG001 (one signature)
    return _linear(z, *own)


def _linear(z: Any, weights: Any, bias: Any) -> Any:
    """One matrix product, whatever stands before the last axis."""
    return (z.reshape(-1, z.shape[-1]) @ weights.T).reshape(*z.shape[:-1], weights.shape[0]) + bias


def _activation(step: Step, z: Any, own: list[Any], ring_bits: int) -> Any:  # noqa: ARG001
    return ACTIVATIONS[step.kind](z)


def _square(step: Step, z: Any, own: list[Any], ring_bits: int) -> Any:  # noqa: ARG001
    return z + own[0] * z * z


def _shift(step: Step, z: Any, own: list[Any], ring_bits: int) -> Any:  # noqa: ARG001
    return z + own[0]


# -- rows of a window


def _lstm_after(step: Step, shape: Shape) -> Shape | None:
    return (shape[0], step.outputs) if len(shape) == 2 and shape[0] <= MAX_ROWS_OF_WINDOW else None


def _lstm_secrets(step: Step, shape: Shape) -> tuple[Shape, ...]:
    four = 4 * step.outputs
    return (four, shape[1]), (four, step.outputs), (four,)


def _lstm(step: Step, z: Any, own: list[Any], ring_bits: int) -> Any:  # noqa: ARG001
    """Row by row in a loop, whose length is public: what is compiled does not grow with the window."""
    import jax
    import jax.numpy as jnp

    inputs, states, bias = own
    before = _linear(z, inputs, bias)

    def row(held: tuple[Any, Any], now: Any) -> tuple[tuple[Any, Any], Any]:
        h, c = held
        gates = tanh(now + h @ states.T)
        a, b, g, o = (gates[:, i * step.outputs : (i + 1) * step.outputs] for i in range(4))
        c = 0.5 * ((1 + b) * c + (1 + a) * g)
        h = 0.5 * ((1 + o) * tanh(c))
        return (h, c), h

    nothing = jnp.zeros((z.shape[0], step.outputs))
    _, found = jax.lax.scan(row, (nothing, nothing), before.transpose(1, 0, 2))
    return found.transpose(1, 0, 2)


def _repeat(step: Step, z: Any, own: list[Any], ring_bits: int) -> Any:  # noqa: ARG001
    import jax.numpy as jnp

    return jnp.broadcast_to(z[:, -1:], (z.shape[0], step.outputs, z.shape[2]))


def _reshape(step: Step, z: Any, own: list[Any], ring_bits: int) -> Any:  # noqa: ARG001
    return z.reshape(z.shape[0], *step.shape)


def _block_after(step: Step, shape: Shape) -> Shape | None:
    fits = len(shape) == 2 and shape[0] <= MAX_ROWS_OF_WINDOW and shape[1] % int(step.heads) == 0
    return shape if fits else None


def _block_secrets(step: Step, shape: Shape) -> tuple[Shape, ...]:
    width, wide = shape[1], step.outputs
    return (3 * width, width), (3 * width,), (width, width), (width,), (wide, width), (wide,), (width, wide), (width,)


def _block(step: Step, z: Any, own: list[Any], ring_bits: int) -> Any:
    into, into_bias, out, out_bias, up, up_bias, down, down_bias = own
    n, rows, width = z.shape
    heads = int(step.heads)
    mixed = _linear(norm(z), into, into_bias).reshape(n, rows, 3, heads, width // heads)
    q, k, v = (mixed[:, :, i].transpose(0, 2, 1, 3).reshape(n * heads, rows, -1) for i in range(3))
    attended = softmax(q @ k.transpose(0, 2, 1), ring_bits) @ v
    z = z + _linear(attended.reshape(n, rows, width), out, out_bias)
    return z + _linear(gelu(_linear(norm(z), up, up_bias)), down, down_bias)


# -- signals and images


def _convolution_after(step: Step, shape: Shape) -> Shape | None:
    if len(shape) not in (2, 3):
        return None
    return (step.outputs, *(-(-side // int(step.stride)) for side in shape[1:]))


def _convolution(step: Step, z: Any, own: list[Any], ring_bits: int) -> Any:  # noqa: ARG001
    """One matrix product of every place's neighbourhood: cutting it out is public."""
    import jax.numpy as jnp

    sides, stride = z.shape[2:], int(step.stride)
    padded = jnp.pad(z, [(0, 0), (0, 0), *[(1, 1)] * len(sides)])
    pieces = [padded]
    for axis, side in enumerate(sides, 2):
        cuts = [(*[slice(None)] * axis, slice(start, start + side, stride)) for start in range(PLACES)]
        pieces = [piece[cut] for piece in pieces for cut in cuts]
    around = jnp.stack(pieces, axis=2)  # (n, channels, places, *smaller sides)
    smaller = around.shape[3:]
    last = jnp.moveaxis(around.reshape(z.shape[0], -1, *smaller), 1, -1)
    return jnp.moveaxis(_linear(last, *own), -1, 1)


def _enlarge_after(step: Step, shape: Shape) -> Shape | None:
    sides = step.shape
    if not isinstance(sides, tuple) or len(shape) != len(sides) + 1 or len(sides) > 2:
        return None
    fits = all(new in (2 * old, 2 * old - 1) for old, new in zip(shape[1:], sides, strict=True))
    return (shape[0], *sides) if fits else None


def _enlarge(step: Step, z: Any, own: list[Any], ring_bits: int) -> Any:  # noqa: ARG001
    import jax.numpy as jnp

    assert isinstance(step.shape, tuple)
    for axis, side in enumerate(step.shape, 2):
        twice = jnp.stack([z, z], axis=axis + 1).reshape(*z.shape[:axis], 2 * z.shape[axis], *z.shape[axis + 1 :])
        z = twice[(*[slice(None)] * axis, slice(side))]
    return z


def _same(step: Step, shape: Shape) -> Shape:  # noqa: ARG001
    return shape


def _none(step: Step, shape: Shape) -> tuple[Shape, ...]:  # noqa: ARG001
    return ()


def _all(step: Step, shape: Shape) -> int:  # noqa: ARG001
    return math.prod(shape)


_KINDS: dict[str, _Kind] = {
    "dense": _Kind(
        lambda step, shape: (*shape[:-1], step.outputs),
        lambda step, shape: ((step.outputs, shape[-1]), (step.outputs,)),
        _dense_run,
        ("outputs",),
    ),
    "relu": _Kind(_same, _none, _activation, nonlinear=_all),
    "leaky": _Kind(_same, _none, _activation, nonlinear=_all),
    "tanh": _Kind(_same, _none, _activation, nonlinear=_all),
    "square": _Kind(_same, lambda step, shape: ((),), _square),
    "shift": _Kind(_same, lambda step, shape: (shape,), _shift),
    "lstm": _Kind(
        _lstm_after,
        _lstm_secrets,
        _lstm,
        ("outputs",),
        lambda step, shape: 4 * shape[0] * step.outputs,
        lambda step, shape: 5 * shape[0] * step.outputs,
    ),
    "repeat": _Kind(
        lambda step, shape: (step.outputs, shape[1]) if len(shape) == 2 else None, _none, _repeat, ("outputs",)
    ),
    "reshape": _Kind(
        lambda step, shape: step.shape if isinstance(step.shape, tuple) and _total(step) == math.prod(shape) else None,
        _none,
        _reshape,
        ("shape",),
    ),
    "block": _Kind(
        _block_after,
        _block_secrets,
        _block,
        ("outputs", "heads"),
        lambda step, shape: shape[0] * max(int(step.heads) * shape[0], 3 * shape[1], step.outputs),
        lambda step, shape: shape[0] * (2 * int(step.heads) * shape[0] + step.outputs + 2),
    ),
    "convolution": _Kind(
        _convolution_after,
        lambda step, shape: ((step.outputs, shape[0] * PLACES ** (len(shape) - 1)), (step.outputs,)),
        _convolution,
        ("outputs", "stride"),
        lambda step, shape: math.prod(_halved(step, shape)) * shape[0] * PLACES ** (len(shape) - 1),
    ),
    "enlarge": _Kind(
        _enlarge_after, _none, _enlarge, ("shape",), lambda step, shape: math.prod(shape) << (len(shape) - 1)
    ),
}


def _total(step: Step) -> int:
    return math.prod(step.shape) if isinstance(step.shape, tuple) else 0


def _halved(step: Step, shape: Shape) -> Shape:
    return tuple(-(-side // int(step.stride)) for side in shape[1:])
