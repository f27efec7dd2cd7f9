"""Steps of a network as its public description holds them: forms without weights."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from blindsight.circuits import Block, Convolution, Dense, Enlarge, Layer, Lstm, Repeat, Reshape

__all__ = ["PRECISE", "Size", "Step", "step_of"]

PRECISE = ("lstm", "block", "convolution")
"""Steps of networks in which errors grow, or roots are taken: under ABY3 these have a ring of 128 bits, which takes
hardly more time."""

MAX_WIDTH = 1 << 16
MAX_NUMBERS = 1 << 24

Size = Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBERS)]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a network: its form, not its weights.

    Parameters
    ----------
    kind : str
        Of a layer; see :class:`blindsight.circuits.Layer`.
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
