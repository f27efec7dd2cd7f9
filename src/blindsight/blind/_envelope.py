"""The envelope of sealed requests and answers: header, body, MAC. See docs/wire-blind.md."""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blindsight.errors import AuthenticationError, WireError

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_ROWS",
    "Header",
    "Session",
    "close_envelope",
    "key_id_of",
    "new_salt",
    "open_envelope",
    "private_bytes",
    "public_bytes",
    "read_header",
    "split_envelope",
]

MAGIC = b"BSBL"
PREFIX = struct.Struct("<4sH")
TAG_BYTES = 16
KEY_BYTES = 32
MAX_HEADER_BYTES = 256
MAX_MESSAGE_BYTES = 1 << 30
MAX_ROWS = 1 << 20

Kind = Literal["sealed", "answer", "compare", "opened", "explain", "explained"]
Bytes16 = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a message is about. Everything here is public.

    Parameters
    ----------
    kind : {"sealed", "answer", "compare", "opened", "explain", "explained"}
    offer : bytes
        SHA-256 of the offer: parameters, encoder, schema, score scale, scorer's public key.
    key : bytes
        The owner's key id.
    request : bytes
        Random name of the request; an answer repeats it.
    salt : bytes
        Random, fresh in every message: makes the MAC key of this message alone.
    rows : int
        Number of records.
    registers : bool
        Whether the body starts with the owner's registration.
    """

    version: Literal[1] = 1
    kind: Kind
    offer: Bytes32
    key: Bytes16
    request: Bytes16
    salt: Bytes16
    rows: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]
    registers: bool = False


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Header)


class Session:
    """The MAC keys between one owner and one scorer.

    Security
    --------
    Static-static X25519 and HKDF-SHA-256 (RFC 7748, RFC 5869), bound to the offer and to both public keys; for each
    message a key of its own from its random salt, used once in AES-256-GMAC (NIST SP 800-38D) with a constant nonce.
    It authenticates; confidentiality of the records is the encryption scheme's, that of the rest the channel's.
    """

    def __init__(self, private: X25519PrivateKey, peer: bytes, *, offer: bytes, owner_public: bytes) -> None:
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError as error:
            raise AuthenticationError("A public key is not usable", rule="a point of X25519 of large order") from error
        info = b"blindsight blind mac v1" + owner_public
        self._root = HKDF(SHA256(), KEY_BYTES, offer, info).derive(shared)

    def _cipher(self, header: Header) -> AESGCM:
        info = b"message " + header.kind.encode()
        return AESGCM(HKDF(SHA256(), KEY_BYTES, header.salt, info).derive(self._root))

    def tag(self, header: Header, covered: memoryview) -> bytes:
        """MAC of everything before it."""
        return self._cipher(header).encrypt(bytes(12), b"", covered)

    def verify(self, header: Header, covered: memoryview, tag: bytes) -> None:
        """Raise AuthenticationError unless the tag is right."""
        try:
            self._cipher(header).decrypt(bytes(12), tag, covered)
        except InvalidTag:
            raise AuthenticationError(
                "The message does not authenticate",
                rule="a MAC under the keys of this owner and this offer",
                fix="it was altered on the way, or made with another key or offer: seal again",
            ) from None

    def __repr__(self) -> str:
        return "Session(<redacted>)"


def close_envelope(session: Session, header: Header, body: list[bytes]) -> bytes:
    """Compose a message."""
    encoded = _encoder.encode(header)
    message = bytearray().join([PREFIX.pack(MAGIC, len(encoded)), encoded, *body, bytes(TAG_BYTES)])
    view = memoryview(message)
    view[-TAG_BYTES:] = session.tag(header, view[:-TAG_BYTES])
    return bytes(view)


def read_header(message: bytes) -> tuple[Header, memoryview]:
    """Read what a message says of itself, without trusting it; the body is not looked at.

    Returns
    -------
    header : Header
    body : memoryview
        What lies between header and MAC.

    Raises
    ------
    WireError
        Not a message of blind scoring.
    """
    if not isinstance(message, bytes):
        raise WireError("A message must be bytes", got=type(message).__name__, rule="bytes, as they came")
    if not PREFIX.size + TAG_BYTES < len(message) <= MAX_MESSAGE_BYTES:
        raise WireError(
            "A message has an impossible length",
            got=f"{len(message)} bytes",
            rule=f"at most {MAX_MESSAGE_BYTES}, and at least a header and a MAC",
            fix="it was cut short on the way: send it again",
        )
    magic, length = PREFIX.unpack_from(message)
    start = PREFIX.size + length
    if magic != MAGIC or length > MAX_HEADER_BYTES or start + TAG_BYTES > len(message):
        raise WireError("These bytes are not a message of blind scoring", rule="docs/wire-blind.md, version 1")
    encoded = message[PREFIX.size : start]
    try:
        header = _decoder.decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(
            "A message's header is malformed",
            got=str(error)[:200],
            rule="docs/wire-blind.md, version 1",
            fix="it was altered on the way: send it again",
        ) from error
    if _encoder.encode(header) != encoded:
        raise WireError("A message's header is malformed", rule="the shortest encoding, fields in order")
    return header, memoryview(message)[start:-TAG_BYTES]


def split_envelope(message: bytes, *kinds: Kind, offer: bytes) -> tuple[Header, memoryview]:
    """Read a header, without trusting it; the body is not looked at.

    Returns
    -------
    header : Header
    body : memoryview
        What lies between header and MAC.

    Raises
    ------
    WireError
        Not a message of one of these kinds.
    AuthenticationError
        It is about another offer.
    """
    header, body = read_header(message)
    if header.kind not in kinds:
        raise WireError("This is another kind of message", got=header.kind, rule=" or ".join(kinds))
    if header.offer != offer:
        raise AuthenticationError(
            "The message belongs to another offer",
            rule="same model, encoder and parameters on both sides",
            fix="fetch the scorer's present offer and seal again",
        )
    return header, body


def open_envelope(session: Session, header: Header, message: bytes) -> None:
    """Verify the MAC of a message that :func:`split_envelope` has split."""
    session.verify(header, memoryview(message)[:-TAG_BYTES], message[-TAG_BYTES:])


def new_salt() -> bytes:
    """16 fresh random bytes."""
    return os.urandom(16)


def key_id_of(owner_public: bytes, material: bytes | memoryview) -> bytes:
    """Key id of an owner: commits to its public key and to its encryptions of zero."""
    digest = hashlib.sha256(b"blindsight owner v1" + owner_public)
    digest.update(material)
    return digest.digest()[:16]


def private_bytes(key: X25519PrivateKey) -> bytes:
    """Raw private key, 32 bytes."""
    return key.private_bytes(serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())


def public_bytes(key: X25519PrivateKey) -> bytes:
    """Raw public key, 32 bytes."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
