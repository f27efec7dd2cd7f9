"""Requests and signed messages as bytes: msgpack, strict types, bounded lengths, one encoding of each.

The coordinator's requests are unsigned: everything in them that matters was signed or sealed by a party.
Parties' messages carry a signature over (specification, phase, name, body), so that none can be moved to
another run, phase or name. docs/wire-securesum.md has the layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindsight.errors import AuthenticationError, ParameterError, WireError

from ._agreement import KEY_BYTES
from ._envelopes import COMMITMENTS_BYTES, ITEM_BYTES
from ._hashing import HASH_BYTES, PROTOCOL, tagged_hash
from ._phases import Phase
from ._shamir import SHARE_BYTES
from ._shared_limits import shared_body_limit
from ._spec import IDENTITY_BYTES, SumSpec

__all__ = [
    "FRAME_BYTES",
    "NAME_BYTES",
    "SharesBody",
    "Signer",
    "UnmaskBody",
    "check_header",
    "check_names",
    "check_only_encoding",
    "decode",
    "decode_request",
    "encode_body",
    "encode_request",
    "message_limit",
    "open_message",
    "open_shares_body",
    "open_unmask_body",
    "seal_message",
    "signer_key",
]

ADVERTISEMENT_BYTES = 2 * KEY_BYTES + HASH_BYTES
_SIGNATURE_BYTES = 64
FRAME_BYTES = 160
"""More than the msgpack framing, version, hash and signature of any message take."""
NAME_BYTES = 4 * 64 + 3

_T = TypeVar("_T")


class Signer(Protocol):
    """A long-term Ed25519 identity; ``public`` is 32 raw bytes, or an object that has them in ``.raw``."""

    @property
    def public(self) -> object:
        """The public key."""
        ...

    def sign(self, message: bytes, /) -> bytes:
        """An Ed25519 signature (RFC 8032) of 64 bytes."""
        ...


def signer_key(signer: Signer) -> bytes:
    """The raw public key of a signer; ParameterError if it has none of 32 bytes."""
    public = signer.public
    raw = public if isinstance(public, bytes) else getattr(public, "raw", None)
    if not isinstance(raw, bytes) or len(raw) != IDENTITY_BYTES:
        raise ParameterError(
            "The signer's public key is not an Ed25519 key",
            rule=f"{IDENTITY_BYTES} raw bytes, or an object that has them in .raw",
        )
    return raw


class _Request(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    version: str
    phase: int
    spec: bytes
    parts: dict[str, bytes]


class _Message(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    version: str
    phase: int
    spec: bytes
    body: bytes
    signature: bytes


class SharesBody(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Round 1: the dealer's view of the advertisements, commitments to its own shares, an item per peer."""

    transcript: bytes
    own: bytes
    items: dict[str, bytes]


class UnmaskBody(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Round 4: mask-key shares of those who dropped out after sharing, seed shares of the survivors."""

    key_shares: dict[str, bytes]
    seed_shares: dict[str, bytes]

    def __repr__(self) -> str:
        return f"UnmaskBody(<{len(self.key_shares)} key shares, {len(self.seed_shares)} seed shares>)"


# What one value in a request may hold, by phase.
_PART_BYTES = {
    Phase.ADVERTISE: 0,
    Phase.SHARE: ADVERTISEMENT_BYTES + FRAME_BYTES,
    Phase.MASK: ITEM_BYTES,
    Phase.CONFIRM: 0,
    Phase.UNMASK: HASH_BYTES + FRAME_BYTES,
}


def encode_request(spec: SumSpec, phase: Phase, parts: Mapping[str, bytes]) -> bytes:
    """What the coordinator sends one party: a value per named participant, in the order of the list."""
    ordered = {name: parts[name] for name in spec.ordered(parts)}
    return msgspec.msgpack.encode(_Request(PROTOCOL, int(phase), spec.digest, ordered))


def decode_request(spec: SumSpec, request: bytes) -> tuple[Phase, dict[str, bytes]]:
    """The phase that a request is for and its values by participant.

    Raises
    ------
    WireError
        Malformed, too long, for another sum, or not in its only encoding.
    """
    longest = FRAME_BYTES + len(spec.participants) * (NAME_BYTES + max(_PART_BYTES.values()) + 8)
    decoded = decode("request", request, _Request, longest)
    check_header("request", decoded.version, decoded.spec, spec)
    if not Phase.ADVERTISE <= decoded.phase < Phase.DONE:
        raise WireError("A request is for no phase of the protocol", got=str(decoded.phase), rule="0 to 4")
    phase = Phase(decoded.phase)
    check_names("request", spec, decoded.parts)
    for name, value in decoded.parts.items():
        if len(value) > _PART_BYTES[phase]:
            raise WireError(
                f"The part of a {phase.label} request about {name!r} is too long",
                got=f"{len(value)} bytes",
                rule=f"at most {_PART_BYTES[phase]}",
            )
    check_only_encoding("request", request, encode_request(spec, phase, decoded.parts))
    return phase, decoded.parts


def message_limit(spec: SumSpec, phase: Phase) -> int:
    """Longest message a party may send in a phase, in bytes."""
    if spec.shares_key:
        return shared_body_limit(spec, phase) + FRAME_BYTES
    n = len(spec.participants)
    body = {
        Phase.ADVERTISE: ADVERTISEMENT_BYTES,
        Phase.SHARE: FRAME_BYTES + n * (NAME_BYTES + ITEM_BYTES + 8),
        Phase.MASK: HASH_BYTES + spec.vector_bytes,
        Phase.CONFIRM: HASH_BYTES,
        Phase.UNMASK: FRAME_BYTES + n * (NAME_BYTES + SHARE_BYTES + 8),
    }[phase]
    return body + FRAME_BYTES


def encode_body(body: SharesBody | UnmaskBody) -> bytes:
    """A structured body as bytes."""
    return msgspec.msgpack.encode(body)


def seal_message(spec: SumSpec, phase: Phase, name: str, body: bytes, signer: Signer) -> bytes:
    """A party's message: its body and the party's signature over it."""
    signature = signer.sign(_signed(spec, phase, name, body))
    return msgspec.msgpack.encode(_Message(PROTOCOL, int(phase), spec.digest, body, signature))


def open_message(spec: SumSpec, phase: Phase, name: str, message: bytes) -> bytes:
    """The body of a message that ``name`` signed for this phase of this sum.

    Raises
    ------
    WireError
        Malformed, too long, for another sum or phase, or not in its only encoding.
    AuthenticationError
        The signature is not the named participant's.
    """
    decoded = decode(f"{phase.label} message", message, _Message, message_limit(spec, phase))
    check_header("message", decoded.version, decoded.spec, spec)
    if decoded.phase != phase:
        raise WireError(
            f"A message from {name!r} is for another phase",
            got=str(decoded.phase),
            rule=f"{int(phase)} ({phase.label})",
        )
    if len(decoded.signature) != _SIGNATURE_BYTES:
        raise WireError("A signature has the wrong length", got=str(len(decoded.signature)), rule="64 bytes")
    check_only_encoding("message", message, msgspec.msgpack.encode(decoded))
    try:
        key = Ed25519PublicKey.from_public_bytes(spec.identity(name))
        key.verify(decoded.signature, _signed(spec, phase, name, decoded.body))
    except (InvalidSignature, ValueError):
        raise AuthenticationError(
            f"A {phase.label} message is not signed by {name!r}",
            rule="an Ed25519 signature by the key in the participant list, over this sum, phase and name",
            fix="check that the participant list holds the party's current key",
        ) from None
    return decoded.body


def open_shares_body(spec: SumSpec, body: bytes, *, dealer: str, dealt_to: tuple[str, ...]) -> SharesBody:
    """Parse round 1's body and check that it serves exactly those who advertised.

    Raises
    ------
    WireError
        Malformed, or an item is missing, extra or of the wrong length.
    """
    decoded = decode("shares body", body, SharesBody, message_limit(spec, Phase.SHARE))
    check_names("shares body", spec, decoded.items)
    good = (
        len(decoded.transcript) == HASH_BYTES
        and len(decoded.own) == COMMITMENTS_BYTES
        and set(decoded.items) == set(dealt_to) - {dealer}
        and all(len(item) == ITEM_BYTES for item in decoded.items.values())
    )
    if not good:
        raise WireError(
            f"The shares from {dealer!r} are incomplete",
            rule=f"one item of {ITEM_BYTES} bytes for each peer that advertised",
        )
    return decoded


def open_unmask_body(
    spec: SumSpec, body: bytes, *, holder: str, dropped: tuple[str, ...], survivors: tuple[str, ...]
) -> UnmaskBody:
    """Parse round 4's body and check that it holds one share per peer, of the kind the survivor set says.

    Raises
    ------
    WireError
        Malformed, or a share is missing, extra, of the other kind, or of the wrong length.
    """
    decoded = decode("unmask body", body, UnmaskBody, message_limit(spec, Phase.UNMASK))
    good = (
        set(decoded.key_shares) == set(dropped)
        and set(decoded.seed_shares) == set(survivors)
        and all(
            len(share) == SHARE_BYTES for group in (decoded.key_shares, decoded.seed_shares) for share in group.values()
        )
    )
    if not good:
        raise WireError(
            f"The unmasking shares from {holder!r} are not those that were asked for",
            rule="one seed share per survivor, one mask-key share per party that dropped out after sharing",
        )
    return decoded


def _signed(spec: SumSpec, phase: Phase, name: str, body: bytes) -> bytes:
    return tagged_hash("message", spec.digest, bytes([phase]), name.encode(), body)


def decode(what: str, raw: bytes, kind: type[_T], longest: int) -> _T:
    if not isinstance(raw, bytes):
        raise WireError(f"A {what} is not bytes", got=type(raw).__name__)
    if len(raw) > longest:
        raise WireError(f"A {what} is too long", got=f"{len(raw)} bytes", rule=f"at most {longest}")
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"A {what} is malformed", got=str(error)[:120], rule="docs/wire-securesum.md") from None


def check_header(what: str, version: str, digest: bytes, spec: SumSpec) -> None:
    if version != PROTOCOL:
        raise WireError(
            f"A {what} is of another protocol or version",
            got=repr(version[:40]),
            rule=PROTOCOL,
            fix="upgrade the older side",
        )
    if digest != spec.digest:
        raise WireError(
            f"A {what} belongs to another sum",
            got=f"specification {digest[:8].hex()}",
            rule=f"specification {spec.digest[:8].hex()} ({spec.run} / {spec.step})",
            fix="all parties must plan the same participants, length, bits, threshold and max_abs",
        )


def check_names(what: str, spec: SumSpec, parts: Mapping[str, bytes]) -> None:
    strangers = set(parts) - set(spec.names)
    if strangers:
        raise WireError(
            f"A {what} names a party that takes no part",
            got=repr(sorted(strangers)[0])[:80],
            rule="only participants of the specification",
        )


def check_only_encoding(what: str, raw: bytes, again: bytes) -> None:
    if raw != again:
        raise WireError(
            f"A {what} is not in its only encoding",
            rule="shortest msgpack, names in the order of the participant list, each once",
        )
