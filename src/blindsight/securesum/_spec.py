"""What everybody must agree on before a sum begins: its specification, as a frozen value with one hash."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import msgspec

from blindsight.errors import ParameterError

from ._hashing import PROTOCOL, tagged_hash

__all__ = [
    "MAX_LENGTH",
    "MAX_PARTICIPANTS",
    "Method",
    "Participant",
    "SumSpec",
    "default_threshold",
    "longest_vector",
    "names_shared_key",
    "smallest_width",
]

Method = Literal["masked", "he", "paillier"]
"""What hides the vectors: masks, or encryption under one key that all parties share and the coordinator lacks."""

MIN_PARTICIPANTS = 3
"""Of two, each learns the other's vector from the total; this holds for survivors as for participants."""
MAX_PARTICIPANTS = 1024
"""The graph is complete: all parties' work and bytes grow with the square, one party's with the number of parties.
Larger fleets need another protocol: docs/scale.md."""
MAX_LENGTH = 1 << 24
_LONGEST: dict[Method, int] = {"masked": MAX_LENGTH, "he": 1 << 22, "paillier": 1 << 17}
"""Coordinates: the encrypted sum has to fit a message; and 2**17 coordinates take Paillier minutes already."""
MAX_TEXT = 256
MAX_NAME = 64
IDENTITY_BYTES = 32

_SHARED_KEY = "the parties share one key"
_KINDS: dict[Method, str] = {"he": "BFV", "paillier": "Paillier, 3072 bits"}


def default_threshold(n_participants: int) -> int:
    """floor(2n/3) + 1: the smallest threshold safe against an active coordinator with colluding parties.

    Bonawitz et al. 2017, section 6 (clients and server collude): the threshold must exceed two thirds of n.
    """
    _whole("number of participants", n_participants, MIN_PARTICIPANTS, MAX_PARTICIPANTS)
    return 2 * n_participants // 3 + 1


def smallest_width(n_participants: int, max_abs: int, *, least: Literal[16, 32] = 32) -> Literal[16, 32, 64]:
    """Bits per coordinate on the wire, ``least`` or more, that hold a sum of ``n_participants`` integers of size
    ``max_abs``.

    Raises
    ------
    ParameterError
        Not even 64 bits hold the sum.
    """
    _whole("number of participants", n_participants, MIN_PARTICIPANTS, MAX_PARTICIPANTS)
    _whole("max_abs", max_abs, 1, None)
    widths: tuple[Literal[16, 32, 64], ...] = (16, 32, 64)
    for bits in widths:
        if bits >= least and n_participants * max_abs < 1 << (bits - 1):
            return bits
    raise _overflow(n_participants, max_abs, 64)


def names_shared_key(trust: str) -> bool:
    """Whether a statement of trust is, or holds, that of a sum under a shared key: certificates go by it."""
    return _SHARED_KEY in trust


def longest_vector(method: Method) -> int:
    """Most coordinates of a sum."""
    return _LONGEST[method]


@dataclass(frozen=True, kw_only=True)
class Participant:
    """One party as the signed participant list names it.

    Parameters
    ----------
    name : str
        1 to 64 printable characters.
    public_key : bytes
        Its long-term Ed25519 public key, 32 bytes, raw. Pinned at every party: never taken from the
        coordinator, which could otherwise enrol parties of its own (Sybils).
    """

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        _text("participant's name", self.name, MAX_NAME)
        if not isinstance(self.public_key, bytes) or len(self.public_key) != IDENTITY_BYTES:
            raise ParameterError(
                f"The public key of {self.name!r} is not an Ed25519 key",
                got=f"{type(self.public_key).__name__} of length {_length(self.public_key)}",
                rule=f"{IDENTITY_BYTES} raw bytes",
            )


@dataclass(frozen=True, kw_only=True)
class SumSpec:
    """The specification of one private sum: who, how long, how wide, and how many must agree to open it.

    Parameters
    ----------
    federation, run, step : str
        Together they name the sum; 1 to 256 printable characters each. A name is used for one sum only.
    participants : tuple of Participant
        3 to 1,024, sorted by name, with different names and different keys.
    length : int
        Coordinates of the vector, 1 to 2**24.
    bits : {16, 32, 64}
        Width of the ring Z_2**bits that the masks live in; 16 for masked sums alone.
    threshold : int
        Parties whose shares open the sum: at least floor(2n/3) + 1 (see :func:`default_threshold`) and at
        most n. One exception: n=3 may use 2, which lets one party vanish *after* masking but tolerates no
        party that colludes with the coordinator (``tolerated_colluders`` is then 0).
    max_abs : int
        Largest absolute value of any coordinate of one party's vector, noise included. ``n * max_abs`` must
        stay below ``2**(bits - 1)``, so that no sum can wrap.
    method : {"masked", "he", "paillier"}
        What hides the vectors. The last two encrypt under one key that every party holds: one party that
        colludes with the coordinator opens all vectors (``tolerated_colluders`` is then 0).

    Raises
    ------
    ParameterError
        Any of the above does not hold.

    Security
    --------
    ``digest`` is in every signature, every derived key and every hash of the sum: a message made for another
    run, step, participant list or width is worth nothing here.
    """

    federation: str
    run: str
    step: str
    participants: tuple[Participant, ...]
    length: int
    bits: Literal[16, 32, 64]
    threshold: int
    max_abs: int
    method: Method = "masked"

    def __post_init__(self) -> None:
        if self.method not in _LONGEST:
            raise ParameterError(
                "A sum is not hidden this way", got=repr(self.method)[:80], rule="masked, he or paillier"
            )
        for field in ("federation", "run", "step"):
            _text(field, getattr(self, field), MAX_TEXT)
        self._check_participants()
        n = len(self.participants)
        _whole("length", self.length, 1, longest_vector(self.method))
        if isinstance(self.bits, bool) or self.bits not in ((32, 64) if self.shares_key else (16, 32, 64)):
            raise ParameterError("A sum has no such width", got=repr(self.bits), rule="bits is 16 (masked), 32 or 64")
        self._check_threshold(n)
        _whole("max_abs", self.max_abs, 1, None)
        if n * self.max_abs >= 1 << (self.bits - 1):
            raise _overflow(n, self.max_abs, self.bits)

    def _check_participants(self) -> None:
        if not isinstance(self.participants, tuple) or not all(
            isinstance(participant, Participant) for participant in self.participants
        ):
            raise ParameterError("participants is not a tuple of Participant", got=repr(type(self.participants)))
        n = len(self.participants)
        if not MIN_PARTICIPANTS <= n <= MAX_PARTICIPANTS:
            raise ParameterError(
                "A private sum cannot have that many participants",
                got=str(n),
                rule=f"{MIN_PARTICIPANTS} to {MAX_PARTICIPANTS}: of two, each learns the other's vector",
                fix="invite a third party" if n < MIN_PARTICIPANTS else "split the federation",
            )
        names = [participant.name for participant in self.participants]
        if any(one >= other for one, other in pairwise(names)):
            raise ParameterError(
                "The participants are not in order",
                rule="sorted by name, each name once",
                fix="sort them by name",
            )
        if len({participant.public_key for participant in self.participants}) < n:
            raise ParameterError(
                "Two participants have the same public key",
                rule="one identity per participant: a party that counts twice would weaken the threshold",
            )

    def _check_threshold(self, n: int) -> None:
        _whole("threshold", self.threshold, 1, n)
        if self.threshold < default_threshold(n) and (n, self.threshold) != (3, 2):
            raise ParameterError(
                "The threshold is too low",
                got=f"{self.threshold} of {n}",
                rule="at least floor(2n/3) + 1: below it an active coordinator that colludes with a third of "
                "the parties opens single vectors (n=3 may use 2, without any collusion)",
                fix=f"use {default_threshold(n)}",
            )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the participants, sorted."""
        return tuple(participant.name for participant in self.participants)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {participant.name: i for i, participant in enumerate(self.participants)}

    def index(self, name: str) -> int:
        """Position of a participant in the sorted list; ParameterError if it is not one."""
        try:
            return self._index[name]
        except (KeyError, TypeError):
            raise ParameterError(
                f"{name!r} takes no part in this sum", rule=f"one of {', '.join(self.names)}"
            ) from None

    def point(self, name: str) -> int:
        """Where this participant's Shamir share is evaluated: its position plus one, never zero."""
        return self.index(name) + 1

    def identity(self, name: str) -> bytes:
        """The pinned Ed25519 public key of a participant."""
        return self.participants[self.index(name)].public_key

    def ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        """The given participants in the order of the list."""
        return tuple(sorted(names, key=self.index))

    @property
    def min_survivors(self) -> int:
        """Fewest parties whose total may be opened: the threshold, and never fewer than three."""
        return max(self.threshold, MIN_PARTICIPANTS)

    @property
    def tolerated_colluders(self) -> int:
        """Parties that may collude with an active coordinator without exposing another's vector: 2t - n - 1.

        Two survivor sets can both be confirmed only when t parties sign each: 2t signatures from n parties,
        of whom the honest ones sign once. With fewer than 2t - n dishonest signers that cannot happen.
        Where the parties share one key it is 0, whatever the threshold.
        """
        if self.shares_key:
            return 0
        return 2 * self.threshold - len(self.participants) - 1

    @property
    def shares_key(self) -> bool:
        """Whether all parties hold one key, so that each of them could open every vector that it gets to see."""
        return self.method != "masked"

    @property
    def trust(self) -> str:
        """The trust assumption in one sentence, for plans and reports."""
        n, bad = len(self.participants), self.tolerated_colluders
        if self.shares_key:
            return (
                f"{_SHARED_KEY} ({_KINDS[self.method]}), and no party may collude with the coordinator: one that does "
                f"opens every party's vector; {n - self.min_survivors} of {n} may drop out before the encrypted "
                "vectors are in"
            )
        colluders = (
            "no party may collude with the coordinator"
            if bad == 0
            else f"up to {bad} of {n} parties may collude with the coordinator"
        )
        return f"{colluders}; {n - self.min_survivors} of {n} may drop out before the masked vectors are in"

    @property
    def vector_bytes(self) -> int:
        """Bytes of one masked vector."""
        return self.length * (self.bits // 8)

    def canonical(self) -> bytes:
        """The specification as bytes, the same on every machine: what ``digest`` hashes.

        A masked sum's has nine entries; any other sum's has its method as the tenth.
        """
        entries = [
            PROTOCOL,
            self.federation,
            self.run,
            self.step,
            [[participant.name, participant.public_key] for participant in self.participants],
            self.length,
            self.bits,
            self.threshold,
            self.max_abs,
        ]
        return msgspec.msgpack.encode([*entries, self.method] if self.shares_key else entries)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over the canonical bytes."""
        return tagged_hash("specification", self.canonical())


def _overflow(n: int, max_abs: int, bits: int) -> ParameterError:
    return ParameterError(
        "The sum could overflow",
        got=f"{n} parties x max_abs {max_abs} = {n * max_abs}",
        rule=f"n * max_abs < 2**{bits - 1} = {1 << (bits - 1)}",
        fix="use bits=64" if bits < 64 else f"scale the vector so that max_abs <= {((1 << 63) - 1) // n}",
    )


def _text(field: str, value: object, longest: int) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= longest or not value.isprintable():
        raise ParameterError(
            f"The {field} of a sum cannot be used",
            got=repr(value)[:80],
            rule=f"1 to {longest} printable characters",
        )


def _whole(field: str, value: object, low: int, high: int | None) -> None:
    good = isinstance(value, int) and not isinstance(value, bool) and low <= value
    if not good or (high is not None and isinstance(value, int) and value > high):
        upper = "" if high is None else f" to {high}"
        raise ParameterError(
            f"The {field} of a sum is out of its domain",
            got=repr(value)[:80],
            rule=f"a whole number, {low}{upper or ' or more'}",
        )


def _length(value: object) -> str:
    return str(len(value)) if isinstance(value, (bytes, bytearray, str, memoryview)) else "unknown"
