"""SEAL 4's file format: building canonical files from arrays, reading the files that our own SEAL wrote.

Nothing in here ever reads bytes of another party. What a peer sends is our own format (residues and seeds, each
checked); from those this module builds a file whose every header field is *ours*, and SEAL loads that. SEAL 4.3.3's
loader accepts a scale of NaN, infinity or -1, so a header that a peer could shape must never reach it.

Layout (little-endian; SEAL's ``native/src/seal/serialization.h``, ``ciphertext.cpp``, ``plaintext.cpp``)::

    header      magic 0xA15E u16 | header size 16 u8 | major u8 | minor u8 | compression u8 | 0 u16 | file size u64
    ciphertext  header | parms_id 4 x u64 | NTT form u8 | size u64 | N u64 | primes u64 | scale f64 | correction u64
                | array | (seeded only:) header | generator u8 | seed 64 bytes
    plaintext   header | parms_id 4 x u64 | count u64 | scale f64 | array       (a secret key is one in NTT form)
    array       header | count u64 | count x u64
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsight.errors import FormatError

__all__ = ["SEED_BYTES", "SealFormat"]

Residues = npt.NDArray[np.uint64]

SEED_BYTES = 64
MAGIC = 0xA15E
HEADER = struct.Struct("<HBBBBHQ")
CIPHERTEXT = struct.Struct("<32sBQQQdQ")
PLAINTEXT = struct.Struct("<32sQd")
COUNT = struct.Struct("<Q")
UNCOMPRESSED, ZSTD = 0, 2
BLAKE2XB = 1
"""SEAL's default generator: an extendable-output function. The only one that we ask SEAL to expand."""

MAX_BODY_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class SealFormat:
    """Files of one SEAL version.

    Parameters
    ----------
    major, minor : int
        What this process's SEAL writes into its headers, read back from a file of its own.
    """

    major: int
    minor: int

    @classmethod
    def of(cls, own_file: bytes) -> SealFormat:
        """Learn the version from a file that this process's SEAL has just written."""
        magic, size, major, minor, _, _, _ = HEADER.unpack_from(own_file)
        if magic != MAGIC or size != HEADER.size or major != 4:
            raise FormatError(
                "This SEAL writes another file format",
                got=f"magic {magic:#x}, version {major}.{minor}",
                rule="SEAL 4, as bundled with tenseal 0.3.18",
                fix="pip install 'blindsight[he]'",
            )
        return cls(major=major, minor=minor)

    def _wrap(self, body: bytes) -> bytes:
        header = HEADER.pack(MAGIC, HEADER.size, self.major, self.minor, UNCOMPRESSED, 0, HEADER.size + len(body))
        return header + body

    def _array(self, values: Residues) -> bytes:
        return self._wrap(COUNT.pack(values.size) + np.ascontiguousarray(values, dtype="<u8").tobytes())

    def ciphertext(self, parms_id: bytes, parts: Residues, *, ntt: bool = False) -> bytes:
        """File of a full ciphertext; ``parts`` has shape (2 or more, primes, N), in coefficient or NTT form."""
        size, primes, degree = parts.shape
        head = CIPHERTEXT.pack(parms_id, ntt, size, degree, primes, 1.0, 1)
        return self._wrap(head + self._array(parts.reshape(-1)))

    def seeded(self, parms_id: bytes, c0: Residues, seed: bytes, *, ntt: bool = False) -> bytes:
        """File of a ciphertext whose second part SEAL expands from ``seed``; ``c0`` has shape (primes, N)."""
        primes, degree = c0.shape
        return self._wrap(
            CIPHERTEXT.pack(parms_id, ntt, 2, degree, primes, 1.0, 1)
            + self._array(c0.reshape(-1))
            + self._wrap(bytes([BLAKE2XB]) + seed)
        )

    def plaintext(self, values: npt.NDArray[np.uint64], parms_id: bytes = bytes(32)) -> bytes:
        """File of a plaintext: coefficients below t, or with a ``parms_id`` residues in NTT form (a secret key)."""
        return self._wrap(PLAINTEXT.pack(parms_id, values.size, 1.0) + self._array(values.reshape(-1)))

    def read_ciphertext(self, own_file: bytes, *, parts: int = 2, ntt: bool = False) -> Residues:
        """Residues, shape (parts, primes, N), of a ciphertext that this process's SEAL wrote."""
        body = self._body(own_file)
        _, found, size, degree, primes, _, _ = CIPHERTEXT.unpack_from(body)
        if found != ntt or size != parts:
            raise FormatError("SEAL wrote a ciphertext of an unexpected form", got=f"size {size}, NTT form {found}")
        return self._values(body, CIPHERTEXT.size, int(size * primes * degree)).reshape(size, primes, degree)

    def read_seeded(self, own_file: bytes, *, ntt: bool = False) -> tuple[bytes, Residues]:
        """Seed and first part, shape (primes, N), of a seeded ciphertext that this process's SEAL wrote."""
        body = self._body(own_file)
        _, found, size, degree, primes, _, _ = CIPHERTEXT.unpack_from(body)
        count = int(primes * degree)
        end = CIPHERTEXT.size + HEADER.size + COUNT.size + 8 * count
        tail = body[end + HEADER.size :]
        if found != ntt or size != 2 or len(tail) != 1 + SEED_BYTES or tail[0] != BLAKE2XB:
            raise FormatError("SEAL wrote a seeded ciphertext of an unexpected form", got=f"{len(body)} bytes")
        return tail[1:], self._values(body, CIPHERTEXT.size, count).reshape(primes, degree)

    def read_plaintext(self, own_file: bytes) -> npt.NDArray[np.uint64]:
        """Values, shape (count,), of a plaintext or secret key that this process's SEAL wrote."""
        body = self._body(own_file)
        _, count, _ = PLAINTEXT.unpack_from(body)
        return self._values(body, PLAINTEXT.size, int(count))

    def _body(self, own_file: bytes) -> bytes:
        _, _, _, _, compression, _, size = HEADER.unpack_from(own_file)
        if size != len(own_file) or compression not in (UNCOMPRESSED, ZSTD):
            raise FormatError("SEAL wrote a file of an unexpected form", got=f"compression {compression}")
        if compression == UNCOMPRESSED:
            return own_file[HEADER.size :]
        import zstandard

        body = zstandard.ZstdDecompressor().decompressobj().decompress(memoryview(own_file)[HEADER.size :])
        if len(body) > MAX_BODY_BYTES:
            raise FormatError("SEAL wrote a file that is too long", got=f"{len(body)} bytes")
        return bytes(body)

    def _values(self, body: bytes, offset: int, count: int) -> npt.NDArray[np.uint64]:
        (found,) = COUNT.unpack_from(body, offset + HEADER.size)
        start = offset + HEADER.size + COUNT.size
        if found != count or len(body) < start + 8 * count:
            raise FormatError("SEAL wrote an array of an unexpected length", got=str(found), rule=str(count))
        return np.frombuffer(body, dtype="<u8", count=count, offset=start)
