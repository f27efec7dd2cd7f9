"""Which engine serves what: the one place that knows them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from blindsight.circuits import (
    Encoder,
    InnerProduct,
    Inputs,
    Monomials,
    Network,
    encoder_to_json,
    inputs_to_json,
)
from blindsight.errors import CapacityError, NotFittedError, ParameterError
from blindsight.he import CkksContext, HeContext

from ._bfv import BfvOwner, BfvScorer, bfv_masks
from ._ckks import CkksOwner, CkksScorer
from ._ckks_circuit import plan_network
from ._ckks_plan import CkksParameters
from ._ckks_protect import CkksRerandomiser
from ._device import open_device
from ._engine import Masks
from ._offer import Offer
from ._plan import BlindParameters, Packing, Upload, plan
from ._quadratic import squared_distance

__all__ = ["Model", "Scheme", "Served", "mask_reader", "owner_engine", "serve"]

Scheme = Literal["bfv", "ckks"]

DEFAULT_TOLERANCE = 1e-3
"""Of the threshold, where scores are approximate."""


class Model(Protocol):
    """What a scorer asks of a fitted model: an integer circuit; or ``network_`` and ``inputs_`` in its place."""

    encoder_: Encoder
    circuit_: InnerProduct
    score_scale_: float
    schema_: Any

    @property
    def is_secret_(self) -> bool:
        """Whether the public encoder tells nothing learned from data."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model made ready to score.

    Parameters
    ----------
    parameters : BlindParameters or CkksParameters
    engine : BfvScorer or CkksScorer
    encoder : Encoder or Inputs
        Public.
    score_scale : float
        ``decision_function`` is the engine's score times this.
    fingerprint : str
        Of the model whatever its engine, for counting bits.
    freedom : int
        Well-chosen exact scores after which an owner can compute every score itself.
    """

    parameters: BlindParameters | CkksParameters
    engine: BfvScorer | CkksScorer
    encoder: Encoder | Inputs
    score_scale: float
    fingerprint: str
    freedom: int


def serve(
    model: Model,
    *,
    scheme: Scheme | None,
    packing: Packing,
    upload: Upload | None,
    thresholds: int,
    tolerance: float | None,
    threads: int,
    device: str | None = None,
) -> Served:
    """Plan and prepare an engine for a fitted model; see :class:`Scorer`."""
    if type(threads) is not int or not 1 <= threads <= 256:
        raise ParameterError("threads is out of its domain", got=repr(threads), rule="an integer from 1 to 256")
    if scheme not in (None, "bfv", "ckks"):
        raise ParameterError("The scheme is not known", got=repr(scheme)[:40], rule="'bfv' or 'ckks'")
    if device is not None and packing != "columns":
        raise ParameterError(
            "A device is for columns",
            got=f"device={device!r}, packing={packing!r}",
            rule="rows multiply polynomials, in SEAL; columns multiply matrices of residues",
            fix="packing='columns', or leave device out",
        )
    if hasattr(model, "circuit_"):
        if scheme == "ckks":
            return _quadratic(model, packing, upload, thresholds, tolerance, threads, device)
        if tolerance is not None:
            raise ParameterError("Scores of this model are exact", fix="leave tolerance out: it is for scheme='ckks'")
        return _inner_product(model, packing, upload, thresholds, threads, device)
    if scheme != "bfv" and packing == "columns" and not thresholds and hasattr(model, "network_"):
        return _network(model, upload, tolerance, threads, device)
    if hasattr(model, "score_histogram_") or hasattr(model, "network_"):
        raise CapacityError(
            f"{type(model).__name__} cannot be scored blind in this way",
            rule="a blind score is one inner product of a public encoding with secret weights; of networks of dense "
            "layers and square activations, packing='columns' computes scores, not verdicts",
            fix="let operators score it by multi-party computation, where they can (`blindsight plan blind`); or teach "
            "its scores to a table, TableStudent, and offer that",
        )
    raise NotFittedError(
        "The model to score with is not fitted", fix="fit it, or load a saved one with blindsight.load"
    )


def _inner_product(
    model: Model, packing: Packing, upload: Upload | None, thresholds: int, threads: int, device: str | None
) -> Served:
    encoder, circuit = model.encoder_, model.circuit_
    circuit.check(encoder)
    parameters = plan(encoder, circuit, packing=packing, upload=upload, thresholds=thresholds)
    return Served(
        parameters=parameters,
        engine=BfvScorer(parameters, circuit, threads=threads, device=open_device(device)),
        encoder=encoder,
        score_scale=float(model.score_scale_),
        fingerprint=_fingerprint(encoder, circuit),
        freedom=encoder.freedom(),
    )


def _fingerprint(encoder: Encoder, circuit: InnerProduct) -> str:
    state = hashlib.sha256(json.dumps(encoder_to_json(encoder), sort_keys=True).encode())
    state.update(np.asarray(circuit.weights).astype("<i8").tobytes() + str(circuit.bias).encode())
    return state.hexdigest()[:16]


def _quadratic(
    model: Model,
    packing: Packing,
    upload: Upload | None,
    thresholds: int,
    tolerance: float | None,
    threads: int,
    device: str | None,
) -> Served:
    encoder, circuit = model.encoder_, model.circuit_
    if packing != "columns" or thresholds or not isinstance(encoder, Monomials):
        raise CapacityError(
            f"{type(model).__name__} cannot be scored under CKKS in this way",
            got=f"{encoder.kind} in {packing}, {'verdicts' if thresholds else 'scores'}",
            rule="scores of quadratic forms and of networks, in columns",
            fix="leave scheme out: under BFV its scores are exact",
        )
    circuit.check(encoder)
    allowed = _tolerance(model, tolerance)
    inputs, network, offset = squared_distance(encoder, circuit, float(model.score_scale_), allowed)
    parameters, integers = plan_network(inputs, network, allowed, offset=offset, upload=upload)
    return Served(
        parameters=parameters,
        engine=CkksScorer(parameters, integers, threads=threads, device=open_device(device)),
        encoder=inputs,
        score_scale=1.0,
        fingerprint=_fingerprint(encoder, circuit),
        freedom=encoder.freedom(),
    )


def _tolerance(model: Any, tolerance: float | None) -> float:
    """Largest error of scores up to 1,000 times as large: as given, or by the model's threshold."""
    if tolerance is None:
        threshold = getattr(model, "threshold_", None)
        if threshold is None or not threshold > 0:
            raise ParameterError(
                "The model has no threshold to measure errors by",
                got=repr(threshold),
                fix="give tolerance, the largest error of scores up to 1,000 tolerances",
            )
        return DEFAULT_TOLERANCE * float(threshold)
    if not (isinstance(tolerance, int | float) and 0 < tolerance < float("inf")):
        raise ParameterError("tolerance is out of its domain", got=repr(tolerance), rule="a positive number")
    return float(tolerance)


def _network(model: Any, upload: Upload | None, tolerance: float | None, threads: int, device: str | None) -> Served:
    network: Network = model.network_
    inputs: Inputs = model.inputs_
    parameters, integers = plan_network(inputs, network, _tolerance(model, tolerance), upload=upload)
    state = hashlib.sha256(json.dumps(inputs_to_json(inputs), sort_keys=True).encode())
    numbers = 0
    for layer in network.layers:
        for array in (getattr(layer, name) for name in ("weights", "bias") if hasattr(layer, name)):
            state.update(np.asarray(array).astype("<f8").tobytes())
            numbers += array.size
        state.update(repr(getattr(layer, "coefficient", "")).encode())
    if network.centre is not None:
        state.update(network.centre.astype("<f8").tobytes())
    m = inputs.width
    return Served(
        parameters=parameters,
        engine=CkksScorer(parameters, integers, threads=threads, device=open_device(device)),
        encoder=inputs,
        score_scale=1.0,
        fingerprint=state.hexdigest()[:16],
        freedom=(m + 1) * (m + 2) // 2 if parameters.squares == 1 else numbers,
    )


def owner_engine(offer: Offer) -> BfvOwner | CkksOwner:
    """The record owner's side of the engine that an offer asks for."""
    if isinstance(offer.parameters, CkksParameters):
        return CkksOwner(offer.parameters)
    return BfvOwner(offer.parameters, offer.score_scale)


def mask_reader(parameters: BlindParameters | CkksParameters) -> Callable[[memoryview], Masks]:
    """Reads registered material as strictly as scoring does, without a model."""
    if isinstance(parameters, CkksParameters):
        ckks, ckks_context = parameters, CkksContext(parameters.he)
        return lambda material: CkksRerandomiser(ckks_context, ckks, material)
    bfv, context = parameters, HeContext(parameters.he)
    return lambda material: bfv_masks(context, bfv, material)
