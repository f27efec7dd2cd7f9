"""A signed file: one JSON value in canonical form, and an Ed25519 signature over it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from blindsight.errors import AuthenticationError, FormatError, StoreError
from blindsight.keys import Identity, PublicIdentity

__all__ = ["read_limited", "signed_bytes", "verified", "verified_before"]

T = TypeVar("T", bound=msgspec.Struct)


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    signature: str
    signed: msgspec.Raw


def signed_bytes(value: msgspec.Struct, identity: Identity, context: bytes) -> bytes:
    """Serialise a value with its signature: one line of JSON, keys sorted.

    Security
    --------
    The signature is over ``context``, ``|`` and the value's canonical bytes, so that what is signed for one purpose is
    nothing for another.
    """
    canonical = msgspec.json.encode(value, order="sorted")
    signature = identity.sign(context + b"|" + canonical)
    return msgspec.json.encode(_Envelope(signature.hex(), msgspec.Raw(canonical)), order="sorted") + b"\n"


def verified_before(data: bytes, kind: type[T], *, what: str) -> T:
    """Read a value whose signature was found good before it was kept: of one's own store, from nobody else.

    Raises
    ------
    FormatError
        Malformed, or of another version.
    """
    try:
        return msgspec.json.decode(msgspec.json.decode(data, type=_Envelope).signed, type=kind)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is malformed", got=str(error)[:200], fix="ask for it again") from error


def verified(data: bytes, kind: type[T], context: bytes, *, what: str, limit: int, signer: str) -> T:
    """Read a value that :func:`signed_bytes` wrote.

    Parameters
    ----------
    data : bytes
        Untrusted.
    kind : type
    context : bytes
    what : str
        Its name in messages.
    limit : int
        Longest accepted, in bytes.
    signer : str
        Field of the value that holds the signer's public key, in hexadecimal. That the key is the right one is for
        the caller to check.

    Raises
    ------
    FormatError
        Too long, malformed, or not in canonical form.
    AuthenticationError
        The signature is not by the key that the value names.
    """
    if len(data) > limit:
        raise FormatError(f"{what} is too long", got=f"{len(data)} bytes", rule=f"at most {limit}")
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        value = msgspec.json.decode(envelope.signed, type=kind)
        signature, key = bytes.fromhex(envelope.signature), bytes.fromhex(getattr(value, signer))
        canonical = msgspec.json.encode(value, order="sorted")
        again = msgspec.json.encode(_Envelope(signature.hex(), msgspec.Raw(canonical)), order="sorted") + b"\n"
    except (ValueError, RecursionError) as error:  # msgspec's errors and ParameterError are ValueErrors
        raise FormatError(f"{what} is malformed", got=str(error)[:200], fix="ask for it again") from error
    if again != data:
        raise FormatError(f"{what} is not in canonical form", rule="sorted keys, no spaces, one line")
    try:
        PublicIdentity(key).verify(signature, context + b"|" + canonical)
    except AuthenticationError as error:
        raise AuthenticationError(
            f"The signature of {what[:1].lower()}{what[1:]} does not hold",
            rule="Ed25519 over its exact bytes",
            fix="it was altered on the way: ask for it again, and compare the fingerprint by telephone",
        ) from error
    return value


def read_limited(path: str | os.PathLike[str], limit: int) -> bytes:
    """Read a file of at most ``limit`` bytes.

    Raises
    ------
    StoreError
        It cannot be read.
    FormatError
        It is longer.
    """
    name = Path(path).name
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise StoreError(f"{name!r} could not be read", got=error.strerror or type(error).__name__) from error
    if len(data) > limit:
        raise FormatError(f"{name!r} is too long", rule=f"at most {limit} bytes")
    return data
