"""A trained torch module as values that other engines evaluate: public inputs and a secret network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from blindsight.circuits import (
    NORM_FLOOR,
    Activation,
    Block,
    Convolution,
    Dense,
    Enlarge,
    Layer,
    Lstm,
    Network,
    Repeat,
    Reshape,
    Shift,
    Standardised,
)
from blindsight.data import Schema
from blindsight.errors import CapacityError

from ._features import category_names
from ._inputs import INPUT_BOUND
from ._preparation import Scaling

if TYPE_CHECKING:
    import torch

    from ._modules import Encoding, Reconstruction
    from ._window_modules import ConvNet, LSTMNet, TransformerNet

__all__ = ["network_of", "public_inputs"]

Floats = npt.NDArray[np.float64]


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
    """Read a module; CapacityError for one whose layers no engine evaluates.

    Parameters
    ----------
    module : torch.nn.Module
        In float64, as it scores.
    """
    from ._modules import Encoding, Reconstruction
    from ._window_modules import ConvNet, LSTMNet, TransformerNet

    if isinstance(module, Reconstruction | Encoding):
        return _chain(module)
    if isinstance(module, LSTMNet | TransformerNet):
        layers = _recurrent(module) if isinstance(module, LSTMNet) else _attention(module)
        return Network(
            layers=layers,
            target="inputs",
            shape=(module.window, module.n_inputs),
            following=module.horizon * module.n_inputs,
        )
    if isinstance(module, ConvNet):
        return Network(layers=_convolutional(module), target="inputs", shape=(module.channels, *module.sizes[0]))
    raise CapacityError(
        "This network cannot be scored blind as it is",
        got=type(module).__name__,
        rule="AutoEncoder, DeepSVDD, and autoencoders of windows and images, as they are here",
        fix="teach its scores to a table, TableStudent, and offer that",
    )


def _chain(module: Reconstruction | Encoding) -> Network:
    from torch import nn

    from ._modules import SQUARE_BOUND, LearnedSquare, Reconstruction

    layers: list[Layer] = []
    for part in module.net:
        if isinstance(part, nn.Linear):
            layers.append(_dense(part))
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


def _recurrent(net: LSTMNet) -> tuple[Layer, ...]:
    return _lstm(net.encoder), Repeat(rows=net.rows_out), _lstm(net.decoder), _dense(net.out)


def _lstm(layer: torch.nn.Module) -> Lstm:
    """A recurrent layer whose gates are all a tanh: see :class:`Lstm`."""
    named = {name: _values(parameter) for name, parameter in layer.named_parameters()}
    states = named["weight_hh_l0"]
    half = np.repeat([0.5, 0.5, 1.0, 0.5], states.shape[1])  # all gates but the cell's are sigmoids
    return Lstm(
        inputs=half[:, None] * named["weight_ih_l0"],
        states=half[:, None] * states,
        bias=half * (named["bias_ih_l0"] + named["bias_hh_l0"]),
    )


def _attention(net: TransformerNet) -> tuple[Layer, ...]:
    import torch

    from ._window_modules import positions

    def places(rows: int) -> Shift:
        return Shift(values=positions(rows, net.width, torch.zeros(1, dtype=torch.float64)).numpy())

    return (
        _dense(net.into),
        places(net.window),
        *(_block(block) for block in net.encoder),
        Reshape(shape=(net.window * net.width,)),
        _dense(net.narrow),
        Activation("tanh"),
        _dense(net.wide),
        Reshape(shape=(net.rows_out, net.width)),
        places(net.rows_out),
        *(_block(block) for block in net.decoder),
        _dense(net.out),
    )


def _block(block: Any) -> Block:
    """A block with what is affine in its norms, and the scale of its attention, in the weights that follow."""
    attention = block.attention
    scale = (len(attention.out_proj.weight) // attention.num_heads) ** -0.5
    parts = [(attention.qlinear, scale), (attention.klinear, 1.0), (attention.vlinear, 1.0)]
    mixed = [(by * weights, by * bias) for part, by in parts for weights, bias in [_after_norm(block.norm1, part)]]
    up, up_bias = _after_norm(block.norm2, block.up)
    return Block(
        heads=attention.num_heads,
        into=np.concatenate([weights for weights, _ in mixed]),
        into_bias=np.concatenate([bias for _, bias in mixed]),
        out=_values(attention.out_proj.weight),
        out_bias=_values(attention.out_proj.bias),
        up=up,
        up_bias=up_bias,
        down=_values(block.down.weight),
        down_bias=_values(block.down.bias),
    )


def _after_norm(norm: torch.nn.LayerNorm, linear: torch.nn.Linear) -> tuple[Floats, Floats]:
    """Weights and bias of a linear map after a norm, for a norm without any."""
    assert norm.eps == NORM_FLOOR
    weights = _values(linear.weight)
    return weights * _values(norm.weight), weights @ _values(norm.bias) + _values(linear.bias)


def _convolutional(net: ConvNet) -> tuple[Layer, ...]:
    sides, halves, quarters = net.sizes
    leaky = Activation("leaky")
    return (
        _convolution(net.down1, 2),
        leaky,
        _convolution(net.down2, 2),
        leaky,
        Reshape(shape=(2 * net.filters * math.prod(quarters),)),
        _dense(net.narrow),
        _dense(net.wide),
        leaky,
        Reshape(shape=(2 * net.filters, *quarters)),
        Enlarge(sides=halves),
        _convolution(net.up2, 1),
        leaky,
        Enlarge(sides=sides),
        _convolution(net.up1, 1),
    )


def _convolution(layer: Any, stride: int) -> Convolution:
    return Convolution(weights=_values(layer.weight), bias=_values(layer.bias), stride=stride)


def _dense(layer: torch.nn.Linear) -> Dense:
    weights = _values(layer.weight)
    return Dense(weights=weights, bias=np.zeros(len(weights)) if layer.bias is None else _values(layer.bias))


def _values(parameter: torch.Tensor) -> Floats:
    found: Floats = parameter.detach().numpy().astype(np.float64)
    return found
