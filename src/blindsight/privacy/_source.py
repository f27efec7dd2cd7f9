"""Where noise bits come from: a ChaCha20 keystream under a key from the operating system."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

__all__ = ["NoiseSource"]

KEY_BYTES = 32
NONCE_BYTES = 16
REKEY_BYTES = 1 << 32


class NoiseSource(ABC):
    """A stream of uniform 64-bit words for integer noise.

    Attributes
    ----------
    is_secure : bool
        False marks every ledger event made with it as giving no privacy guarantee.
    """

    is_secure: bool = False

    @abstractmethod
    def uint64(self, size: int) -> npt.NDArray[np.uint64]:
        """Return ``size`` independent uniform words, shape (size,), uint64."""

    @staticmethod
    def secure() -> NoiseSource:
        """Return the source for production: ChaCha20 keyed by ``os.urandom``.

        Security
        --------
        The key is drawn anew every 2**32 bytes and in every new process, so that a fork never draws its
        parent's noise a second time. There is no way to set the key or a seed.
        """
        return _SystemSource()


class _SystemSource(NoiseSource):
    is_secure = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = -1
        self._left = 0
        self._stream: CipherContext | None = None

    def uint64(self, size: int) -> npt.NDArray[np.uint64]:
        with self._lock:
            if self._stream is None or self._pid != os.getpid() or self._left < 8 * size:
                self._stream = keystream(os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES))
                self._pid, self._left = os.getpid(), REKEY_BYTES
            self._left -= 8 * size
            return words(self._stream, size)

    def __repr__(self) -> str:
        return "NoiseSource.secure()"


def keystream(key: bytes, nonce: bytes) -> CipherContext:
    """Return a ChaCha20 encryptor; encrypting zeros yields its keystream."""
    return Cipher(ChaCha20(key, nonce), mode=None).encryptor()


def words(stream: CipherContext, size: int) -> npt.NDArray[np.uint64]:
    """Return the next ``size`` little-endian 64-bit words of a keystream, shape (size,)."""
    return np.frombuffer(stream.update(bytes(8 * size)), dtype="<u8").astype(np.uint64, copy=False)
