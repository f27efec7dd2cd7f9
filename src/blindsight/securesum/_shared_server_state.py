"""A coordinator's state in a sum under a shared key, between two phases, so that it can be killed and go on."""

from __future__ import annotations

import msgspec

from ._hashing import HASH_BYTES
from ._phases import Phase
from ._server_state import Gone, Name, Names, broken, check_names, read_state
from ._shared_limits import VALUE_BYTES
from ._shared_wire import DealtBody, EncryptRequest
from ._spec import SumSpec

__all__ = ["SharedServerState", "decode_shared_server_state"]


class SharedServerState(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What phases that are closed have left; fields are empty in the phases that do not need them.

    ``encrypted`` is the sum of the ciphertexts from the end of the mask phase on; ``total`` the released one, int64.
    """

    version: str
    spec: bytes
    phase: Phase
    members: Names
    dropped: dict[Name, Gone] = {}
    messages: dict[Name, bytes] = {}
    advertised: dict[Name, bytes] = {}
    transcript: bytes = b""
    dealt: dict[Name, DealtBody] = {}
    in_use: EncryptRequest | None = None
    survivors: Names = ()
    encrypted: bytes = b""
    digest: bytes = b""
    total: bytes = b""


def decode_shared_server_state(raw: bytes, spec: SumSpec) -> SharedServerState:
    """Read an encoded state; its parts are checked against the specification.

    Raises
    ------
    FormatError
        Malformed, of another version or sum, or contradicting itself.
    """
    state = read_state(raw, SharedServerState, spec)
    phase = state.phase
    check_names(spec, (state.members, state.survivors), state.dropped, state.advertised, state.messages)
    expected = (
        len(state.members) >= (spec.threshold if phase > Phase.CONFIRM else spec.min_survivors)
        and bool(state.advertised) == (Phase.ADVERTISE < phase < Phase.DONE)
        and len(state.transcript) == (HASH_BYTES if Phase.ADVERTISE < phase < Phase.DONE else 0)
        and (state.in_use is not None) == (Phase.SHARE < phase < Phase.DONE)
        and set(state.dealt) == (set(state.members) if phase is Phase.MASK else set())
        and bool(state.survivors) == (phase > Phase.MASK)
        and set(state.messages) == (set(state.members) if phase in (Phase.SHARE, Phase.UNMASK) else set())
        and bool(state.encrypted) == bool(state.digest) == (Phase.MASK < phase < Phase.DONE)
        and len(state.total) == (VALUE_BYTES * spec.length if phase is Phase.DONE else 0)
    )
    if not expected:
        raise broken(f"it does not hold what the {phase.label} phase needs, and only that")
    return state
