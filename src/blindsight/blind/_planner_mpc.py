"""The planner's part on multi-party computation: programs, the bytes of shares, and the error of fixed point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from blindsight.circuits import Activation, Dense, Network

from ._planner_networks import network_of, numbers
from ._planner_option import Cost, Option, pieces
from ._planner_rounds import mpc_rounds
from ._planner_times import mpc_times
from ._planner_trust import Engine, Reveal, Trust
from .mpc._describe import program_of, reach_of
from .mpc._emulate import emulated_scores
from .mpc._program import Program
from .mpc._shares import answer_bytes, share_bytes
from .mpc._wire import LENGTH as PIECE_PREFIX
from .mpc._wire import RunHeader, pack

__all__ = ["mpc_option"]


def mpc_option(model: Any, engine: Engine, reveal: Reveal, rows: int, trust: Trust, measure: int = 0) -> Option:
    """Operators that hold shares; of a network, with the error of so many records measured."""
    whole = hasattr(model, "circuit_")
    if not whole:
        network_of(model)
    # the form alone: a model without a threshold has one of verdicts, too
    program, secrets = program_of(model, protocol="aby3" if engine == "aby3" else "cheetah", answer="score")
    measured = _measured_error(model, program, secrets, measure) if measure and not whole else math.nan
    program = msgspec.structs.replace(program, answer=reveal)
    program.__post_init__()
    runs = pieces(rows, program.rows_per_run)
    header = RunHeader(id="0" * 32, model="0" * 32, rows=1)
    up = down = 0
    for count in runs:
        frame = len(pack(msgspec.structs.replace(header, rows=count))) + PIECE_PREFIX.size
        up += program.operators * (frame + share_bytes(program, program.records(count)))
        down += program.operators * answer_bytes(program, count)
    if whole:
        low, high = model.circuit_.bounds(model.encoder_)
        freedom, score_bits, error = model.encoder_.freedom(), max(-low, high, 1).bit_length() + 1, 0.0
    else:
        freedom, score_bits = numbers(model.network_), program.ring_bits
        error = _fixed_point_error(
            model.network_, program, model.inputs_.max_abs, getattr(model, "threshold_", math.nan)
        )
    return Option(
        engine=engine,
        reveal=reveal,
        refusal="",
        parameters=program,
        error=error,
        bits=float(program.bits_per_row),
        rows_to_extract=freedom * score_bits if reveal == "verdict" else freedom,
        cost=Cost(
            rows=rows,
            messages=len(runs),
            bytes_up=up,
            bytes_down=down,
            registration_bytes=0,
            times=mpc_times(program, rows, len(runs)),
            rounds=mpc_rounds(program, len(runs)),
        ),
        trust=trust,
        measured=measured,
    )


def _measured_error(model: Any, program: Program, secrets: Sequence[Any], count: int) -> float:
    """Largest error at the threshold of records drawn at random, from the public scales outward to the bounds."""
    rng, reach = np.random.default_rng(0), reach_of(model.inputs_)
    count = min(count, program.rows_per_run)
    size = float(np.max(reach)) ** np.linspace(0, 1, count)[:, None]
    drawn = np.clip(rng.normal(size=(count, program.inputs)) * size, -reach, reach)
    exact, found = model.network_.scores(drawn), emulated_scores(program, secrets, drawn)
    threshold = float(getattr(model, "threshold_", math.nan))
    if not threshold > 0:
        return float(np.abs(found - exact).max())
    return float((np.abs(found - exact) / np.maximum(exact / threshold, 1)).max())


def _fixed_point_error(network: Network, program: Program, bound: float, score: float) -> float:
    """Largest error of a score of this size in fixed point, whatever the record: interval arithmetic, worst case.

    A number is rounded to one step of ``2**-fraction_bits`` when it is shared, and every product, or sum of products,
    is off by another when it is cut; tanh by 1e-4 besides, see ``mpc._program``.
    """
    if not score > 0 or not all(isinstance(layer, Dense | Activation) for layer in network.layers):
        return math.nan
    step = 2.0**-program.fraction_bits
    low, high = np.full(network.n_inputs, -bound), np.full(network.n_inputs, bound)
    off = np.full(network.n_inputs, step)
    for layer in network.layers:
        reach = np.maximum(np.abs(low), np.abs(high))
        if isinstance(layer, Dense):
            size = np.abs(layer.weights)
            off = size @ off + step * (reach + off).sum() + 2 * step
            centre, radius = (low + high) / 2, (high - low) / 2
            middle, spread = layer.weights @ centre + layer.bias, size @ radius
            low, high = middle - spread, middle + spread
        elif isinstance(layer, Activation) and layer.kind == "square":
            a = abs(layer.coefficient)
            off = off + a * (2 * reach * off + off * off) + step * ((reach + off) ** 2 + reach + 3)
            low, high = -(reach + a * reach * reach), reach + a * reach * reach
        else:
            off = off + (1e-4 + 64 * step if layer.kind == "tanh" else (reach + 2) * step)
            low, high = layer(low), layer(high)
    off = off + step
    length = float(np.linalg.norm(off))
    terms = len(off) if network.target == "inputs" else 1
    distance = math.sqrt(score * terms)
    cut = step * (len(off) + (score + 2 if network.target == "inputs" else 0))
    return (2 * distance * length + length * length) / terms + cut
