"""A fitted model as a program and its secrets: which ring carries its numbers, or which layer none does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from blindsight.circuits import Encoder, InnerProduct, Monomials, Network, Standardised, Windowed
from blindsight.errors import CapacityError, ParameterError

from ._bounds import bounds_of
from ._forms import form_of
from ._functions import SQUARINGS
from ._program import FRACTION_BITS, MAX_ELEMENTS, RUN_CURVED, SPARE_BITS, Program, Protocol, check_protocol
from ._steps import PRECISE, step_of

__all__ = ["program_of", "reach_of", "whole_threshold"]

Floats = npt.NDArray[np.float64]


def program_of(
    model: Any, *, protocol: Protocol = "aby3", answer: Literal["score", "verdict"] = "score"
) -> tuple[Program, list[npt.NDArray[Any]]]:
    """Describe a fitted model's circuit, and read its secrets.

    Parameters
    ----------
    model
        With ``encoder_``, ``circuit_`` and ``score_scale_``, or with ``inputs_`` and ``network_``; for verdicts also
        ``threshold_``.
    protocol : {"aby3", "cheetah"}
    answer : {"score", "verdict"}

    Returns
    -------
    program : Program
    secrets : list of ndarray
        As :meth:`Program.secrets` wants them: int64 or float64.

    Raises
    ------
    CapacityError
        The model has no such circuit, or one whose numbers fit no ring; the message names the layer.
    """
    check_protocol(protocol)
    if hasattr(model, "circuit_"):
        program, secrets = _whole(model.encoder_, model.circuit_, protocol, answer)
        threshold = _threshold_of(model, answer, lambda t: np.int64(whole_threshold(t, model.score_scale_)))
    elif hasattr(model, "network_"):
        program, secrets = _real(
            model.network_, np.broadcast_to(reach_of(model.inputs_), model.network_.n_inputs), protocol, answer
        )
        threshold = _threshold_of(model, answer, np.float64)
    else:
        raise CapacityError(
            f"{type(model).__name__} cannot be scored by multi-party computation",
            rule="an integer circuit on a public encoding, or a network of layers that are known here",
            fix="teach its scores to a table, TableStudent, and offer that",
        )
    return program, secrets + threshold


def _threshold_of(model: Any, answer: str, kind: Callable[[float], Any]) -> list[npt.NDArray[Any]]:
    if answer == "score":
        return []
    if not hasattr(model, "threshold_"):
        raise ParameterError("The model has no threshold", rule="a verdict is score > threshold_")
    return [np.asarray(kind(float(model.threshold_)))]


def whole_threshold(threshold: float, scale: float) -> int:
    """Return the largest integer score s with ``s * scale <= threshold`` in float64: ``score > s`` is the verdict.

    Parameters
    ----------
    threshold : float
        Of ``decision_function``.
    scale : float
        Positive: ``decision_function = scale * score``.
    """
    limit = (1 << 62) - 1  # no score reaches it
    if not math.isfinite(threshold):
        return limit if threshold > 0 else -limit
    low, high = -limit, limit
    if threshold < low * scale:
        return low
    while low < high:  # products with a positive scale are monotone, whatever their rounding
        middle = (low + high + 1) // 2
        if middle * scale <= threshold:
            low = middle
        else:
            high = middle - 1
    return low


def _whole(
    encoder: Encoder, circuit: InnerProduct, protocol: Protocol, answer: Literal["score", "verdict"]
) -> tuple[Program, list[npt.NDArray[Any]]]:
    circuit.check(encoder)  # below 2**62: neither a score nor its difference from a threshold wraps around
    weights, bias = np.asarray(circuit.weights), np.asarray(np.int64(circuit.bias))
    if isinstance(encoder, Monomials):
        side = encoder.n_features + 1
        upper = np.zeros((side, side), dtype=np.int64)
        upper[np.triu_indices(side)] = weights
        return Program(protocol=protocol, answer=answer, form="quadratic", inputs=side), [upper, bias]
    return Program(protocol=protocol, answer=answer, form="inner_product", inputs=encoder.length), [weights, bias]


def reach_of(inputs: Standardised | Windowed) -> Floats:
    """Largest absolute value of each input, or of all."""
    return inputs.reach if isinstance(inputs, Windowed) else np.asarray(inputs.max_abs)


def _real(
    network: Network, reach: Floats, protocol: Protocol, answer: Literal["score", "verdict"]
) -> tuple[Program, list[npt.NDArray[Any]]]:
    secrets: list[npt.NDArray[Any]] = [np.asarray(secret) for layer in network.layers for secret in layer.secrets]
    if network.target == "centre":
        secrets.append(np.asarray(network.centre))
    steps = tuple(step_of(layer) for layer in network.layers)
    for number, form in enumerate(map(form_of, steps, network.shapes), 1):
        if form.curved > RUN_CURVED[protocol] or form.peak > MAX_ELEMENTS:
            raise CapacityError(
                f"Layer {number} ({form.step.kind}) of the network is too much for {protocol}",
                got=f"{form.curved:,} exponentials and {form.peak:,} numbers a record",
                rule=f"{RUN_CURVED[protocol]:,} and {MAX_ELEMENTS:,}: more than seconds of time, and too much memory",
                fix="use a shorter window or fewer heads, or aby3, which is faster",
            )
    ring, fraction = _ring(network, reach, protocol)
    flat = len(network.shapes[0]) == 1 and not network.following
    program = Program(
        protocol=protocol,
        answer=answer,
        form="network",
        inputs=network.n_inputs,
        steps=steps,
        target=network.target,
        ring_bits=ring,
        fraction_bits=fraction,
        shape=UNSET if flat else network.shapes[0],
        compared=UNSET if network.compared == math.prod(network.shapes[-1]) else network.compared,  # type: ignore[arg-type]
    )
    return program, secrets


def _ring(network: Network, reach: Floats, protocol: Protocol) -> tuple[Literal[64, 128], int]:
    """Smallest ring, and in it most fraction bits, in which no number of any record can be too large."""
    found = bounds_of(network, reach)
    precise = any(layer.kind in PRECISE for layer in network.layers)
    rings: tuple[Literal[64, 128], ...] = (64, 128)
    if protocol == "cheetah":
        rings = (64,)
    elif precise:
        rings = (128,)
    for ring in rings:
        for fraction in FRACTION_BITS[ring]:
            limits = (
                (found.products, 2.0 ** (ring - 1 - SPARE_BITS - 2 * fraction), "a product"),
                (found.variances, 2.0 ** (fraction - 4), "a variance"),
                (found.logits, 2.0 ** (SQUARINGS - 1), "the logarithm of an attention"),
            )
            over = [
                (*max(values), limit, what)
                for values, limit, what in limits
                if max(values, default=(0.0, ""))[0] >= limit
            ]
            if not over:
                return ring, fraction
    value, worst, limit, what = over[0]
    raise CapacityError(
        f"A network's numbers can outgrow every ring of {protocol}, first in {worst}",
        got=f"{what} of up to 2**{math.log2(value):.0f}",
        rule=f"2**{math.log2(limit):.0f}",
        fix="scale the layer down, or use aby3, whose ring may have 128 bits",
    )
