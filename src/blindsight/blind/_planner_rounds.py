"""How often the machines wait for one another, and what that costs on a connection: round trips and bytes.

A *round trip* is a message to the other machine and its answer; what all operators send to one another at the same time
is half of one. Counts are measured, by benchmarks/network_rounds.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blindsight.errors import ParameterError

from ._ckks_plan import CkksParameters
from ._plan import BlindParameters
from ._verdict_comparison import runs_of
from .mpc._program import Program

__all__ = ["Connection", "Rounds", "he_rounds", "mpc_rounds"]

MAX_ROUND_TRIP_MS = 60_000.0
MAX_MBIT = 1e6

SESSION_ROUNDS, ASK_ROUNDS = 2, 1
"""A connection: TCP, then TLS 1.3. A request and its answer."""

COMPARISON_SET_UP_ROUNDS, COMPARISON_ROUNDS, AROUND_COMPARISON_ROUNDS = 16.5, 9.5, 1.5
"""Of verdicts on encrypted scores: links and oblivious transfers; one run of the comparison; asking for it, being let,
and the scorer's half."""

MPC_SET_UP_ROUNDS = {"aby3": 12.0, "cheetah": 28.0}
"""Before the first answer: the offer, the operators' links, the protocol."""

COMPARISON_SET_UP_BYTES, MPC_SET_UP_BYTES = 7_300_000, {"aby3": 69_000, "cheetah": 24_000_000}
"""Before the first, both ways, over all links."""

MPC_RUN_ROUNDS = 6.4
"""A run without its program: the owner's connection and request, the operators' agreement on what to run."""

MPC_FORM_ROUNDS = {
    "aby3": {"inner_product": 0.5, "quadratic": 1.5, "network": 2.8},
    "cheetah": {"inner_product": 0.5, "quadratic": 1.5, "network": 1.5},
}
"""Products of whole numbers; of a network the squared distance."""

MPC_STEP_ROUNDS = {
    "aby3": {
        "dense": 1.5, "convolution": 1.5, "relu": 5.2, "leaky": 6.2, "square": 3.2, "tanh": 36.0, "block": 228.0,
        "shift": 0.0, "reshape": 0.0, "repeat": 0.0, "enlarge": 0.0,
    },
    "cheetah": {
        "dense": 2.0, "convolution": 2.0, "relu": 10.0, "leaky": 11.0, "square": 3.0, "tanh": 46.0, "block": 248.0,
        "shift": 0.0, "reshape": 0.0, "repeat": 0.0, "enlarge": 0.0,
    },
}  # fmt: skip

MPC_ROW_ROUNDS = {"aby3": 90.0, "cheetah": 90.0}
"""Each row of a window in a recurrent layer. Attention was counted on windows of four rows, CHEETAH's tanh reckoned."""

MPC_VERDICT_ROUNDS = {"aby3": 4.0, "cheetah": 9.0}
"""The comparison with the threshold."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """What lies between any two of the machines.

    Parameters
    ----------
    round_trip_ms : float
        Until the answer to a short message is there; 0 to a minute.
    mbit : float
        Millions of bits a second; above 0.
    """

    round_trip_ms: float = 10.0
    mbit: float = 100.0

    def __post_init__(self) -> None:
        for name, most, low in (("round_trip_ms", MAX_ROUND_TRIP_MS, 0.0), ("mbit", MAX_MBIT, 1e-3)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= most:
                raise ParameterError(
                    f"{name} is out of its domain", got=repr(value)[:40], rule=f"a number from {low:g} to {most:g}"
                )

    def seconds(self, rounds: float, sent_bytes: float) -> float:
        """Time for so many round trips and bytes, one after the other."""
        return rounds * self.round_trip_ms / 1e3 + sent_bytes * 8 / (self.mbit * 1e6)

    def __str__(self) -> str:
        return f"{self.mbit:g} Mbit/s and {self.round_trip_ms:g} ms of round trip"


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Round trips of a batch.

    Parameters
    ----------
    set_up : float
        Once, before the first.
    batch : float
        For all its messages or runs, one after the other.
    set_up_bytes : int
        What the comparison's two sides, or the operators, exchange once, before the first.
    """

    set_up: float
    batch: float
    set_up_bytes: int


def he_rounds(p: BlindParameters | CkksParameters, messages: Sequence[int]) -> Rounds:
    """Round trips under encryption: a request and its answer for each message, and of verdicts the comparisons.

    Parameters
    ----------
    p : BlindParameters or CkksParameters
    messages : sequence of int
        Records of each.
    """
    set_up, batch = SESSION_ROUNDS + 2.0 * ASK_ROUNDS, float(ASK_ROUNDS * len(messages))  # offer and registration
    if p.thresholds:
        set_up += COMPARISON_SET_UP_ROUNDS
        for count in messages:
            batch += AROUND_COMPARISON_ROUNDS + len(runs_of(count * p.thresholds)) * COMPARISON_ROUNDS
    return Rounds(set_up=set_up, batch=batch, set_up_bytes=COMPARISON_SET_UP_BYTES if p.thresholds else 0)


def mpc_rounds(program: Program, runs: int) -> Rounds:
    """Round trips under MPC: of a program they do not depend on its sizes, but for the rows of recurrent layers."""
    protocol = program.protocol
    each = MPC_RUN_ROUNDS + MPC_FORM_ROUNDS[protocol][program.form]
    for form in program.forms:
        kind = form.step.kind
        each += form.shape[0] * MPC_ROW_ROUNDS[protocol] if kind == "lstm" else MPC_STEP_ROUNDS[protocol][kind]
    if program.answer == "verdict":
        each += MPC_VERDICT_ROUNDS[protocol]
    return Rounds(set_up=MPC_SET_UP_ROUNDS[protocol], batch=runs * each, set_up_bytes=MPC_SET_UP_BYTES[protocol])
