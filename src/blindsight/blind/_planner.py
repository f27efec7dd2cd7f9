"""The planner: what each engine would cost for a model, what it gives away, and which to take.

Sizes and bits follow from the parameters and are exact. Times and round trips are estimates, see ``_planner_times`` and
``_planner_rounds``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from blindsight.circuits import Activation, Dense, Monomials, Network
from blindsight.errors import BlindsightError, CapacityError, NotFittedError, ParameterError

from ._ckks_circuit import plan_network
from ._ckks_plan import CkksParameters
from ._engine import AnyParameters
from ._engines import DEFAULT_TOLERANCE
from ._envelope import KEY_BYTES, MAX_MESSAGE_BYTES, MAX_ROWS, PREFIX, TAG_BYTES, Header, Kind
from ._explain import ENVELOPE_BYTES
from ._plan import BlindParameters, plan
from ._planner_rounds import Connection, Rounds, he_rounds, mpc_rounds
from ._planner_times import Times, bfv_times, ckks_times, mpc_times
from ._planner_trust import Engine, Reveal, Trust, trust_of
from ._quadratic import squared_distance
from ._verdict import NUMBER_BYTES, verdict_bytes
from .mpc._describe import program_of
from .mpc._program import Program
from .mpc._shares import answer_bytes, share_bytes
from .mpc._wire import LENGTH as PIECE_PREFIX
from .mpc._wire import RunHeader, pack

__all__ = ["ENGINES", "Cost", "Option", "Survey", "survey"]

ENGINES: tuple[Engine, ...] = ("rows", "columns", "aby3", "cheetah")
LOOSE = 0.01
"""Of the threshold: above it a bound on errors says little."""

NAMES: dict[Engine, str] = {"rows": "HE rows", "columns": "HE columns", "aby3": "MPC 3PC", "cheetah": "MPC 2PC"}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a batch costs.

    Parameters
    ----------
    rows : int
    messages : int
        Requests that carry them.
    bytes_up, bytes_down : int
        From the owner, and to it, over all messages and operators; exact, but for what carries the messages.
    registration_bytes : int
        From the owner, once.
    times : Times
        Without the network.
    rounds : Rounds
    connection : Connection
        Between any two machines.
    """

    rows: int
    messages: int
    bytes_up: int
    bytes_down: int
    registration_bytes: int
    times: Times
    rounds: Rounds
    connection: Connection = field(default_factory=Connection)

    @property
    def set_up_s(self) -> float:
        """Estimate of what is done once, before the first batch, the network included."""
        sent = self.registration_bytes + self.rounds.set_up_bytes
        return self.times.set_up_s + self.connection.seconds(self.rounds.set_up, sent)

    @property
    def batch_s(self) -> float:
        """Estimate of the batch, the network included, one thing after the other."""
        sent = self.bytes_up + self.bytes_down + self.times.link_bytes
        here = (self.times.owner_ms + self.times.server_ms) / 1e3
        return here + self.connection.seconds(self.rounds.batch, sent)

    @property
    def seconds(self) -> float:
        """Both together: of a first batch."""
        return self.set_up_s + self.batch_s


@dataclass(frozen=True, kw_only=True)
class Option:
    """One engine for one model: what it would take; or why it cannot.

    Parameters
    ----------
    engine : {"rows", "columns", "aby3", "cheetah"}
    reveal : {"score", "verdict"}
    refusal : str
        Why not, naming the layer; empty where it can.
    parameters : BlindParameters, CkksParameters or Program, optional
    error : float
        Largest error of a score at the threshold; 0 where scores are exact, NaN where the model has no threshold, and
        for recurrent layers, attention and convolutions, whose errors were measured and have no useful bound. Of CKKS,
        but with probability ``2**-30`` a batch.
    bits : float
        Most that one answer tells the owner, whatever it asked.
    rows_to_extract : int
        Well-chosen answers after which the owner can compute every answer itself.
    cost : Cost, optional
    trust : Trust
    threshold : float
        What the error is to be compared with; NaN where the model has none.
    """

    engine: Engine
    reveal: Reveal
    refusal: str
    parameters: BlindParameters | CkksParameters | Program | None
    error: float
    bits: float
    rows_to_extract: int
    cost: Cost | None
    trust: Trust
    threshold: float = math.nan

    @property
    def name(self) -> str:
        """For people: HE rows, HE columns, MPC 3PC or MPC 2PC."""
        return NAMES[self.engine]

    @property
    def prime_bits(self) -> tuple[int, ...]:
        """Sizes of the primes that ciphertexts are modulo; empty where there are none."""
        if isinstance(self.parameters, BlindParameters):
            return self.parameters.he.prime_bits
        return self.parameters.he.bits[:-1] if isinstance(self.parameters, CkksParameters) else ()

    def describe(self) -> str:
        """Parameters in one line; the refusal where there are none."""
        p = self.parameters
        if p is None:
            return self.refusal
        if not isinstance(p, Program):
            scales = f"; scales 2^{p.input_bits} to 2^{p.scale_bits}" if isinstance(p, CkksParameters) else ""
            primes = ", ".join(f"{self.prime_bits.count(b)} primes of {b} bits" for b in sorted(set(self.prime_bits)))
            return f"{p.describe()}{scales}; {primes}"
        numbers = "whole numbers" if p.whole else f"{p.fraction_bits} fraction bits"
        return (
            f"{p.protocol.upper()}: {p.operators} operators, ring of {p.ring_bits} bits, {numbers}, {p.inputs} inputs"
        )


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Every option for one model.

    Parameters
    ----------
    model : str
        Name of the model's class.
    rows : int
        Of a batch.
    connection : Connection
        Between any two machines.
    secret : bool
        Whether the public encoding tells nothing learned from data. Otherwise no engine hides all of the model.
    options : tuple of Option
        For each thing to reveal: HE rows, HE columns, MPC with three operators, MPC with two.
    """

    model: str
    rows: int
    connection: Connection
    secret: bool
    options: tuple[Option, ...]

    def revealing(self, reveal: Reveal) -> tuple[Option, ...]:
        """Options that reveal scores, or verdicts."""
        return tuple(option for option in self.options if option.reveal == reveal)

    def recommended(self, reveal: Reveal = "score") -> Option | None:
        """The option to take; None where none can carry the model.

        Encryption before MPC, since no operators must be found that do not collude; then the shorter time for the batch
        over the connection, set-up included.
        """
        able = [option for option in self.revealing(reveal) if not option.refusal]
        encrypted = [option for option in able if option.engine in ("rows", "columns")]
        return min(encrypted or able, key=_seconds, default=None)

    def why(self, reveal: Reveal = "score") -> str:
        """Reason for the recommendation, in one sentence; or that there is none."""
        best = self.recommended(reveal)
        if best is None:
            return f"No engine carries {self.model} for {reveal}s: teach its scores to a table, TableStudent."
        others = [o for o in self.revealing(reveal) if not o.refusal and o is not best]
        if best.engine in ("rows", "columns"):
            reason = "no operators have to be trusted not to collude"
        else:
            reason = "encryption cannot carry it"
        text = f"{best.name}: {reason}; about {_seconds(best):.3g} s for {self.rows:,} records at {self.connection}"
        if others:
            text += " (" + ", ".join(f"{o.name} {_seconds(o):.3g} s" for o in others) + ")"
        if best.error > 0:
            text += f"; scores are off by at most {best.error:.2g} at the threshold of {best.threshold:.2g}"
            if reveal == "verdict":
                text += ", and a verdict may differ where the score is that close to it"
            if best.error > LOOSE * best.threshold:
                text += " (a worst case over all records inside the bounds: try it on your own)"
        return text + "."


def _seconds(option: Option) -> float:
    return math.inf if option.cost is None else option.cost.seconds


def survey(
    model: Any,
    *,
    rows: int = 1000,
    reveal: Iterable[Reveal] = ("score", "verdict"),
    connection: Connection | None = None,
) -> Survey:
    """Plan every engine for a fitted model.

    Parameters
    ----------
    model
        With ``encoder_`` and ``circuit_``, or with ``inputs_`` and ``network_``.
    rows : int
        Records of a batch, 1 to a million.
    reveal : iterable of {"score", "verdict"}
        What the owner shall learn. Verdicts are on one threshold.
    connection : Connection, optional
        Between any two machines. Default: 10 ms of round trip, 100 Mbit/s.

    Raises
    ------
    ParameterError
        ``rows`` is out of its domain.
    NotFittedError
        The model is not fitted.

    Privacy
    -------
    The survey holds sizes of the weights, rounded up to powers of two, and their number, and for networks the largest
    error of a score at the threshold: it is for the model's holder. Nothing is released by it.
    """
    if type(rows) is not int or not 1 <= rows <= MAX_ROWS:
        raise ParameterError("rows is out of its domain", got=repr(rows)[:40], rule=f"1 to {MAX_ROWS}")
    line, threshold = connection or Connection(), float(getattr(model, "threshold_", math.nan))
    options = tuple(
        _over(line, threshold, _option(model, engine, revealed, rows)) for revealed in reveal for engine in ENGINES
    )
    secret = bool(getattr(model, "is_secret_", False))
    return Survey(model=type(model).__name__, rows=rows, connection=line, secret=secret, options=options)


def _over(line: Connection, threshold: float, option: Option) -> Option:
    cost = option.cost and replace(option.cost, connection=line)
    return replace(option, cost=cost, threshold=threshold)


def _option(model: Any, engine: Engine, reveal: Reveal, rows: int) -> Option:
    whole = hasattr(model, "circuit_")
    if not whole and not _has_network(model) and not hasattr(model, "score_histogram_"):
        raise NotFittedError("The model to plan for is not fitted", fix="fit it, or load a saved one")
    trust = trust_of(engine, reveal, approximate=not whole)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if engine == "aby3" or engine == "cheetah":
                return _mpc(model, engine, reveal, rows, trust)
            if not whole:
                return _ckks(model, engine, reveal, rows, trust)
            try:
                return _bfv(model, engine, reveal, rows, trust)
            except CapacityError as error:
                if engine == "rows" or reveal == "verdict" or not isinstance(model.encoder_, Monomials):
                    raise
                try:
                    return _ckks_form(model, rows)
                except (CapacityError, ParameterError):
                    raise error from None  # why the exact engine cannot is what to say
    except NotFittedError:
        raise
    except (CapacityError, ParameterError) as error:
        refusal = "; ".join(part for part in (error.what, error.got, error.rule) if part)
    except ValueError as error:  # a program that its own description refuses
        refusal = f"The circuit does not fit a program: {error}"
    return Option(
        engine=engine, reveal=reveal, refusal=refusal, parameters=None, error=math.nan, bits=math.nan,
        rows_to_extract=0, cost=None, trust=trust,
    )  # fmt: skip


# -- encryption


def _bfv(model: Any, engine: Engine, reveal: Reveal, rows: int, trust: Trust) -> Option:
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


def _ckks_form(model: Any, rows: int) -> Option:
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


def _ckks(model: Any, engine: Engine, reveal: Reveal, rows: int, trust: Trust) -> Option:
    network = _network_of(model)
    if engine == "rows":
        raise CapacityError(
            f"Layer 1, {_first(network)}, is not the only one",
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
        rows_to_extract=(m + 1) * (m + 2) // 2 if p.squares == 1 else _numbers(network),
        cost=_he_cost(p, rows, ckks_times(p, integers, rows), f"layer 1, {_first(network)}"),
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
    messages = _pieces(rows, most)
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


def _pieces(rows: int, most: int) -> list[int]:
    full, rest = divmod(rows, most)
    return [most] * full + ([rest] if rest else [])


def _answer_bytes(p: AnyParameters, rows: int) -> int:
    full, rest = divmod(rows, p.rows_per_ciphertext)
    return full * p.answer_bytes(p.rows_per_ciphertext) + (p.answer_bytes(rest) if rest else 0)


def _head(kind: Kind, rows: int) -> int:
    header = Header(kind=kind, offer=bytes(32), key=bytes(16), request=bytes(16), salt=bytes(16), rows=rows)
    return len(msgspec.msgpack.encode(header))


def _envelope(header_bytes: int, body_bytes: int) -> int:
    return PREFIX.size + header_bytes + body_bytes + TAG_BYTES


# -- MPC


def _mpc(model: Any, engine: Engine, reveal: Reveal, rows: int, trust: Trust) -> Option:
    whole = hasattr(model, "circuit_")
    if not whole:
        _network_of(model)
    # the form alone: a model without a threshold has one of verdicts, too
    program, _ = program_of(model, protocol="aby3" if engine == "aby3" else "cheetah", answer="score")
    program = msgspec.structs.replace(program, answer=reveal)
    program.__post_init__()
    runs = _pieces(rows, program.rows_per_run)
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
        freedom, score_bits = _numbers(model.network_), program.ring_bits
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
    )


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


# -- networks


def _network_of(model: Any) -> Network:
    """The model's network; CapacityError where it is none that an engine reads."""
    if not _has_network(model):
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


def _has_network(model: Any) -> bool:
    """Whether there is such an attribute, without asking for it: it may be computed, and raise."""
    return hasattr(type(model), "network_") or "network_" in getattr(model, "__dict__", {})


def _first(network: Network) -> str:
    """The first layer, for people."""
    shapes = (math.prod(shape) for shape in network.shapes[:2])
    return f"{network.layers[0].kind} {' to '.join(map(str, shapes))}"


def _numbers(network: Network) -> int:
    """Weights and biases."""
    return sum(secret.size for layer in network.layers if layer.kind != "square" for secret in layer.secrets)
