"""Messages to an operator: a header and length-prefixed pieces. See docs/wire-blind.md, 'MPC'."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import msgspec

from blindsight._names import MODEL_NAME
from blindsight.errors import WireError

__all__ = [
    "MAX_BODY_BYTES",
    "Abort",
    "Execute",
    "ModelHeader",
    "Prepare",
    "RunHeader",
    "SessionHeader",
    "Void",
    "pack",
    "unpack",
]

MAGIC = b"BSMP"
PREFIX = struct.Struct("<4sHH")
LENGTH = struct.Struct("<Q")
MAX_HEADER_BYTES = 4096
MAX_PIECES = 80
MAX_BODY_BYTES = 1 << 29

Name = Annotated[str, msgspec.Meta(pattern=rf"\A{MODEL_NAME}\Z")]
Hex16 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
Fingerprint = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Rows = Annotated[int, msgspec.Meta(ge=1, le=1 << 14)]


class ModelHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="model"):
    """A model holder's shares of a model; pieces: the offer, then one share for each secret.

    Parameters
    ----------
    name : str
        What owners ask for.
    id : str
        Random, 32 hexadecimal digits; the same at every operator: which shares belong together.
    bits_per_owner : int or None
        Limit of this operator for each owner, over every model of this name.
    """

    name: Name
    id: Hex16
    bits_per_owner: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] | None = None


class RunHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="run"):
    """An owner's shares of its records; one piece.

    Parameters
    ----------
    id : str
        Random, used once.
    model : str
        Id of the model.
    rows : int
    """

    id: Hex16
    model: Hex16
    rows: Rows


class SessionHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="session"):
    """The first operator opens a new link under this secret name."""

    name: Hex16


class Abort(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="abort"):
    """The first operator gives a link up."""

    session: Hex16


class Prepare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="prepare"):
    """The first operator asks whether a run's shares are there, from the owner of that certificate."""

    run: RunHeader
    owner: Fingerprint


class Execute(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="execute"):
    """The first operator starts a run of the owner of that certificate over the link of that name."""

    run: RunHeader
    owner: Fingerprint
    session: Hex16


class Void(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="void"):
    """The first operator gives up a run that has not started."""

    run: RunHeader
    owner: Fingerprint


Header = ModelHeader | RunHeader | SessionHeader | Prepare | Execute | Void | Abort
_encoder = msgspec.msgpack.Encoder()
H = TypeVar("H", ModelHeader, RunHeader, SessionHeader, Prepare, Execute, Void, Abort)


def pack(header: Header, pieces: Sequence[bytes] = ()) -> bytes:
    """Compose a message."""
    encoded = _encoder.encode(header)
    parts = [PREFIX.pack(MAGIC, len(encoded), len(pieces)), encoded]
    for piece in pieces:
        parts += [LENGTH.pack(len(piece)), piece]
    return b"".join(parts)


def unpack(message: bytes, kind: type[H], *, pieces: Literal["none", "one", "some"] = "none") -> tuple[H, list[bytes]]:
    """Read an untrusted message of one kind.

    Raises
    ------
    WireError
        Another kind, another number of pieces, a length that does not fit, or bytes left over.
    """
    if not PREFIX.size <= len(message) <= MAX_BODY_BYTES:
        raise WireError("A message to an operator has an impossible length", got=f"{len(message)} bytes")
    magic, length, count = PREFIX.unpack_from(message)
    fits = {"none": count == 0, "one": count == 1, "some": 1 <= count <= MAX_PIECES}[pieces]
    if magic != MAGIC or length > MAX_HEADER_BYTES or not fits:
        raise WireError("These bytes are not this message to an operator", rule="docs/wire-blind.md, 'MPC'")
    place = PREFIX.size + length
    try:
        header = msgspec.msgpack.decode(message[PREFIX.size : place], type=kind)
        if _encoder.encode(header) != message[PREFIX.size : place]:
            raise ValueError("not the shortest encoding, fields in order")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError("The header of a message to an operator is malformed", got=str(error)[:120]) from error
    found: list[bytes] = []
    for _ in range(count):
        if place + LENGTH.size > len(message):
            raise WireError("A message to an operator ends too soon")
        (size,) = LENGTH.unpack_from(message, place)
        place += LENGTH.size
        if size > len(message) - place:
            raise WireError("A piece of a message to an operator is longer than the message")
        found.append(message[place : place + size])
        place += size
    if place != len(message):
        raise WireError("A message to an operator has bytes left over", got=f"{len(message) - place} bytes")
    return header, found
