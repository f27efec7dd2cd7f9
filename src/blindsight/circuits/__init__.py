"""Public encoders and secret integer circuits, as frozen values; the NumPy evaluator that defines every engine.

A score is ``<encode(x), weights> + bias`` over the integers. The encoder is public and runs where the record is;
the circuit is secret and runs where the model is. Whatever engine evaluates it (NumPy, BFV, MPC) must return the
very integers that :func:`evaluate` returns.
"""

from ._bins import OneHotBins, bin_index
from ._encoders import encoder_from_json, encoder_to_json
from ._encoding import MAX_LENGTH, Encoder, OneHot
from ._evaluate import evaluate
from ._fourier import RandomFourier
from ._image_layers import Convolution, Enlarge
from ._inputs import Inputs, inputs_from_json, inputs_to_json
from ._layers import InnerProduct
from ._monomials import Monomials
from ._network import Activation, Dense, Layer, Network, Shape
from ._projections import ProjectedBins
from ._quantised import Quantised
from ._spread import even_edges, spread, unspread
from ._standardised import Standardised, standardised_from_json, standardised_to_json
from ._trees import MAX_DEPTH, TreeLeaves, Trees
from ._window_layers import NORM_FLOOR, Block, Lstm, Repeat, Reshape, Shift
from ._windowed import DEVIATION_FLOOR, Windowed

__all__ = [
    "DEVIATION_FLOOR",
    "MAX_DEPTH",
    "MAX_LENGTH",
    "NORM_FLOOR",
    "Activation",
    "Block",
    "Convolution",
    "Dense",
    "Encoder",
    "Enlarge",
    "InnerProduct",
    "Inputs",
    "Layer",
    "Lstm",
    "Monomials",
    "Network",
    "OneHot",
    "OneHotBins",
    "ProjectedBins",
    "Quantised",
    "RandomFourier",
    "Repeat",
    "Reshape",
    "Shape",
    "Shift",
    "Standardised",
    "TreeLeaves",
    "Trees",
    "Windowed",
    "bin_index",
    "encoder_from_json",
    "encoder_to_json",
    "evaluate",
    "even_edges",
    "inputs_from_json",
    "inputs_to_json",
    "spread",
    "standardised_from_json",
    "standardised_to_json",
    "unspread",
]
