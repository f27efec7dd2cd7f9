"""What a step does: to a shape, which secrets it takes, what it asks for, and how it runs in JAX.

Everything follows from the public description. JAX is imported where a program is compiled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from msgspec import UNSET

from blindsight.circuits import Shape

from ._functions import ACTIVATIONS, gelu, norm, softmax, tanh
from ._steps import MAX_NUMBERS, Step

__all__ = ["Form", "form_of"]

MAX_WINDOW = 2048
"""Rows that recurrent layers and attention take."""

PLACES = 3
"""Weights of a convolution along each axis."""


@dataclass(frozen=True)
class Form:
    """A step and the shape that goes into it.

    Parameters
    ----------
    step : Step
    shape : tuple of int
        Of one record's numbers before the step.
    ring_bits : {64, 128}
    """

    uses: ClassVar[tuple[str, ...]] = ()
    """Fields of a step that this kind has."""

    step: Step
    shape: Shape
    ring_bits: int = 64

    @property
    def after(self) -> Shape | None:
        """Shape of the output; None where the step does not fit."""
        return self.shape

    @property
    def secrets(self) -> tuple[Shape, ...]:
        """Shapes of the step's secrets, in order."""
        return ()

    @property
    def holds(self) -> int:
        """Most numbers of one record in an array inside."""
        return 0

    @property
    def curved(self) -> int:
        """Exponentials and roots of one record, and comparisons by the eight: what time goes into."""
        return 0

    @property
    def peak(self) -> int:
        """Most numbers of one record in any array."""
        return max(math.prod(self.shape), math.prod(self.after or ()), self.holds)

    def run(self, z: Any, own: list[Any]) -> Any:
        """Compute in JAX on records of shape (n, *shape), with the step's secrets."""
        raise NotImplementedError


def form_of(step: Step, shape: Shape, ring_bits: int = 64) -> Form:
    """The form of a step; ValueError where it does not fit, or has not just the fields of its kind."""
    form = _FORMS[step.kind](step, shape, ring_bits)
    given = [name for name in ("outputs", "shape", "heads", "stride") if getattr(step, name) not in (0, UNSET)]
    if set(given) != set(form.uses):
        raise ValueError(f"a {step.kind} step has {' and '.join(form.uses) or 'no fields'}")
    after = form.after
    if after is None or math.prod(after) > MAX_NUMBERS:
        raise ValueError("the steps of a network do not fit")
    return form


def _linear(z: Any, weights: Any, bias: Any) -> Any:
    """One matrix product, whatever stands before the last axis."""
    return (z.reshape(-1, z.shape[-1]) @ weights.T).reshape(*z.shape[:-1], weights.shape[0]) + bias


class _Dense(Form):
    uses = ("outputs",)

    @property
    def after(self) -> Shape:
        return (*self.shape[:-1], self.step.outputs)

    @property
    def secrets(self) -> tuple[Shape, ...]:
        return (self.step.outputs, self.shape[-1]), (self.step.outputs,)

    def run(self, z: Any, own: list[Any]) -> Any:
        return _linear(z, *own)


class _Comparison(Form):
    @property
    def curved(self) -> int:
        return math.prod(self.shape) // 8

    def run(self, z: Any, own: list[Any]) -> Any:
        assert not own
        return ACTIVATIONS[self.step.kind](z)


class _Tanh(_Comparison):
    @property
    def curved(self) -> int:
        return math.prod(self.shape)


class _Square(Form):
    @property
    def secrets(self) -> tuple[Shape, ...]:
        return ((),)

    def run(self, z: Any, own: list[Any]) -> Any:
        return z + own[0] * z * z


class _Shift(Form):
    @property
    def secrets(self) -> tuple[Shape, ...]:
        return (self.shape,)

    def run(self, z: Any, own: list[Any]) -> Any:
        return z + own[0]


class _Reshape(Form):
    uses = ("shape",)

    @property
    def after(self) -> Shape | None:
        wanted = self.step.shape
        return wanted if isinstance(wanted, tuple) and math.prod(wanted) == math.prod(self.shape) else None

    def run(self, z: Any, own: list[Any]) -> Any:
        assert not own
        return z.reshape(z.shape[0], *(self.after or ()))


# -- rows of a window


class _Repeat(Form):
    uses = ("outputs",)

    @property
    def after(self) -> Shape | None:
        return (self.step.outputs, self.shape[1]) if len(self.shape) == 2 else None

    def run(self, z: Any, own: list[Any]) -> Any:
        import jax.numpy as jnp

        assert not own
        return jnp.broadcast_to(z[:, -1:], (z.shape[0], self.step.outputs, z.shape[2]))


class _Lstm(Form):
    uses = ("outputs",)

    @property
    def after(self) -> Shape | None:
        fits = len(self.shape) == 2 and self.shape[0] <= MAX_WINDOW
        return (self.shape[0], self.step.outputs) if fits else None

    @property
    def secrets(self) -> tuple[Shape, ...]:
        four = 4 * self.step.outputs
        return (four, self.shape[1]), (four, self.step.outputs), (four,)

    @property
    def holds(self) -> int:
        return 4 * self.shape[0] * self.step.outputs

    @property
    def curved(self) -> int:
        return 5 * self.shape[0] * self.step.outputs

    def run(self, z: Any, own: list[Any]) -> Any:
        """Row by row in a loop, whose length is public: what is compiled does not grow with the window."""
        import jax
        import jax.numpy as jnp

        inputs, states, bias = own
        hidden = self.step.outputs

        def row(held: tuple[Any, Any], now: Any) -> tuple[tuple[Any, Any], Any]:
            h, c = held
            gates = tanh(now + h @ states.T)
            a, b, g, o = (gates[:, i * hidden : (i + 1) * hidden] for i in range(4))
            c = 0.5 * ((1 + b) * c + (1 + a) * g)
            h = 0.5 * ((1 + o) * tanh(c))
            return (h, c), h

        nothing = jnp.zeros((z.shape[0], hidden))
        _, found = jax.lax.scan(row, (nothing, nothing), _linear(z, inputs, bias).transpose(1, 0, 2))
        return found.transpose(1, 0, 2)


class _Block(Form):
    uses = ("outputs", "heads")

    @property
    def heads(self) -> int:
        return self.step.heads if isinstance(self.step.heads, int) else 1

    @property
    def after(self) -> Shape | None:
        fits = len(self.shape) == 2 and self.shape[0] <= MAX_WINDOW and self.shape[1] % self.heads == 0
        return self.shape if fits else None

    @property
    def secrets(self) -> tuple[Shape, ...]:
        width, wide = self.shape[1], self.step.outputs
        shapes = ((3 * width, width), (width, width), (wide, width), (width, wide))
        return tuple(part for shape in shapes for part in (shape, shape[:1]))

    @property
    def holds(self) -> int:
        return self.shape[0] * max(self.heads * self.shape[0], 3 * self.shape[1], self.step.outputs)

    @property
    def curved(self) -> int:
        return self.shape[0] * (self.heads * (self.shape[0] + 1) + self.step.outputs + 2)

    def run(self, z: Any, own: list[Any]) -> Any:
        into, into_bias, out, out_bias, up, up_bias, down, down_bias = own
        n, rows, width = z.shape
        mixed = _linear(norm(z), into, into_bias).reshape(n, rows, 3, self.heads, width // self.heads)
        q, k, v = (mixed[:, :, i].transpose(0, 2, 1, 3).reshape(n * self.heads, rows, -1) for i in range(3))
        attended = softmax(q @ k.transpose(0, 2, 1), self.ring_bits) @ v
        z = z + _linear(attended.reshape(n, rows, width), out, out_bias)
        return z + _linear(gelu(_linear(norm(z), up, up_bias)), down, down_bias)


# -- signals and images


class _Convolution(Form):
    uses = ("outputs", "stride")

    @property
    def stride(self) -> int:
        return self.step.stride if isinstance(self.step.stride, int) else 1

    @property
    def after(self) -> Shape | None:
        sides = tuple(-(-side // self.stride) for side in self.shape[1:])
        return (self.step.outputs, *sides) if 1 <= len(sides) <= 2 else None

    @property
    def around(self) -> int:
        """Numbers that go into one output."""
        return self.shape[0] * math.prod(PLACES for _ in self.shape[1:])

    @property
    def secrets(self) -> tuple[Shape, ...]:
        return (self.step.outputs, self.around), (self.step.outputs,)

    @property
    def holds(self) -> int:
        places: int = math.prod((self.after or ())[1:])
        return places * self.around

    def run(self, z: Any, own: list[Any]) -> Any:
        """One matrix product of every place's neighbourhood: cutting it out is public."""
        import jax.numpy as jnp

        sides = z.shape[2:]
        pieces = [jnp.pad(z, [(0, 0), (0, 0), *[(1, 1)] * len(sides)])]
        for axis, side in enumerate(sides, 2):
            cuts = [(*[slice(None)] * axis, slice(start, start + side, self.stride)) for start in range(PLACES)]
            pieces = [piece[cut] for piece in pieces for cut in cuts]
        around = jnp.stack(pieces, axis=2)  # (n, channels, places, *smaller sides)
        last = jnp.moveaxis(around.reshape(z.shape[0], self.around, *around.shape[3:]), 1, -1)
        return jnp.moveaxis(_linear(last, *own), -1, 1)


class _Enlarge(Form):
    uses = ("shape",)

    @property
    def after(self) -> Shape | None:
        sides = self.step.shape
        if not isinstance(sides, tuple) or len(self.shape) != len(sides) + 1 or len(sides) > 2:
            return None
        fits = all(new in (2 * old, 2 * old - 1) for old, new in zip(self.shape[1:], sides, strict=True))
        return (self.shape[0], *sides) if fits else None

    @property
    def holds(self) -> int:
        size: int = math.prod(self.shape)
        return size << (len(self.shape) - 1)

    def run(self, z: Any, own: list[Any]) -> Any:
        import jax.numpy as jnp

        assert not own
        for axis, side in enumerate((self.after or ())[1:], 2):
            twice = jnp.stack([z, z], axis=axis + 1).reshape(*z.shape[:axis], -1, *z.shape[axis + 1 :])
            z = twice[(*[slice(None)] * axis, slice(side))]
        return z


_FORMS: dict[str, type[Form]] = {
    "dense": _Dense,
    "relu": _Comparison,
    "leaky": _Comparison,
    "tanh": _Tanh,
    "square": _Square,
    "shift": _Shift,
    "reshape": _Reshape,
    "repeat": _Repeat,
    "lstm": _Lstm,
    "block": _Block,
    "convolution": _Convolution,
    "enlarge": _Enlarge,
}
