"""A party's state in one sum, as a frozen value that is written to disk before each reply."""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from blindsight.errors import BlindsightError, FormatError, ProtocolError

from ._advertisements import Advertisement
from ._agreement import KEY_BYTES
from ._envelopes import PAIR_BYTES
from ._hashing import HASH_BYTES, PROTOCOL
from ._phases import Phase
from ._spec import SumSpec
from ._wire import message_limit, open_message

__all__ = [
    "Answered",
    "PhasedState",
    "Secrets",
    "State",
    "broken_state",
    "check_answers",
    "decode_state",
    "dump_state",
    "load_state",
]


class Answered(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One finished phase: the hash of the request and the reply to it."""

    request: bytes
    reply: bytes

    def __repr__(self) -> str:
        return f"Answered(reply=<{len(self.reply)} bytes>)"


class PhasedState(Protocol):
    """What the states of all kinds of client have in common."""

    @property
    def version(self) -> str:
        """Of the protocol."""
        ...

    @property
    def spec(self) -> bytes:
        """Hash of the specification."""
        ...

    @property
    def name(self) -> str:
        """Whose state it is."""
        ...

    @property
    def answered(self) -> tuple[Answered, ...]:
        """One entry per finished phase, in order."""
        ...

    @property
    def survivors(self) -> tuple[str, ...]:
        """The survivor set that was signed."""
        ...

    @property
    def phase(self) -> Phase:
        """The next phase to answer."""
        ...


S = TypeVar("S", bound=PhasedState)


class Secrets(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Private keys and self-mask seed: held until the masked vector is made, then dropped."""

    share_secret: bytes
    mask_secret: bytes
    seed: bytes

    def __repr__(self) -> str:
        return "Secrets(<redacted>)"


class State(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Everything a party must remember; fields are empty in the phases that do not need them.

    ``answered`` has one entry per finished phase, in order. ``advertised`` holds the advertisements' bodies
    (the paper's U1); ``own_pair`` the party's own shares of its own secrets; ``held`` all share pairs that it
    holds, by dealer (U2).
    """

    version: str
    spec: bytes
    name: str
    answered: tuple[Answered, ...] = ()
    secrets: Secrets | None = None
    advertised: dict[str, bytes] = {}
    own_pair: bytes = b""
    transcript: bytes = b""
    vector_digest: bytes = b""
    held: dict[str, bytes] = {}
    survivors: tuple[str, ...] = ()

    @property
    def phase(self) -> Phase:
        """The next phase to answer."""
        return Phase(len(self.answered))

    def __repr__(self) -> str:
        return f"State(name={self.name!r}, phase={self.phase.label}, <secrets redacted>)"


def dump_state(state: State) -> bytes:
    """The state as bytes. Secret: to be sealed at rest."""
    return msgspec.msgpack.encode(state)


def load_state(raw: bytes, *, spec: SumSpec, name: str) -> State:
    """Read a dumped state; everything in it is checked against the specification.

    Raises
    ------
    FormatError
        Malformed, truncated, of another version, party or sum, or contradicting itself.
    """
    state = decode_state(raw, State, spec=spec, name=name)
    check_answers(spec, state)
    _check_fields(spec, state)
    return state


def decode_state(raw: bytes, kind: type[S], *, spec: SumSpec, name: str) -> S:
    """Parse a state of either kind of sum, up to what is in its fields.

    Raises
    ------
    FormatError
    """
    longest = 4096 + 2 * sum(message_limit(spec, phase) for phase in Phase if phase is not Phase.DONE)
    longest += len(spec.participants) * (message_limit(spec, Phase.ADVERTISE) + PAIR_BYTES + 1024)
    if not isinstance(raw, bytes) or len(raw) > longest:
        raise broken_state("it is not bytes, or too long")
    try:
        state = msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise broken_state("it does not parse") from None
    if (state.version, state.spec, state.name) != (PROTOCOL, spec.digest, name):
        raise FormatError(
            "The stored state belongs to another sum, party or version",
            got=f"{state.version[:40]!r}, party {state.name[:64]!r}, specification {state.spec[:8].hex()}",
            rule=f"{PROTOCOL!r}, party {name!r}, specification {spec.digest[:8].hex()}",
            fix="load it with the specification and the party that it was dumped with",
        )
    if len(state.answered) > Phase.DONE:
        raise broken_state("it has answered more phases than there are")
    return state


def check_answers(spec: SumSpec, state: PhasedState) -> None:
    """Raise FormatError unless every reply in a state is signed by its owner for its phase."""
    for number, answer in enumerate(state.answered):
        if len(answer.request) != HASH_BYTES:
            raise broken_state("the hash of a request has the wrong length")
        try:
            open_message(spec, Phase(number), state.name, answer.reply)
        except BlindsightError:
            raise broken_state("a reply in it is not signed by its owner") from None


def _check_fields(spec: SumSpec, state: State) -> None:
    done, participants = state.phase, set(spec.names)
    keys_held = Phase.ADVERTISE < done <= Phase.MASK
    shares_held = Phase.MASK < done < Phase.DONE
    expected = (
        (state.secrets is not None) == keys_held
        and bool(state.advertised) == (done is Phase.MASK)
        and len(state.own_pair) == (PAIR_BYTES if done is Phase.MASK else 0)
        and len(state.transcript) == (HASH_BYTES if Phase.SHARE < done < Phase.DONE else 0)
        and len(state.vector_digest) == (HASH_BYTES if done > Phase.MASK else 0)
        and bool(state.held) == shares_held
        and bool(state.survivors) == (done >= Phase.UNMASK)
    )
    if not expected:
        raise broken_state(f"it does not hold what the {done.label} phase needs, and only that")
    if state.secrets is not None and any(
        len(secret) != KEY_BYTES
        for secret in (state.secrets.share_secret, state.secrets.mask_secret, state.secrets.seed)
    ):
        raise broken_state("a secret has the wrong length")
    if state.advertised and not {state.name} <= set(state.advertised) <= participants:
        raise broken_state("its peers are not participants")
    for peer, body in state.advertised.items():
        try:
            Advertisement.from_bytes(body, owner=peer)
        except ProtocolError:
            raise broken_state("an advertisement in it does not hold") from None
    if state.held and (
        not {state.name} <= set(state.held) <= participants
        or len(state.held) < spec.min_survivors
        or any(len(pair) != PAIR_BYTES for pair in state.held.values())
    ):
        raise broken_state("the shares it holds are not those of enough participants")
    if state.survivors and (
        not {state.name} <= set(state.survivors) <= (set(state.held) or participants)
        or len(state.survivors) < spec.min_survivors
        or state.survivors != spec.ordered(set(state.survivors))
    ):
        raise broken_state("its survivor set is not one of those who shared")


def broken_state(why: str) -> FormatError:
    """The error for a stored state that contradicts itself."""
    return FormatError(
        f"The stored state of a sum is malformed: {why}",
        fix="restore it from the party's store; without it the party stays out of this sum",
    )
