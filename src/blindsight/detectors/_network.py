"""A trained torch module as values that other engines evaluate: public inputs and a secret network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blindsight.circuits import Activation, Dense, Network, Standardised
from blindsight.data import Schema
from blindsight.errors import CapacityError

from ._features import category_names
from ._inputs import INPUT_BOUND
from ._preparation import Scaling

if TYPE_CHECKING:
    import torch

__all__ = ["network_of", "public_inputs"]


def public_inputs(schema: Schema, scaling: Scaling) -> Standardised:
    """What :class:`Inputs` computes, as a value that travels; offsets and scales in the units of the columns."""
    lows, spans = np.asarray(scaling.lows), np.asarray(scaling.highs) - np.asarray(scaling.lows)
    return Standardised(
        offsets=tuple(float(v) for v in lows + np.asarray(scaling.centres) * spans),
        scales=tuple(float(v) for v in np.asarray(scaling.scales) * spans),
        slots=tuple(len(category_names(c)) + 1 if c.type == "category" else 0 for c in schema.features),
        bound=INPUT_BOUND,
    )


def network_of(module: torch.nn.Module) -> Network:
    """Read a feed-forward module; CapacityError for one that is not a chain of known layers with a squared distance.

    Parameters
    ----------
    module : torch.nn.Module
        In float64, as it scores.
    """
    from torch import nn

    from ._modules import SQUARE_BOUND, Encoding, LearnedSquare, Reconstruction

    if not isinstance(module, Reconstruction | Encoding):
        raise CapacityError(
            "This network cannot be scored blind as it is",
            got=type(module).__name__,
            rule="AutoEncoder and DeepSVDD: dense layers and activations one after the other",
            fix="teach its scores to a table, TableStudent, and offer that",
        )
    layers: list[Dense | Activation] = []
    for part in module.net:
        if isinstance(part, nn.Linear):
            weights = part.weight.detach().numpy()
            bias = np.zeros(len(weights)) if part.bias is None else part.bias.detach().numpy()
            layers.append(Dense(weights=weights, bias=bias))
        elif isinstance(part, LearnedSquare):
            layers.append(Activation("square", float(np.clip(part.a.detach().item(), -SQUARE_BOUND, SQUARE_BOUND))))
        elif isinstance(part, nn.ReLU):
            layers.append(Activation("relu"))
        elif isinstance(part, nn.LeakyReLU):
            layers.append(Activation("leaky"))
        else:
            layers.append(Activation("tanh"))
    if isinstance(module, Reconstruction):
        return Network(layers=tuple(layers), target="inputs")
    return Network(layers=tuple(layers), target="centre", centre=np.asarray(module.centre, dtype=np.float64))
