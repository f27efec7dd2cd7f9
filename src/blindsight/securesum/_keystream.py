"""The ChaCha20 keystream of a key that is used once (RFC 8439): where a sum's secret values come from."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

__all__ = ["Keystream"]


class Keystream:
    """Bytes in order, from block 0 with a zero nonce.

    Parameters
    ----------
    key : bytes
        32 bytes, derived for this one use.
    """

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        return self._stream.update(bytes(count))

    def __repr__(self) -> str:
        return "Keystream(<redacted>)"
