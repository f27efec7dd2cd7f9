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

from blindsight.circuits import Activation, Dense, Encoder, InnerProduct, Monomials, Network
from blindsight.errors import CapacityError, ParameterError, WireError

from ._link import import_spu

__all__ = ["MAX_ROWS", "Argument", "Program", "program_of", "whole_threshold"]

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

LEAKY_SLOPE = -float(Activation("leaky")(np.array(-1.0)))

TANH_REACH = 6.0
"""Beyond it tanh is 1 to 1.3e-5."""


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a network: its form, not its weights.

    Parameters
    ----------
    kind : {"dense", "relu", "leaky", "square", "tanh"}
    outputs : int
        Width after a dense step; 0 for the others.
    """

    kind: Literal["dense", "relu", "leaky", "square", "tanh"]
    outputs: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] = 0


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


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
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

    def __post_init__(self) -> None:
        network = self.form == "network"
        width = self.inputs
        for step in self.steps:
            if (step.kind == "dense") != (step.outputs > 0):
                raise ValueError("a dense step has outputs, another has none")
            width = step.outputs or width
        if network != bool(self.steps) or network != bool(self.target):
            raise ValueError("a network has steps and a target, another form has neither")
        if network and (self.steps[0].kind != "dense" or (self.target == "inputs" and width != self.inputs)):
            raise ValueError("the steps of a network do not fit")
        if self.fraction_bits not in FRACTION_BITS[self.ring_bits] or (self.ring_bits == 128 and not network):
            raise ValueError("the ring does not fit")
        if self.ring_bits == 128 and self.protocol != "aby3":
            raise ValueError("CHEETAH computes in 64 bits")
        if sum(argument.size for argument in self.secrets()) > MAX_ELEMENTS:
            raise ValueError("there are too many weights")

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
        if not 1 <= rows <= MAX_ROWS or rows * self.inputs > MAX_ELEMENTS:
            raise ParameterError(
                "A run has too many records",
                got=f"{rows} records of {self.inputs} numbers",
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
        width = self.inputs
        for step in self.steps:
            if step.kind == "dense":
                found += [Argument((step.outputs, width), False), Argument((step.outputs,), False)]
                width = step.outputs
            elif step.kind == "square":
                found.append(Argument((), False))
        if self.target == "centre":
            found.append(Argument((width,), False))
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
        z = x
        for step in self.steps:
            if step.kind == "dense":
                z = z @ left.pop(0).T + left.pop(0)
            elif step.kind == "square":
                z = z + left.pop(0) * z * z
            else:
                z = _ACTIVATIONS[step.kind](z)
        difference = z - (x if self.target == "inputs" else left.pop(0))
        total = (difference * difference).sum(axis=1)
        return total * (1.0 / self.inputs) if self.target == "inputs" else total

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


def _relu(z: Any) -> Any:
    import jax.numpy as jnp

    return jnp.where(z > 0, z, 0.0)


def _leaky(z: Any) -> Any:
    import jax.numpy as jnp

    return jnp.where(z > 0, z, LEAKY_SLOPE * z)


def _tanh(z: Any) -> Any:
    """Within 7e-5; SPU's own is off by 5e-3.

    ``2 / (1 + exp(-2 |z|)) - 1``, the exponential as the 16th power of a Taylor polynomial of its sixteenth.
    """
    import jax.numpy as jnp

    u = jnp.minimum(jnp.abs(z), TANH_REACH) * (-2.0 / 16)
    p = 1 + u * (1 + u * (1 / 2 + u * (1 / 6 + u * (1 / 24 + u * (1 / 120 + u * (1 / 720))))))
    for _ in range(4):
        p = p * p
    y = 2 / (1 + p) - 1
    return jnp.where(z < 0, -y, y)


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": _relu, "leaky": _leaky, "tanh": _tanh}


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
        program, secrets = _real(model.network_, float(model.inputs_.max_abs), protocol, answer)
        threshold = _threshold_of(model, answer, np.float64)
    else:
        raise CapacityError(
            f"{type(model).__name__} cannot be scored by multi-party computation",
            rule="an integer circuit on a public encoding, or a feed-forward network",
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


def _real(
    network: Network, bound: float, protocol: Protocol, answer: Literal["score", "verdict"]
) -> tuple[Program, list[npt.NDArray[Any]]]:
    steps: list[Step] = []
    secrets: list[npt.NDArray[Any]] = []
    for layer in network.layers:
        if isinstance(layer, Dense):
            steps.append(Step("dense", layer.weights.shape[0]))
            secrets += [np.asarray(layer.weights), np.asarray(layer.bias)]
        else:
            steps.append(Step(layer.kind))
            if layer.kind == "square":
                secrets.append(np.asarray(layer.coefficient))
    if network.target == "centre":
        secrets.append(np.asarray(network.centre))
    ring, fraction = _ring(network, bound, protocol)
    program = Program(
        protocol=protocol,
        answer=answer,
        form="network",
        inputs=network.n_inputs,
        steps=tuple(steps),
        target=network.target,
        ring_bits=ring,
        fraction_bits=fraction,
    )
    return program, secrets


def _ring(network: Network, bound: float, protocol: Protocol) -> tuple[Literal[64, 128], int]:
    """Smallest ring, and in it most fraction bits, in which no product of any record can overflow."""
    products, worst = _largest_product(network, bound)
    rings: tuple[Literal[64, 128], ...] = (64, 128) if protocol == "aby3" else (64,)
    for ring in rings:
        for fraction in FRACTION_BITS[ring]:
            if math.log2(products) + 2 * fraction < ring - 1 - SPARE_BITS:
                return ring, fraction
    raise CapacityError(
        f"A network's numbers can outgrow every ring of {protocol}, first in {worst}",
        got=f"a product of up to 2**{math.log2(products):.0f}",
        rule=f"2**{rings[-1] - 1 - SPARE_BITS - 2 * FRACTION_BITS[rings[-1]][-1]}",
        fix="scale the layer down, or use aby3, whose ring may have 128 bits",
    )


def _largest_product(network: Network, bound: float) -> tuple[float, str]:
    """Bound every product and sum of products over inputs in [-bound, bound] by interval arithmetic."""
    low, high = np.full(network.n_inputs, -bound), np.full(network.n_inputs, bound)
    found = [(bound, "the inputs")]
    for number, layer in enumerate(network.layers, 1):
        if isinstance(layer, Dense):
            centre, radius = (low + high) / 2, (high - low) / 2
            middle, spread = layer.weights @ centre + layer.bias, np.abs(layer.weights) @ radius
            most = np.abs(layer.weights) @ np.maximum(np.abs(low), np.abs(high)) + np.abs(layer.bias)
            found.append((float(most.max()), f"layer {number} (dense)"))
            low, high = middle - spread, middle + spread
        elif layer.kind == "square":
            reach = np.maximum(np.abs(low), np.abs(high))
            grown = reach + abs(layer.coefficient) * reach * reach
            found.append((float(max((reach * reach).max(), grown.max())), f"layer {number} (square)"))
            low, high = -grown, grown
        else:
            low, high = layer(low), layer(high)  # monotone
    goal = (np.full(network.n_inputs, -bound), np.full(network.n_inputs, bound))
    if network.centre is not None:
        goal = (network.centre, network.centre)
    reach = np.maximum(np.abs(low - goal[1]), np.abs(high - goal[0]))
    # the squares are truncated before they are summed: the sum holds half the fraction bits, and is never the worst
    found.append((float((reach * reach).max()), "the squared distance"))
    top = max(value for value, _ in found)
    return max(top, 1.0), next(name for value, name in found if value == top)
