"""Federation messages, as docs/wire-formats.md has them, and the request by which a party enrols."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Party:
    """Somebody on the participant list."""

    name: str
    key: bytes


@dataclass(frozen=True, kw_only=True)
class Step:
    """One sum, described completely; ``fields`` may be changed at will before it is sent."""

    fields: dict[str, Any] = field(default_factory=dict)

    def but(self, **changes: Any) -> Step:
        """The same with some fields changed."""
        return Step(fields={**self.fields, **changes})

    def encode(self) -> bytes:
        """Its bytes, whose SHA-256 stands in the sum's specification."""
        return msgspec.msgpack.encode(self.fields)

    @property
    def digest(self) -> str:
        """SHA-256 of its bytes, hexadecimal."""
        return hashlib.sha256(self.encode()).hexdigest()

    def begin(self, *, recall: bool = False, ended: Sequence[str] = ()) -> bytes:
        """The message that begins it; ``recall`` asks for what the party keeps of the others' ledgers."""
        asked = {**({"recall": True} if recall else {}), **({"ended": list(ended)} if ended else {})}
        return msgspec.msgpack.encode({"type": "begin", "step": self.fields, **asked})


def hello() -> bytes:
    """Who is there?"""
    return msgspec.msgpack.encode({"type": "hello"})


def proceed(release_id: str, body: bytes, ledgers: object = None) -> bytes:
    """The next request of a sum that was begun, and what is said of ledgers beside it."""
    beside = {"ledgers": ledgers} if ledgers else {}
    return msgspec.msgpack.encode({"type": "continue", "release_id": release_id, "body": body, **beside})


def decode(answer: bytes) -> dict[str, Any]:
    """A party's answer."""
    message: dict[str, Any] = msgspec.msgpack.decode(answer)
    return message


def canonical(value: Any) -> bytes:
    """JSON in its one form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sign_list(content: dict[str, Any], signer: Ed25519PrivateKey) -> bytes:
    """A participant list as a file, by whatever key."""
    return signed_file(content, signer, b"blindsight participant list v1")


def signed_file(content: dict[str, Any], signer: Ed25519PrivateKey, context: bytes) -> bytes:
    """One line: a value and the signature over it."""
    signed = canonical(content)
    return b'{"signature":"' + signer.sign(context + b"|" + signed).hex().encode() + b'","signed":' + signed + b"}\n"


def enrolment_request(
    federation: str, name: str, identity: Ed25519PrivateKey, tls_key: ec.EllipticCurvePrivateKey
) -> bytes:
    """A signed request to be enrolled."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .sign(tls_key, hashes.SHA256())
    )
    content = {
        "version": 1,
        "federation": federation,
        "name": name,
        "contact": "nobody",
        "public_key": identity.public_key().public_bytes_raw().hex(),
        "certificate_request": request.public_bytes(serialization.Encoding.PEM).decode(),
        "date_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return signed_file(content, identity, b"blindsight enrolment request v1")
