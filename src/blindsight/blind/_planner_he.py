"""The planner's part on homomorphic encryption: parameters, and the bytes of every message, exactly."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from blindsight.errors import CapacityError, ParameterError

from ._ckks_circuit import plan_network
from ._ckks_plan import CkksParameters
from ._engine import AnyParameters
from ._engines import DEFAULT_TOLERANCE
from ._envelope import KEY_BYTES, MAX_MESSAGE_BYTES, MAX_ROWS, PREFIX, TAG_BYTES, Header, Kind
from ._explain import ENVELOPE_BYTES
from ._plan import BlindParameters, plan
from ._planner_networks import first_layer, network_of, numbers
from ._planner_option import Cost, Option, pieces
from ._planner_rounds import he_rounds
from ._planner_times import Times, bfv_times, ckks_times
from ._planner_trust import Engine, Reveal, Trust, trust_of
from ._quadratic import squared_distance
from ._verdict import NUMBER_BYTES, verdict_bytes

__all__ = ["bfv_option", "ckks_option", "form_option"]


def bfv_option(model: Any, engine: Engine, reveal: Reveal, rows: int, trust: Trust) -> Option:
    """Rows or columns of an integer circuit, exact."""
    encoder, circuit = model.encoder_, model.circuit_
    layer = f"the inner product with {encoder.length:,} weights"
    try:
        p = plan(
            encoder,
            circuit,
            packing="rows" if engine == "rows" else "columns",
            thresholds=int(reveal == "verdict"),
        )
    except (CapacityError, ParameterError) as error:
        raise CapacityError(f"Layer 1, {layer}: {error.what}", got=error.got, rule=error.rule) from error
    cost = _he_cost(p, rows, bfv_times(p, rows), layer)
    freedom = encoder.freedom()
    return Option(
        engine=engine,
        reveal=reveal,
        refusal="",
        parameters=p,
        error=0.0,
        bits=p.answer_bits,
        # so many verdicts, on records whose threshold the owner shifts, make a score
        rows_to_extract=freedom * p.plain_bits if p.thresholds else freedom,
        cost=cost,
        trust=trust,
    )


def form_option(model: Any, rows: int) -> Option:
    """A quadratic form that is too wide to be multiplied out by its owner: ``Scorer(..., scheme="ckks")``."""
    encoder, threshold = model.encoder_, float(getattr(model, "threshold_", math.nan))
    if not threshold > 0:
        raise CapacityError("The model has no threshold to measure errors by", got=repr(threshold))
    tolerance = DEFAULT_TOLERANCE * threshold
    inputs, network, offset = squared_distance(encoder, model.circuit_, float(model.score_scale_), tolerance)
    p, integers = plan_network(inputs, network, tolerance, offset=offset)
    layer = f"the quadratic form of {encoder.n_features:,} features"
    return Option(
        engine="columns",
        reveal="score",
        refusal="",
        parameters=p,
        error=p.error(threshold),
        bits=p.answer_bits,
        rows_to_extract=encoder.freedom(),
        cost=_he_cost(p, rows, ckks_times(p, integers, rows), layer),
        trust=trust_of("columns", "score", approximate=True),
    )


def ckks_option(model: Any, engine: Engine, reveal: Reveal, rows: int, trust: Trust) -> Option:
    """Columns of a network."""
    network = network_of(model)
    if engine == "rows":
        raise CapacityError(
            f"Layer 1, {first_layer(network)}, is not the only one",
            rule="rows carry one integer inner product",
        )
    if reveal == "verdict":
        raise CapacityError(
            f"Layer {len(network.layers) + 1}, the squared distance, is not exact under encryption",
            rule="verdicts on encrypted scores compare shares of an exact score",
        )
    threshold = float(getattr(model, "threshold_", math.nan))
    if not threshold > 0:
        raise CapacityError("The model has no threshold to measure errors by", got=repr(threshold))
    p, integers = plan_network(model.inputs_, network, DEFAULT_TOLERANCE * threshold)
    m = network.n_inputs
    return Option(
        engine=engine,
        reveal=reveal,
        refusal="",
        parameters=p,
        error=p.error(threshold),
        bits=p.answer_bits,
        rows_to_extract=(m + 1) * (m + 2) // 2 if p.squares == 1 else numbers(network),
        cost=_he_cost(p, rows, ckks_times(p, integers, rows), f"layer 1, {first_layer(network)}"),
        trust=trust,
    )


def _he_cost(p: BlindParameters | CkksParameters, rows: int, times: Times, layer: str) -> Cost:
    room = MAX_MESSAGE_BYTES - ENVELOPE_BYTES - KEY_BYTES - p.material_bytes
    most = min(MAX_ROWS, room // p.group_bytes * p.rows_per_ciphertext)
    if most < 1:
        raise CapacityError(
            f"The input of {layer} is too long for one message in {p.packing}",
            got=f"{p.group_bytes:,} bytes for {p.rows_per_ciphertext:,} records",
            rule=f"at most {MAX_MESSAGE_BYTES:,}",
        )
    messages = pieces(rows, most)
    up = down = 0
    for count in messages:
        up += _envelope(_head("sealed", count), p.groups(count) * p.group_bytes)
        if isinstance(p, BlindParameters) and p.thresholds:
            down += _envelope(_head("answer", count), verdict_bytes(p, count))
            up += _envelope(_head("compare", count), NUMBER_BYTES)
            down += 1 + _envelope(_head("opened", count), -(-count * p.thresholds // 8))
        else:
            down += _envelope(_head("answer", count), _answer_bytes(p, count))
    return Cost(
        rows=rows,
        messages=len(messages),
        bytes_up=up,
        bytes_down=down,
        registration_bytes=KEY_BYTES + p.material_bytes,
        times=times,
        rounds=he_rounds(p, messages),
    )


def _answer_bytes(p: AnyParameters, rows: int) -> int:
    full, rest = divmod(rows, p.rows_per_ciphertext)
    return full * p.answer_bytes(p.rows_per_ciphertext) + (p.answer_bytes(rest) if rest else 0)


def _head(kind: Kind, rows: int) -> int:
    header = Header(kind=kind, offer=bytes(32), key=bytes(16), request=bytes(16), salt=bytes(16), rows=rows)
    return len(msgspec.msgpack.encode(header))


def _envelope(header_bytes: int, body_bytes: int) -> int:
    return PREFIX.size + header_bytes + body_bytes + TAG_BYTES
