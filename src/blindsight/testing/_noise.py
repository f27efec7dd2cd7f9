"""A seeded source of noise: reproducible, hence without any privacy."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from blindsight.privacy import NoiseSource
from blindsight.privacy._source import NONCE_BYTES, keystream, words

__all__ = ["InsecureSeededSource"]


class InsecureSeededSource(NoiseSource):
    """The same noise for the same seed. Events made with it say "no privacy guarantee".

    Parameters
    ----------
    seed : int or str
    """

    is_secure = False

    def __init__(self, seed: int | str) -> None:
        self._seed = seed
        key = hashlib.sha256(f"blindsight insecure seed|{seed!r}".encode()).digest()
        self._stream = keystream(key, bytes(NONCE_BYTES))

    def uint64(self, size: int) -> npt.NDArray[np.uint64]:
        """Return the next ``size`` words, shape (size,), uint64."""
        return words(self._stream, size)

    def __repr__(self) -> str:
        return f"InsecureSeededSource({self._seed!r})"
