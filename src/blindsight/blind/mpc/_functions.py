"""Functions that fixed point has no exact form of, in JAX, as operators compute them: within what is stated of each.

SPU's own tanh is off by 5e-3; its exponential and its roots are made for single precision. What is here takes products,
comparisons, and one reciprocal or root where its range is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from blindsight.circuits import NORM_FLOOR, Activation

__all__ = ["ACTIVATIONS", "SQUARINGS", "gelu", "norm", "softmax", "tanh"]

LEAKY_SLOPE = -float(Activation("leaky")(np.array(-1.0)))

TANH_REACH = 6.0
"""Beyond it tanh is 1 to 1.3e-5."""

GELU_REACH = 5.0
"""Beyond it ``z Phi(-z)`` is 0 to 1.5e-6."""

GELU = (
    0.01552543632, -0.09394139995, 0.2326666748, -0.2592293632, -0.01737596642, 0.4370784887, -0.4908128783,
    0.01524367401, 0.3452813709, -0.1480407748, -0.09251749085, 0.0488959297, 0.007232652583,
)  # fmt: skip
"""Of powers of ``s`` in ``z Phi(-z)`` for ``z = (s + 1) reach / 2``: least squares at 400 Chebyshev points, within
7.2e-6."""

EXPONENT_REACH = 18.0
"""In a ring of 64 bits exponentials below ``exp(-18)`` are that."""

SQUARINGS = 10
"""Of an exponential in a ring of 128 bits: it is right for exponents down to ``-2**SQUARINGS``."""


def relu(z: Any) -> Any:
    """``max(z, 0)``."""
    import jax.numpy as jnp

    return jnp.where(z > 0, z, 0.0)


def leaky(z: Any) -> Any:
    """``z``, or a tenth of it below 0."""
    import jax.numpy as jnp

    return jnp.where(z > 0, z, LEAKY_SLOPE * z)


def tanh(z: Any) -> Any:
    """Within 5e-5 in a ring of 64 bits with 18 fraction bits (3e-4 with 16), 2e-5 in one of 128.

    ``2 / (1 + exp(-2 |z|)) - 1``. The divisor d lies between 1 and 2, where the cubic ``(1 - T(2 d - 3) / 577) / d``, T
    Chebyshev's polynomial of degree 4, is off from the reciprocal by 1/577 at most; one step of Newton's iteration
    squares that. Products are few, and few stand one after the other: each is a message between operators.
    """
    import jax.numpy as jnp

    sign = jnp.where(z < 0, -1.0, 1.0)
    divisor = 1 + _sixteenth_power(jnp.minimum(sign * z, TANH_REACH) * (-2.0 / 16))
    low, high = 1632 / 577 - (1696 / 577) * divisor, 768 / 577 - (128 / 577) * divisor
    y = low + divisor * divisor * high
    y = y * (2 - divisor * y)
    return sign * (2 * y - 1)


def gelu(z: Any) -> Any:
    """``z Phi(z)`` within 1e-5 (64 bits: 1e-4): ``max(z, 0) - |z| Phi(-|z|)``, the second a polynomial."""
    import jax.numpy as jnp

    size = jnp.where(z < 0, -z, z)
    s = jnp.minimum(size, GELU_REACH) * (2 / GELU_REACH) - 1
    tail = GELU[-1] * s + GELU[-2]
    for coefficient in GELU[-3::-1]:
        tail = tail * s + coefficient
    return 0.5 * (z + size) - tail


def norm(z: Any) -> Any:
    """Rows (last axis) less their mean, over the root of their variance plus 1e-5.

    One step of Newton's iteration after SPU's root, which is off by 8e-5: within 3e-8 in a ring of 128 bits, for
    variances below 2**(fraction bits - 4).
    """
    import jax
    import jax.numpy as jnp

    share = 1.0 / z.shape[-1]
    centred = z - jnp.sum(z, axis=-1, keepdims=True) * share
    variance = jnp.sum(centred * centred, axis=-1, keepdims=True) * share + NORM_FLOOR
    y = jax.lax.rsqrt(variance)
    return centred * (y * (1.5 - 0.5 * ((variance * y) * y)))


def softmax(z: Any, ring_bits: int) -> Any:
    """Over the last axis, within 2e-6 in a ring of 128 bits; all entries within ``2**SQUARINGS`` of the largest."""
    import jax.numpy as jnp

    z = z - jnp.max(z, axis=-1, keepdims=True)
    if ring_bits == 128:
        u = z * (1.0 / (1 << SQUARINGS))
        powers = 1 + u * (1 + 0.5 * u)
        for _ in range(SQUARINGS):
            powers = powers * powers
    else:
        powers = _sixteenth_power(jnp.maximum(z, -EXPONENT_REACH) * (1.0 / 16))
    return powers * (1.0 / jnp.sum(powers, axis=-1, keepdims=True))


def _sixteenth_power(u: Any) -> Any:
    """``exp(16 u)`` for u in [-1.125, 0], within 1e-6: the 16th power of a Taylor polynomial."""
    square = u * u
    p = (1 + u) + square * ((1 / 2 + u * (1 / 6)) + square * ((1 / 24 + u * (1 / 120)) + square * (1 / 720)))
    for _ in range(4):
        p = p * p
    return p


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": relu, "leaky": leaky, "tanh": tanh}
