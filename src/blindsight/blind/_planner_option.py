"""What one engine takes to score one model: parameters, cost, error, bits, trust; or why it cannot."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ._ckks_plan import CkksParameters
from ._plan import BlindParameters
from ._planner_rounds import Connection, Rounds
from ._planner_times import Times
from ._planner_trust import Engine, Reveal, Trust
from .mpc._program import Program

__all__ = ["Cost", "Option", "pieces"]

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
    measured : float
        Largest error at the threshold that was found, of records drawn at random; NaN where none was measured.
    approximate : Option, optional
        Of columns of a quadratic form that are exact: the same under CKKS.
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
    measured: float = math.nan
    approximate: Option | None = None

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


def pieces(rows: int, most: int) -> list[int]:
    """Sizes of the messages, or runs, that carry so many records."""
    full, rest = divmod(rows, most)
    return [most] * full + ([rest] if rest else [])
