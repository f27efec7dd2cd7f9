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

from blindsight.circuits import Shape
from blindsight.errors import CapacityError, ParameterError, WireError

from ._forms import Form, form_of
from ._link import import_spu
from ._steps import Size, Step

__all__ = ["MAX_ROWS", "Argument", "Program", "Protocol", "Step", "check_protocol", "runtime_config"]

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

RUN_CURVED = {"aby3": 1 << 19, "cheetah": 1 << 14}
"""Most exponentials and roots of a run there, and of any single record: ten seconds or so, see
benchmarks/mpc_sequences.py."""


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
        following = self.inputs - math.prod(self.reads)
        outputs = math.prod(self.outputs)
        expected = outputs if self.target == "centre" else following or self.inputs
        if following < 0 or outputs != expected or (following and self.target == "centre"):
            raise ValueError("the steps of a network do not fit")
        if any(form.curved > RUN_CURVED[self.protocol] for form in self.forms) or self.peak > MAX_ELEMENTS:
            raise ValueError("one record is too much for a run")
        if self.compared is not UNSET and (self.compared > outputs or self.target == "centre"):
            raise ValueError("what is compared does not fit")

    @property
    def reads(self) -> Shape:
        """Arrangement of the numbers that a network reads: the first of a record."""
        return (self.inputs,) if self.shape is UNSET else self.shape

    @functools.cached_property
    def forms(self) -> tuple[Form, ...]:
        """The steps with their shapes; ValueError where one does not fit."""
        found: list[Form] = []
        shape: Shape = self.reads
        for step in self.steps:
            found.append(form_of(step, shape, self.ring_bits))
            shape = found[-1].after or ()
        return tuple(found)

    @property
    def outputs(self) -> Shape:
        """Shape of what a network gives."""
        return self.forms[-1].after or ()

    @property
    def peak(self) -> int:
        """Most numbers of one record in one array."""
        return max([self.inputs, *(form.peak for form in self.forms)])

    @property
    def rows_per_run(self) -> int:
        """Records of one run, where the caller does not say."""
        element = 2 * self.peak * self.ring_bits // 8
        most = RUN_CURVED[self.protocol] // max(sum(form.curved for form in self.forms), 1)
        return max(1, min(MAX_RUN_ROWS, RUN_BYTES // element, most))

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
        found += [Argument(shape, False) for form in self.forms for shape in form.secrets]
        if self.target == "centre":
            found.append(Argument((math.prod(self.outputs),), False))
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
        z = x[:, : math.prod(self.reads)].reshape(-1, *self.reads)
        for form in self.forms:
            count = len(form.secrets)
            own, left[:count] = left[:count], []
            z = form.run(z, own)
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
