"""What a store needs of whoever seals its values; ``blindsight.keys.Sealer`` is one."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Sealing"]


class Sealing(Protocol):
    """Authenticated encryption of values at rest."""

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Return ``plaintext`` sealed so that it opens only under the same ``context``."""

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Return the plaintext, or raise AuthenticationError."""
