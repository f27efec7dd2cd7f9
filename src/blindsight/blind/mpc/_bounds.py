"""How large the numbers of a secret network can become, over all records inside the public bounds: interval arithmetic.

A fixed point is chosen by it, and a network that none can carry is refused with the layer named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from blindsight.circuits import Activation, Block, Convolution, Dense, Lstm, Network, Shift

__all__ = ["Bounds", "bounds_of"]

Floats = npt.NDArray[np.float64]
Interval = tuple[Floats, Floats]


@dataclass
class Bounds:
    """Largest absolute values, each with the layer where it may occur.

    Parameters
    ----------
    products : list of (float, str)
        Of products and sums of products.
    variances : list of (float, str)
        Of numbers of which a root is taken.
    logits : list of (float, str)
        Of what an exponential is taken of, before the largest is subtracted.
    """

    products: list[tuple[float, str]] = field(default_factory=list)
    variances: list[tuple[float, str]] = field(default_factory=list)
    logits: list[tuple[float, str]] = field(default_factory=list)


def bounds_of(network: Network, reach: Floats) -> Bounds:
    """Bound a network's numbers for inputs of at most these absolute values, shape (m,)."""
    assert network.shape is not None
    seen = reach[: network.reads].reshape(network.shape)
    found = Bounds(products=[(float(reach.max()), "the inputs")])
    interval = (-seen, seen)
    for number, layer in enumerate(network.layers, 1):
        name = f"layer {number} ({layer.kind})"
        if isinstance(layer, Dense | Convolution):
            interval = _linear(layer, interval, found, name)
        elif isinstance(layer, Activation) and layer.kind == "square":
            most = _most(interval)
            grown = most + abs(layer.coefficient) * most * most
            found.products.append((float(max((most * most).max(), grown.max())), name))
            interval = (-grown, grown)
        elif isinstance(layer, Lstm):
            interval = _lstm(layer, interval, found, name)
        elif isinstance(layer, Block):
            interval = _block(layer, interval, found, name)
        else:  # monotone, or numbers in other places
            interval = (layer(interval[0][None])[0], layer(interval[1][None])[0])
            if isinstance(layer, Shift):
                found.products.append((float(_most(interval).max()), name))
    last = -(network.compared or 0)
    low, high = (side.reshape(-1)[last:] for side in interval)
    goal = (-reach[last:], reach[last:]) if network.centre is None else (network.centre, network.centre)
    most = np.maximum(np.abs(low - goal[1]), np.abs(high - goal[0]))
    # the squares are truncated before they are summed: the sum holds half the fraction bits, and is never the worst
    found.products.append((float((most * most).max()), "the squared distance"))
    return found


def _most(interval: Interval) -> Floats:
    return np.maximum(np.abs(interval[0]), np.abs(interval[1]))


def _linear(layer: Dense | Convolution, interval: Interval, found: Bounds, name: str) -> Interval:
    centre, radius = (interval[0] + interval[1]) / 2, (interval[1] - interval[0]) / 2
    size = replace(layer, weights=np.abs(layer.weights), bias=np.zeros_like(layer.bias))
    all_positive = replace(size, bias=np.abs(layer.bias))
    middle, spread = layer(centre[None])[0], size(radius[None])[0]
    found.products.append((float(all_positive(_most(interval)[None])[0].max()), name))
    return middle - spread, middle + spread


def _lstm(layer: Lstm, interval: Interval, found: Bounds, name: str) -> Interval:
    """The state of a row is below 1, so that a cell grows by less than 1 a row."""
    before = _most(interval) @ np.abs(layer.inputs).T + np.abs(layer.states).sum(axis=1) + np.abs(layer.bias)
    rows, hidden = len(interval[0]), layer.states.shape[1]
    found.products += [(float(before.max()), name), (2.0 * rows + 2.0, name)]
    one = np.ones((rows, hidden))
    return -one, one


def _block(layer: Block, interval: Interval, found: Bounds, name: str) -> Interval:
    """A standardised row has length sqrt(width) at most, and what is attended to is a mean of values."""
    width = interval[0].shape[1]
    length = math.sqrt(width)
    _norm(interval, found, name)
    q, k, _ = np.split(layer.into, 3)
    q_bias, k_bias, _ = np.split(layer.into_bias, 3)
    side = width // layer.heads
    for head in (slice(at, at + side) for at in range(0, width, side)):
        reach = [np.linalg.norm(w[head], 2) * length + np.linalg.norm(b[head]) for w, b in ((q, q_bias), (k, k_bias))]
        found.logits.append((float(reach[0] * reach[1]), name))
    into = np.linalg.norm(layer.into, axis=1) * length + np.abs(layer.into_bias)
    largest = float(np.abs(layer.into).sum(axis=1).max()) * length + float(np.abs(layer.into_bias).max())
    found.products += [(largest, name), (max(value for value, _ in found.logits), name)]
    value = float(into[2 * width :].max())  # heads and rows change places: the largest, for all
    attended = _linear(
        Dense(weights=layer.out, bias=layer.out_bias), _around(np.full_like(interval[0], value)), found, name
    )
    interval = interval[0] + attended[0], interval[1] + attended[1]
    _norm(interval, found, name)
    up = np.linalg.norm(layer.up, axis=1) * length + np.abs(layer.up_bias)
    found.products.append((float((np.abs(layer.up).sum(axis=1) * length + np.abs(layer.up_bias)).max()), name))
    wide = np.broadcast_to(up, (len(interval[0]), len(up)))
    small = _linear(
        Dense(weights=layer.down, bias=layer.down_bias), (np.full_like(wide, -0.17), np.maximum(wide, 0)), found, name
    )  # the least value of gelu is -.16997
    return interval[0] + small[0], interval[1] + small[1]


def _around(reach: Floats) -> Interval:
    return -reach, reach


def _norm(interval: Interval, found: Bounds, name: str) -> None:
    """Variance and squares of rows less their mean: at most a quarter of the squared range (Popoviciu 1935), and all
    of it."""
    spread = interval[1].max(axis=1) - interval[0].min(axis=1)
    found.variances.append((float((spread * spread).max()) / 4, name))
    found.products.append((float((spread * spread).max()), name))
