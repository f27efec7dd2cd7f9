"""The record owner's key: encrypting zero, decrypting."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import FormatError

from ._context import HeContext, load_seal
from ._residues import check_residues

__all__ = ["SecretKey"]

Residues = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


class SecretKey:
    """A SEAL secret key with what only its owner can do.

    Made by :meth:`generate` or :meth:`from_bytes`.

    Security
    --------
    Ternary secret, centred binomial errors of deviation 3.2 (at most 21), all drawn by SEAL from the operating
    system's generator. No public, relinearisation or Galois key is ever made. ``repr`` is redacted; Python cannot wipe
    memory.
    """

    def __init__(self, context: HeContext, seal_key: Any) -> None:
        seal = load_seal()
        self.context = context
        self._key = seal_key
        self._encryptor = seal.Encryptor(context.seal_context, seal_key)
        self._decryptor = seal.Decryptor(context.seal_context, seal_key)
        self._seal = seal

    @classmethod
    def generate(cls, context: HeContext) -> SecretKey:
        """Draw a new key."""
        return cls(context, load_seal().KeyGenerator(context.seal_context).secret_key())

    def to_bytes(self) -> bytes:
        """Residues of the key in NTT form, little-endian uint64, shape (data primes + 1, N). Seal before storing."""
        context = self.context
        with context.lock:
            self._key.save(context.scratch.path)
            return context.format.read_plaintext(context.scratch.read()).tobytes()

    @classmethod
    def from_bytes(cls, context: HeContext, data: bytes) -> SecretKey:
        """Rebuild a key.

        Raises
        ------
        FormatError
            Wrong length, or a residue that is not reduced.
        """
        shape = (len(context.key_primes), context.degree)
        if len(data) != 8 * shape[0] * shape[1]:
            raise FormatError("A stored key has the wrong length", got=f"{len(data)} bytes")
        residues = np.frombuffer(data, dtype="<u8").reshape(shape)
        try:
            check_residues(residues, context.key_primes)
            key = context.load("SecretKey", context.format.plaintext(residues, context.key_parms_id))
        except Exception as error:
            raise FormatError("A stored key is malformed", fix="restore it from a copy, or make a new one") from error
        return cls(context, key)

    def encrypt_zero_seeded(self) -> tuple[bytes, Residues]:
        """Fresh encryption of zero: the seed of its second part (64 bytes) and its first, shape (primes, N)."""
        context = self.context
        with context.lock:
            self._encryptor.encrypt_zero_symmetric().save(context.scratch.path)
            return context.format.read_seeded(context.scratch.read())

    def encrypt_zero(self) -> Residues:
        """Fresh encryption of zero, shape (2, primes, N)."""
        cipher = self._seal.Ciphertext()
        with self.context.lock:
            self._encryptor.encrypt_zero_symmetric(cipher)
            return self.context.residues(cipher)

    def decrypt(self, parts: Residues) -> Ints:
        """Decrypt to signed coefficients in [-t / 2, t / 2), shape (N,), int64.

        Parameters
        ----------
        parts : ndarray of shape (2, primes, N), uint64
            May be a peer's. Coefficients of the first part that are not owed may be anything (zero).
        """
        context = self.context
        cipher = context.ciphertext(parts)
        plain = self._seal.Plaintext()
        with context.lock:
            self._decryptor.decrypt(cipher, plain)
        values = np.zeros(context.degree, dtype=np.int64)
        count = int(plain.coeff_count())
        values[:count] = [plain[i] for i in range(count)]
        modulus = context.parameters.plain_modulus
        return np.where(values >= modulus // 2, values - modulus, values)

    def __repr__(self) -> str:
        return "SecretKey(<redacted>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a SecretKey is not pickled")
