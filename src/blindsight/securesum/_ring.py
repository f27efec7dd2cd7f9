"""Vectors over Z_2**bits, the ChaCha20 masks that hide them (RFC 8439), and their centred reading."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from blindsight.errors import ParameterError

from ._spec import SumSpec

__all__ = ["RingVector", "check_vector"]

Ints = npt.NDArray[np.int64]

_CHUNK_BYTES = 1 << 20
"""Keystream is made a mebibyte at a time: one call for most vectors, and bounded memory for the longest."""
_ZEROS = bytes(_CHUNK_BYTES)
_NONCE = bytes(16)
"""Block counter and nonce, all zero: every mask key is derived for one mask of one sum and used once."""


class RingVector:
    """A running sum of integer vectors and masks over Z_2**bits, little-endian on every machine.

    Parameters
    ----------
    spec : SumSpec
        For its length and bits.
    """

    def __init__(self, spec: SumSpec) -> None:
        self._dtype = np.dtype(f"<u{spec.bits // 8}")
        self._values = np.zeros(spec.length, dtype=self._dtype)
        self._buffer = bytearray(min(spec.vector_bytes, _CHUNK_BYTES))

    def add_integers(self, vector: Ints) -> None:
        """Add a vector of shape (length,), int64; negative values wrap as two's complement."""
        self._values += vector.view(np.uint64).astype(self._dtype)

    def add_bytes(self, raw: bytes | memoryview) -> None:
        """Add a masked vector as it came over the wire; the caller has checked its length."""
        self._values += np.frombuffer(raw, dtype=self._dtype)

    def add_mask(self, key: bytes) -> None:
        """Add the mask that a 32-byte key expands to."""
        self._apply(key, np.add)

    def subtract_mask(self, key: bytes) -> None:
        """Subtract the mask that a 32-byte key expands to."""
        self._apply(key, np.subtract)

    def _apply(self, key: bytes, operation: np.ufunc) -> None:
        stream = Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()
        per_chunk = len(self._buffer) // self._dtype.itemsize
        for start in range(0, self._values.size, per_chunk):
            part = self._values[start : start + per_chunk]
            stream.update_into(memoryview(_ZEROS)[: part.nbytes], self._buffer)
            operation(part, np.frombuffer(self._buffer, dtype=self._dtype, count=part.size), out=part)

    def to_bytes(self) -> bytes:
        """The vector as ``length * bits / 8`` bytes, little-endian."""
        return self._values.tobytes()

    def centred(self) -> Ints:
        """The vector read as signed integers in [-2**(bits-1), 2**(bits-1)); shape (length,), int64."""
        return self._values.view(self._dtype.str.replace("u", "i")).astype(np.int64)

    def __repr__(self) -> str:
        return f"RingVector(<{self._values.size} values>)"  # a party's vector before its masks are on is private


def check_vector(spec: SumSpec, vector: Ints) -> None:
    """Raise ParameterError unless the vector is what the specification allows a party to send.

    Parameters
    ----------
    spec : SumSpec
    vector : ndarray of shape (length,), int64
        With every ``|value| <= spec.max_abs``: together with ``n * max_abs < 2**(bits-1)``, which the
        specification guarantees, no total can wrap around.
    """
    if not isinstance(vector, np.ndarray) or vector.dtype != np.int64 or vector.shape != (spec.length,):
        got = f"{vector.dtype} {vector.shape}" if isinstance(vector, np.ndarray) else type(vector).__name__
        raise ParameterError("The vector to sum has the wrong type or shape", got=got, rule=f"int64 ({spec.length},)")
    low, high = int(vector.min()), int(vector.max())
    if max(high, -low) > spec.max_abs:
        # The message says neither where nor how large: it may travel to the coordinator as a refusal.
        raise ParameterError(
            "A coordinate of the vector is larger than the sum was planned for",
            rule=f"|value| <= max_abs = {spec.max_abs}; with {len(spec.participants)} parties a larger one "
            f"could overflow {spec.bits} bits",
            fix="plan the sum with a larger max_abs (and 64 bits), or clip the contributions",
        )
