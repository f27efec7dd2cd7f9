"""What parties show each other of their ledgers, beside a sum's messages: docs/wire-formats.md, from ``ledgers`` on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .messages import canonical, signed_file
from .sums import CONFIRM, MASK, SHARE

CONTEXT = b"blindsight ledger head v1"
NO_LINES = hashlib.sha256(b"blindsight ledger v1|genesis").hexdigest()
UNITS = ("record", "person", "party")


def position(count: int = 0, head: str = NO_LINES, written_off: int = 0) -> dict[str, Any]:
    """Where one ledger stands."""
    return {"written_off": written_off, "count": count, "head": head}


def state(signer: Ed25519PrivateKey, **content: Any) -> bytes:
    """A statement by a key: where a party's ledgers stand in a sum, over the body of its request to share."""
    return signed_file({"public_key": signer.public_key().public_bytes_raw().hex(), **content}, signer, CONTEXT)


def stated(statement: bytes) -> dict[str, Any]:
    """What a statement says, after its signature was checked under the key that it names."""
    content: dict[str, Any] = json.loads(statement)["signed"]
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(content["public_key"]))
    key.verify(bytes.fromhex(json.loads(statement)["signature"]), CONTEXT + b"|" + canonical(content))
    return content


def countersigned(statement: bytes, witness: str) -> bytes:
    """What a witness signs."""
    said = {"statement": hashlib.sha256(statement).hexdigest(), "witness": witness}
    return b"blindsight ledger witness v1|" + canonical(said)


class Relay:
    """What was said in one sum, and what is handed on beside each request."""

    def __init__(self) -> None:
        self.recalled: dict[str, dict[str, bytes]] = {}
        self.heads: dict[str, bytes] = {}
        self.signatures: dict[str, dict[str, bytes]] = {}

    def take(self, name: str, told: Mapping[str, Mapping[str, bytes]] | None) -> None:
        """Beside a party's answer."""
        for whose, statement in (told or {}).get("recalled", {}).items():
            self.recalled.setdefault(whose, {})[name] = statement
        self.heads.update((told or {}).get("heads", {}))
        for whose, signature in (told or {}).get("signatures", {}).items():
            self.signatures.setdefault(whose, {})[name] = signature

    def beside(self, phase: int, to: str) -> dict[str, dict[str, bytes]]:
        """``ledgers`` of an honest request; empty where there is nothing to say."""
        said = {
            SHARE: {"recalled": self.recalled.get(to, {})},
            MASK: {"heads": self.heads},
            CONFIRM: {"signatures": self.signatures.get(to, {})},
        }.get(phase, {})
        return {kind: dict(by_party) for kind, by_party in said.items() if by_party}
