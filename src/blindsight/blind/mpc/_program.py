"""What operators compute: a public description of a secret circuit, and the function that SPU compiles from it."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType

from blindsight.circuits import Encoder, InnerProduct, Monomials, Network, Shape, Standardised, Windowed
from blindsight.errors import CapacityError, ParameterError, WireError

from ._bounds import bounds_of
from ._functions import SQUARINGS
from ._link import import_spu
from ._steps import PRECISE, Size, Step, after, apply, nonlinear, peak, secret_shapes, step_of

__all__ = ["MAX_ROWS", "Argument", "Program", "Step", "program_of", "whole_threshold"]

Protocol = Literal["aby3", "cheetah"]
Floats = npt.NDArray[np.float64]

OPERATORS: dict[str, int] = {"aby3": 3, "cheetah": 2}
MAX_ROWS = 16_384
MAX_INPUTS = 1 << 20
MAX_ELEMENTS = 1 << 24
"""Largest rows x inputs of one run: 256 MiB of shares at each of three operators."""

FRACTION_BITS = {64: (20, 18, 16), 128: (36,)}
"""Of fixed-point numbers by ring: few choices, since operators set a protocol up anew for each."""

SPARE_BITS = 2
"""The truncation after a product is right for products of at most two bits fewer than the ring has."""

MAX_RUN_ROWS = 4096
"""Records of one run where the caller does not say."""

RUN_BYTES = 1 << 26
"""Most bytes of one array at one operator, where the caller does not say how many records."""

RUN_NONLINEAR = 1 << 19
"""Most comparisons, exponentials and roots of a run there: some ten seconds."""


@dataclass(frozen=True)
class Argument:
    """One secret input of a program.

    Parameters
    ----------
    shape : tuple of int
    whole : bool
        Whole numbers of the ring; else fixed point.
    """

    shape: tuple[int, ...]
    whole: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """Public form of a circuit, as owner, model holder and operators agree on it; holds no weight.

    Parameters
    ----------
    protocol : {"aby3", "cheetah"}
        Three operators with an honest majority, or two; both semi-honest.
    answer : {"score", "verdict"}
        What is opened to the owner: the score, or the one bit ``score > threshold``.
    form : {"inner_product", "quadratic", "network"}
        ``<e, weights> + bias`` or ``<z z', weights> + bias`` over the integers, or a network in fixed point.
    inputs : int
        Numbers per record.
    steps : tuple of Step
        Of a network; empty otherwise.
    target : {"", "inputs", "centre"}
        Of a network; see :class:`blindsight.circuits.Network`.
    shape : tuple of int, optional
        Of the numbers that a network reads; those after them it foretells. All of them in a row without it.
    compared : int, optional
        Numbers of a network's output and of its target that count, from the last backwards; all without it.
    ring_bits : {64, 128}
    fraction_bits : int
        Of fixed-point numbers; integer forms take the first choice, which they do not use.
    """

    protocol: Protocol
    answer: Literal["score", "verdict"]
    form: Literal["inner_product", "quadratic", "network"]
    inputs: Annotated[int, msgspec.Meta(ge=1, le=MAX_INPUTS)]
    steps: Annotated[tuple[Step, ...], msgspec.Meta(max_length=32)] = ()
    target: Literal["", "inputs", "centre"] = ""
    ring_bits: Literal[64, 128] = 64
    fraction_bits: int = FRACTION_BITS[64][0]
    shape: Annotated[tuple[Size, ...], msgspec.Meta(min_length=1, max_length=3)] | UnsetType = UNSET
    compared: Size | UnsetType = UNSET

    def __post_init__(self) -> None:
        network = self.form == "network"
        if network != bool(self.steps) or network != bool(self.target):
            raise ValueError("a network has steps and a target, another form has neither")
        if not network and (self.shape, self.compared) != (UNSET, UNSET):
            raise ValueError("a network has a shape, another form has none")
        if network:
            self._check_steps()
        if self.fraction_bits not in FRACTION_BITS[self.ring_bits] or (self.ring_bits == 128 and not network):
            raise ValueError("the ring does not fit")
        if self.ring_bits == 128 and self.protocol != "aby3":
            raise ValueError("CHEETAH computes in 64 bits")
        if sum(argument.size for argument in self.secrets()) > MAX_ELEMENTS:
            raise ValueError("there are too many weights")

    def _check_steps(self) -> None:
        """Walk through the shapes: every step has to fit."""
        if self.shape is UNSET and self.steps[0].kind != "dense":
            raise ValueError("the steps of a network do not fit")
        following = self.inputs - math.prod(self.shapes[0])
        outputs = math.prod(self.shapes[-1])
        expected = outputs if self.target == "centre" else following or self.inputs
        if following < 0 or outputs != expected or (following and self.target == "centre"):
            raise ValueError("the steps of a network do not fit")
        if self.compared is not UNSET and (self.compared > outputs or self.target == "centre"):
            raise ValueError("what is compared does not fit")

    @functools.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Of what is read, and then of each step's output; ValueError where a step does not fit."""
        found = [(self.inputs,) if self.shape is UNSET else self.shape]
        for step in self.steps:
            found.append(after(step, found[-1]))
        return tuple(found)

    @property
    def peak(self) -> int:
        """Most numbers of one record in one array."""
        return max([self.inputs, *(peak(*pair) for pair in zip(self.steps, self.shapes, strict=False))])

    @property
    def rows_per_run(self) -> int:
        """Records of one run, where the caller does not say."""
        work = sum(nonlinear(*pair) for pair in zip(self.steps, self.shapes, strict=False))
        element = 2 * self.peak * self.ring_bits // 8
        return max(1, min(MAX_RUN_ROWS, RUN_BYTES // element, RUN_NONLINEAR // max(work, 1)))

    @property
    def operators(self) -> int:
        """Number of operators."""
        return OPERATORS[self.protocol]

    @property
    def whole(self) -> bool:
        """Whether the program computes over the integers, exactly."""
        return self.form != "network"

    @property
    def bits_per_row(self) -> int:
        """Bits released to the owner by each answer: one, or as many as the ring has."""
        return 1 if self.answer == "verdict" else self.ring_bits

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def decode(cls, data: bytes) -> Program:
        """Read untrusted JSON; WireError on anything else than :meth:`encode` writes."""
        try:
            program = msgspec.json.decode(data, type=cls)
            if program.encode() != data:
                raise ValueError("not in canonical form")
        except (msgspec.MsgspecError, ValueError, RecursionError, UnicodeDecodeError) as error:
            raise WireError("The description of a program is malformed", got=str(error)[:120]) from error
        return program

    def records(self, rows: int) -> Argument:
        """The owner's argument; ParameterError where it is too large."""
        if not 1 <= rows <= MAX_ROWS or rows * self.peak > MAX_ELEMENTS:
            raise ParameterError(
                "A run has too many records",
                got=f"{rows} records of {self.peak} numbers",
                rule=f"1 to {MAX_ROWS} records and at most {MAX_ELEMENTS} numbers",
                fix="send them in several runs",
            )
        return Argument((rows, self.inputs), self.whole)

    def secrets(self) -> tuple[Argument, ...]:
        """The model holder's arguments, in order."""
        found: list[Argument] = []
        if self.form == "inner_product":
            found += [Argument((self.inputs,), True), Argument((), True)]
        elif self.form == "quadratic":
            found += [Argument((self.inputs, self.inputs), True), Argument((), True)]
        for step, shape in zip(self.steps, self.shapes, strict=False):
            found += [Argument(secret, False) for secret in secret_shapes(step, shape)]
        if self.target == "centre":
            found.append(Argument((math.prod(self.shapes[-1]),), False))
        if self.answer == "verdict":
            found.append(Argument((), self.whole))
        return tuple(found)

    def function(self) -> Callable[..., Any]:
        """The function ``f(records, *secrets)`` in JAX."""

        def score(x: Any, *secrets: Any) -> Any:
            left = list(secrets)
            found = self._score(x, left)
            return found > left.pop(0) if self.answer == "verdict" else found

        return score

    def _score(self, x: Any, left: list[Any]) -> Any:
        """Score, taking from the front of ``left`` the secrets that it needs."""
        if self.form == "inner_product":
            return x @ left.pop(0) + left.pop(0)
        if self.form == "quadratic":
            return ((x @ left.pop(0)) * x).sum(axis=1) + left.pop(0)
        read = self.shapes[0]
        z = x[:, : math.prod(read)].reshape(-1, *read)
        for step in self.steps:
            z = apply(step, z, left, self.ring_bits)
        z = z.reshape(z.shape[0], -1)
        compared = z.shape[1] if self.compared is UNSET else self.compared
        if self.target == "centre":
            difference = z - left.pop(0)
        else:
            difference = z[:, z.shape[1] - compared :] - x[:, self.inputs - compared :]
        total = (difference * difference).sum(axis=1)
        return total * (1.0 / compared) if self.target == "inputs" else total

    def compiled(self, rows: int) -> bytes:
        """Compile for a number of records; kept for the last few.

        Returns
        -------
        bytes
            What SPU executes; the same for everybody who has the same versions of SPU and JAX.
        """
        return _compiled(self, rows)

    def digest(self, rows: int) -> bytes:
        """SHA-256 of description, shapes, versions, run-time parameters and compiled code: what all compare."""
        import jax
        import spu

        shapes = repr([(a.shape, a.whole) for a in (self.records(rows), *self.secrets())])
        state = hashlib.sha256(b"blindsight mpc program v1")
        for part in (self.encode(), shapes.encode(), spu.__version__.encode(), jax.__version__.encode()):
            state.update(len(part).to_bytes(8, "little") + part)
        state.update(runtime_config(self).SerializeToString())
        state.update(self.compiled(rows))
        return state.digest()


def runtime_config(program: Program) -> Any:
    """How SPU is to run a program: protocol, ring, fixed point, one thread a step."""
    libspu = import_spu()
    kinds = {"aby3": libspu.ProtocolKind.ABY3, "cheetah": libspu.ProtocolKind.CHEETAH}
    fields = {64: libspu.FieldType.FM64, 128: libspu.FieldType.FM128}
    config = libspu.RuntimeConfig(
        protocol=kinds[check_protocol(program.protocol)],
        field=fields[program.ring_bits],
        fxp_fraction_bits=program.fraction_bits,
    )
    config.max_concurrency = 1
    config.experimental_enable_intra_op_par = False
    config.experimental_enable_inter_op_par = False
    return config


def check_protocol(name: str) -> str:
    """Return the name of a protocol that may be used; CapacityError for the others."""
    if name not in OPERATORS:
        beaver = "its default beaver lets rank 0 unmask everything" if name.lower() == "semi2k" else None
        raise CapacityError(
            "This protocol is not used here",
            got=f"{name[:40]}{f': {beaver}' if beaver else ''}",
            rule="aby3 with three operators, cheetah with two",
        )
    return name


@functools.lru_cache(maxsize=32)
def _compiled(program: Program, rows: int) -> bytes:
    libspu = import_spu()
    import jax
    from spu.utils import frontend

    arguments = (program.records(rows), *program.secrets())
    with jax.experimental.enable_x64():
        form: Any = jax.ShapeDtypeStruct
        examples = [form(a.shape, np.int64 if a.whole else np.float64) for a in arguments]
        executable, _ = frontend.compile(
            frontend.Kind.JAX,
            program.function(),
            examples,
            {},
            [f"in{i}" for i in range(len(arguments))],
            [libspu.Visibility.VIS_SECRET] * len(arguments),
            lambda outputs: [f"out{i}" for i in range(len(outputs))],
        )
    return bytes(executable.code)


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
        program, secrets = _real(model.network_, np.broadcast_to(_reach(model.inputs_), model.network_.n_inputs), protocol, answer)
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


def _reach(inputs: Standardised | Windowed) -> Floats:
    """Largest absolute value of each input, or of all."""
    return inputs.reach if isinstance(inputs, Windowed) else np.asarray(inputs.max_abs)


def _real(
    network: Network, reach: Floats, protocol: Protocol, answer: Literal["score", "verdict"]
) -> tuple[Program, list[npt.NDArray[Any]]]:
    secrets: list[npt.NDArray[Any]] = [np.asarray(secret) for layer in network.layers for secret in layer.secrets]
    if network.target == "centre":
        secrets.append(np.asarray(network.centre))
    ring, fraction = _ring(network, reach, protocol)
    flat = len(network.shapes[0]) == 1 and not network.following
    program = Program(
        protocol=protocol,
        answer=answer,
        form="network",
        inputs=network.n_inputs,
        steps=tuple(step_of(layer) for layer in network.layers),
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
            over = [(*max(values), limit, what) for values, limit, what in limits if max(values, default=(0.0, ""))[0] >= limit]
            if not over:
                return ring, fraction
    value, worst, limit, what = over[0]
    raise CapacityError(
        f"A network's numbers can outgrow every ring of {protocol}, first in {worst}",
        got=f"{what} of up to 2**{math.log2(value):.0f}",
        rule=f"2**{math.log2(limit):.0f}",
        fix="scale the layer down, or use aby3, whose ring may have 128 bits",
    )
