"""A party's state in one sum under a shared key, as a frozen value that is written to disk before each reply."""

from __future__ import annotations

import msgspec

from blindsight.errors import ProtocolError

from ._agreement import KEY_BYTES
from ._hashing import HASH_BYTES
from ._key_advertisements import take_public_key
from ._phases import Phase
from ._scheme import scheme_of
from ._sealed_key import holders_of
from ._spec import SumSpec
from ._state import Answered, broken_state, check_answers, decode_state

__all__ = ["SharedState", "dump_shared_state", "load_shared_state"]


class SharedState(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Everything a party must remember; fields are empty in the phases that do not need them.

    ``own_secret`` is the private half of its advertised key; ``key`` the shared key: of a key holder the one it drew,
    from the encryption on the one in use.
    """

    version: str
    spec: bytes
    name: str
    answered: tuple[Answered, ...] = ()
    own_secret: bytes = b""
    advertised: dict[str, bytes] = {}
    transcript: bytes = b""
    key: bytes = b""
    story: bytes = b""
    sharers: tuple[str, ...] = ()
    vector_digest: bytes = b""
    survivors: tuple[str, ...] = ()
    sum_digest: bytes = b""

    @property
    def phase(self) -> Phase:
        """The next phase to answer."""
        return Phase(len(self.answered))

    def __repr__(self) -> str:
        return f"SharedState(name={self.name!r}, phase={self.phase.label}, <secrets redacted>)"


def dump_shared_state(state: SharedState) -> bytes:
    """The state as bytes. Secret: to be sealed at rest."""
    return msgspec.msgpack.encode(state)


def load_shared_state(raw: bytes, *, spec: SumSpec, name: str) -> SharedState:
    """Read a dumped state; everything in it is checked against the specification.

    Raises
    ------
    FormatError
        Malformed, truncated, of another version, party or sum, or contradicting itself.
    """
    state = decode_state(raw, SharedState, spec=spec, name=name)
    check_answers(spec, state)
    _check_fields(spec, state)
    return state


def _check_fields(spec: SumSpec, state: SharedState) -> None:
    done = state.phase
    if not set(state.advertised) <= set(spec.names):
        raise broken_state("its peers are not participants")
    holds_key = Phase.MASK < done < Phase.DONE
    may_hold_key = done is Phase.MASK and state.name in holders_of(spec, state.advertised)
    key_bytes = scheme_of(spec).secret_bytes if holds_key or may_hold_key else 0
    expected = (
        len(state.own_secret) == (KEY_BYTES if Phase.ADVERTISE < done <= Phase.MASK else 0)
        and bool(state.advertised) == (done is Phase.MASK)
        and len(state.transcript) == (HASH_BYTES if Phase.SHARE < done < Phase.DONE else 0)
        and len(state.key) == key_bytes
        and len(state.story) == (HASH_BYTES if holds_key else 0)
        and bool(state.sharers) == (done > Phase.MASK)
        and len(state.vector_digest) == (HASH_BYTES if done > Phase.MASK else 0)
        and bool(state.survivors) == (done >= Phase.UNMASK)
        and len(state.sum_digest) == (HASH_BYTES if done >= Phase.UNMASK else 0)
    )
    if not expected:
        raise broken_state(f"it does not hold what the {done.label} phase needs, and only that")
    if state.advertised:
        if state.name not in state.advertised:
            raise broken_state("it did not advertise itself")
        known: dict[str, bytes] = {}
        try:
            for peer, public in state.advertised.items():
                take_public_key(known, peer, public)
        except ProtocolError:
            raise broken_state("an advertisement in it does not hold") from None
    for names, among in ((state.sharers, spec.names), (state.survivors, state.sharers)):
        if names and (
            not {state.name} <= set(names) <= set(among)
            or len(names) < spec.min_survivors
            or names != spec.ordered(set(names))
        ):
            raise broken_state("its sharers or survivors are not parties of this sum, in order")
