"""A coordinator's state in one sum, between two phases: what it must remember to be killed and go on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Protocol, TypeVar

import msgspec

from blindsight.errors import FormatError

from ._hashing import HASH_BYTES, PROTOCOL
from ._phases import Phase
from ._spec import SumSpec

__all__ = [
    "Gone",
    "Name",
    "Names",
    "ServerState",
    "broken",
    "check_names",
    "decode_server_state",
    "encode_server_state",
    "read_state",
]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Names = tuple[Name, ...]


class _Headed(Protocol):
    @property
    def version(self) -> str: ...
    @property
    def spec(self) -> bytes: ...


S = TypeVar("S", bound=_Headed)


class Gone(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A party that left, and why."""

    phase: Phase
    reason: str
    at_fault: bool


class ServerState(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What phases that are closed have left; fields are empty in the phases that do not need them.

    ``total`` is the running sum of masked vectors from the end of the mask phase on, and the released total, int64,
    once all phases are closed.
    """

    version: str
    spec: bytes
    phase: Phase
    members: Names
    dropped: dict[Name, Gone] = {}
    forwarded: dict[Name, bytes] = {}
    advertised: dict[Name, bytes] = {}
    transcript: bytes = b""
    sharers: Names = ()
    survivors: Names = ()
    dealt: dict[Name, bytes] = {}
    total: bytes = b""


def encode_server_state(state: ServerState) -> bytes:
    """The state as bytes. It holds nothing that the coordinator may not see."""
    return msgspec.msgpack.encode(state)


def decode_server_state(raw: bytes, spec: SumSpec) -> ServerState:
    """Read an encoded state; its parts are checked against the specification.

    Raises
    ------
    FormatError
        Malformed, of another version or sum, or contradicting itself.
    """
    state = read_state(raw, ServerState, spec)
    phase = state.phase
    check_names(spec, (state.members, state.sharers, state.survivors), state.dropped, state.forwarded, state.advertised)
    check_names(spec, (), state.dealt)
    length = 8 * spec.length if phase is Phase.DONE else spec.vector_bytes if phase > Phase.MASK else 0
    expected = (
        len(state.members) >= (spec.threshold if phase > Phase.CONFIRM else spec.min_survivors)
        and bool(state.advertised) == (Phase.ADVERTISE < phase < Phase.DONE)
        and len(state.transcript) == (HASH_BYTES if Phase.ADVERTISE < phase < Phase.DONE else 0)
        and bool(state.sharers) == (Phase.SHARE < phase < Phase.DONE)
        and set(state.dealt) == set(state.sharers)
        and bool(state.survivors) == (phase > Phase.MASK)
        and set(state.forwarded) == (set(state.members) if phase in (Phase.SHARE, Phase.UNMASK) else set())
        and len(state.total) == length
    )
    if not expected:
        raise broken(f"it does not hold what the {phase.label} phase needs, and only that")
    return state


def read_state(raw: bytes, kind: type[S], spec: SumSpec) -> S:
    """Parse a state of either method; FormatError unless it is of this version and sum."""
    try:
        state = msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise broken("it does not parse") from None
    if (state.version, state.spec) != (PROTOCOL, spec.digest):
        raise FormatError(
            "The stored state belongs to another sum or version",
            got=f"{state.version[:40]!r}, specification {state.spec[:8].hex()}",
            rule=f"{PROTOCOL!r}, specification {spec.digest[:8].hex()}",
            fix="load it with the specification that it was dumped with",
        )
    return state


def check_names(spec: SumSpec, sets: tuple[Names, ...], *others: Collection[str]) -> None:
    """Raise FormatError unless all take part, and ``sets`` are in the specification's order."""
    if any(not set(names) <= set(spec.names) for names in (*sets, *others)):
        raise broken("it names somebody who takes no part")
    if any(names != spec.ordered(set(names)) for names in sets):
        raise broken("its parties are not in order")


def broken(why: str) -> FormatError:
    """The error of a state that contradicts itself."""
    return FormatError(
        f"The stored state of a sum is malformed: {why}",
        fix="restore it from the coordinator's store; without it this sum is lost, and what it cost is spent",
    )
