"""How long a party's messages may be in a sum under a shared key."""

from __future__ import annotations

from ._agreement import KEY_BYTES
from ._hashing import HASH_BYTES
from ._phases import Phase
from ._scheme import scheme_of
from ._spec import SumSpec

__all__ = ["OVERHEAD_BYTES", "VALUE_BYTES", "entry_bytes", "item_bytes", "shared_body_limit"]

OVERHEAD_BYTES = 160
"""More than the msgpack framing and the hashes of any body take."""
VALUE_BYTES = 8
"""Of one coordinate of a reported total."""
_NONCE_AND_TAG_BYTES = 12 + 16


def item_bytes(spec: SumSpec) -> int:
    """Of the shared key, sealed for one peer."""
    return scheme_of(spec).secret_bytes + _NONCE_AND_TAG_BYTES


def entry_bytes(size: int) -> int:
    """Of a named value of ``size`` bytes: a name is 64 characters of up to 4 bytes."""
    return 4 * 64 + 3 + size + 8


def shared_body_limit(spec: SumSpec, phase: Phase) -> int:
    """Longest body of a party's message in a phase, in bytes."""
    scheme = scheme_of(spec)
    return {
        Phase.ADVERTISE: KEY_BYTES,
        Phase.SHARE: OVERHEAD_BYTES + scheme.public_bytes + len(spec.participants) * entry_bytes(item_bytes(spec)),
        Phase.MASK: HASH_BYTES + scheme.cipher_bytes,
        Phase.CONFIRM: HASH_BYTES,
        Phase.UNMASK: VALUE_BYTES * spec.length,
    }[phase]
