"""Requests and bodies of a sum under a shared key: msgpack, strict types, bounded lengths, one encoding of each.

Parties' messages are framed and signed as those of a masked sum are (``_wire``); the specification in them tells the
two apart. docs/wire-securesum.md has the layouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from blindsight.errors import WireError

from ._hashing import HASH_BYTES, PROTOCOL, tagged_hash
from ._phases import Phase
from ._scheme import scheme_of
from ._shared_limits import OVERHEAD_BYTES, entry_bytes, item_bytes, shared_body_limit
from ._spec import SumSpec
from ._wire import FRAME_BYTES, check_header, check_names, check_only_encoding, decode

__all__ = [
    "ConfirmRequest",
    "DealtBody",
    "EncryptRequest",
    "OpenRequest",
    "ShareRequest",
    "decode_body_request",
    "encode_body_request",
    "encode_dealt",
    "open_dealt",
    "parse_request",
    "story_of",
    "sum_digest",
    "survivors_digest",
]

T = TypeVar("T", bound=msgspec.Struct)


class _Request(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    version: str
    phase: int
    spec: bytes
    body: bytes


class DealtBody(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Round 1: the sender's view of the advertisements; of a key holder also the key, sealed for each peer."""

    transcript: bytes
    commitment: bytes = b""
    public: bytes = b""
    items: dict[str, bytes] = {}


class ShareRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Round 1 asks with the round-0 messages of U1."""

    advertisements: dict[str, bytes]


class EncryptRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Round 2 asks with who shared (U2), whose key is used, and that key, sealed for this party (its own: nothing)."""

    sharers: tuple[str, ...]
    dealer: str
    commitment: bytes
    public: bytes
    item: bytes


class ConfirmRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Round 3 asks with who survived (U3) and the hash of the sum of their ciphertexts."""

    survivors: tuple[str, ...]
    sum_digest: bytes


class OpenRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Round 4 asks with the round-3 messages of U4 and the sum itself."""

    signatures: dict[str, bytes]
    total: bytes

    def __repr__(self) -> str:
        return f"OpenRequest(<{len(self.signatures)} signatures>, <{len(self.total)} bytes>)"


def story_of(spec: SumSpec, transcript: bytes, request: EncryptRequest) -> bytes:
    """Hash of who shared and of whose key is used, under the transcript: what each survivor goes by."""
    names = (name.encode() for name in request.sharers)
    return tagged_hash(
        "shared key in use",
        spec.digest,
        transcript,
        request.dealer.encode(),
        request.commitment,
        request.public,
        *names,
    )


def sum_digest(spec: SumSpec, story: bytes, total: bytes) -> bytes:
    """Hash of an encrypted sum."""
    return tagged_hash("encrypted sum", spec.digest, story, total)


def survivors_digest(spec: SumSpec, story: bytes, survivors: Sequence[str], encrypted_sum: bytes) -> bytes:
    """What survivors sign in round 3: who survived, and the one ciphertext that will be decrypted."""
    names = (name.encode() for name in survivors)
    return tagged_hash("survivors of an encrypted sum", spec.digest, story, encrypted_sum, *names)


def encode_body_request(spec: SumSpec, phase: Phase, body: msgspec.Struct | None) -> bytes:
    """What the coordinator sends one party."""
    raw = b"" if body is None else msgspec.msgpack.encode(body)
    return msgspec.msgpack.encode(_Request(PROTOCOL, int(phase), spec.digest, raw))


def _request_limit(spec: SumSpec) -> int:
    n = len(spec.participants)
    scheme = scheme_of(spec)
    names = n * entry_bytes(HASH_BYTES + FRAME_BYTES)
    return 2 * FRAME_BYTES + names + scheme.sum_bytes + scheme.public_bytes + item_bytes(spec) + entry_bytes(0)


def decode_body_request(spec: SumSpec, request: bytes) -> tuple[Phase, bytes]:
    """The phase that a request is for, and its body.

    Raises
    ------
    WireError
        Malformed, too long, for another sum, or not in its only encoding.
    """
    decoded = decode("request", request, _Request, _request_limit(spec))
    check_header("request", decoded.version, decoded.spec, spec)
    if not Phase.ADVERTISE <= decoded.phase < Phase.DONE:
        raise WireError("A request is for no phase of the protocol", got=str(decoded.phase), rule="0 to 4")
    check_only_encoding("request", request, msgspec.msgpack.encode(decoded))
    return Phase(decoded.phase), decoded.body


def parse_request(spec: SumSpec, body: bytes, kind: type[T]) -> T:
    """The body of a request as what its phase says; names are participants, in order, each once.

    Raises
    ------
    WireError
    """
    decoded = decode("request's body", body, kind, _request_limit(spec))
    check_only_encoding("request's body", body, msgspec.msgpack.encode(decoded))
    for field in msgspec.structs.fields(kind):
        value = getattr(decoded, field.name)
        if isinstance(value, tuple | dict):
            check_names("request", spec, dict.fromkeys(value, b""))
            if tuple(value) != spec.ordered(set(value)):
                raise WireError("The names in a request are not in order", rule="as in the participant list, each once")
    return decoded


def encode_dealt(body: DealtBody) -> bytes:
    """Round 1's body as bytes."""
    return msgspec.msgpack.encode(body)


def open_dealt(spec: SumSpec, raw: bytes, *, dealer: str, holder: bool, dealt_to: tuple[str, ...]) -> DealtBody:
    """Parse round 1's body, and check that a key holder serves all who advertised and nobody else deals.

    Raises
    ------
    WireError
    """
    decoded = decode("dealt key", raw, DealtBody, shared_body_limit(spec, Phase.SHARE) + OVERHEAD_BYTES)
    check_names("dealt key", spec, decoded.items)
    peers = set(dealt_to) - {dealer} if holder else set()
    good = (
        len(decoded.transcript) == HASH_BYTES
        and len(decoded.commitment) == (HASH_BYTES if holder else 0)
        and len(decoded.public) == (scheme_of(spec).public_bytes if holder else 0)
        and set(decoded.items) == peers
        and all(len(item) == item_bytes(spec) for item in decoded.items.values())
    )
    if not good:
        raise WireError(
            f"What {dealer!r} dealt is incomplete",
            rule=f"of a key holder one item of {item_bytes(spec)} bytes for each peer that advertised; else nothing",
        )
    check_only_encoding("dealt key", raw, msgspec.msgpack.encode(decoded))
    return decoded
