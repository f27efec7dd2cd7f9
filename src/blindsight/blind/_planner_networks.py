"""What the planner reads of a model's network."""

from __future__ import annotations

import math
from typing import Any

from blindsight.circuits import Network
from blindsight.errors import BlindsightError, CapacityError, NotFittedError

__all__ = ["first_layer", "has_network", "network_of", "numbers"]


def network_of(model: Any) -> Network:
    """The model's network; CapacityError where it is none that an engine reads."""
    if not has_network(model):
        raise CapacityError(
            f"{type(model).__name__} is neither an inner product nor a network of known layers",
            rule="an integer circuit on a public encoding, or a network of layers that are known here",
        )
    try:
        network: Network = model.network_
    except NotFittedError:
        raise
    except BlindsightError as error:
        raise CapacityError(error.what, got=error.got, rule=error.rule) from error
    return network


def has_network(model: Any) -> bool:
    """Whether there is such an attribute, without asking for it: it may be computed, and raise."""
    return hasattr(type(model), "network_") or "network_" in getattr(model, "__dict__", {})


def first_layer(network: Network) -> str:
    """The first layer, for people."""
    shapes = (math.prod(shape) for shape in network.shapes[:2])
    return f"{network.layers[0].kind} {' to '.join(map(str, shapes))}"


def numbers(network: Network) -> int:
    """Weights and biases."""
    return sum(secret.size for layer in network.layers if layer.kind != "square" for secret in layer.secrets)
