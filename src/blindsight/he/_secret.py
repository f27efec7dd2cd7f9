"""The record owner's key: encrypting zero, decrypting."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import FormatError

from ._context import HeContext, SealSession, load_seal
from ._negacyclic import Negacyclic, Spectrum
from ._residues import check_residues
from ._words import negacyclic_product

__all__ = ["SecretKey", "key_bytes", "key_of"]

Residues = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


def key_bytes(context: SealSession, key: Any) -> bytes:
    """Residues of a SEAL secret key in NTT form, little-endian uint64, shape (data primes + 1, N)."""
    with context.lock:
        key.save(context.scratch.path)
        return context.format.read_plaintext(context.scratch.read()).tobytes()


def key_of(context: SealSession, data: bytes) -> Any:
    """SEAL secret key from :func:`key_bytes`; FormatError for anything else."""
    shape = (len(context.key_primes), context.degree)
    if len(data) != 8 * shape[0] * shape[1]:
        raise FormatError("A stored key has the wrong length", got=f"{len(data)} bytes")
    residues = np.frombuffer(data, dtype="<u8").reshape(shape)
    try:
        check_residues(residues, context.key_primes)
        return context.load("SecretKey", context.format.plaintext(residues, context.key_parms_id))
    except Exception as error:
        raise FormatError("A stored key is malformed", fix="restore it from a copy, or make a new one") from error


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
        self._ring = Negacyclic(context.degree)
        self._spectrum: Spectrum | None = None

    @classmethod
    def generate(cls, context: HeContext) -> SecretKey:
        """Draw a new key."""
        return cls(context, load_seal().KeyGenerator(context.seal_context).secret_key())

    def to_bytes(self) -> bytes:
        """Residues of the key in NTT form, little-endian uint64, shape (data primes + 1, N). Seal before storing."""
        return key_bytes(self.context, self._key)

    @classmethod
    def from_bytes(cls, context: HeContext, data: bytes) -> SecretKey:
        """Rebuild a key.

        Raises
        ------
        FormatError
            Wrong length, or a residue that is not reduced.
        """
        return cls(context, key_of(context, data))

    def ternary(self) -> npt.NDArray[np.int8]:
        """The key's coefficients, each -1, 0 or 1; shape (N,), int8. As secret as the key, in a fraction of its bytes.

        ``(0, floor(q / t))`` has the phase ``floor(q / t) s``, and so decrypts to the ternary s itself.
        """
        context = self.context
        parts = np.zeros((2, len(context.primes), context.degree), dtype=np.uint64)
        scale = context.modulus >> context.parameters.plain_bits
        parts[1, :, 0] = [scale % p for p in context.primes]
        return self.decrypt(parts).astype(np.int8)

    @classmethod
    def from_ternary(cls, context: HeContext, coefficients: npt.NDArray[np.int8]) -> SecretKey:
        """Rebuild a key from its coefficients.

        Raises
        ------
        FormatError
            Another shape, a coefficient beyond -1, 0 and 1, or so few that are not zero that no honest generator
            drew them (fewer than half; two thirds is the mean, with a deviation of .0074 at N = 4096).
        """
        if coefficients.shape != (context.degree,) or int(np.abs(coefficients).max()) > 1:
            raise FormatError("A stored key is malformed", rule=f"{context.degree} coefficients of -1, 0 or 1")
        if 2 * np.count_nonzero(coefficients) < context.degree:
            raise FormatError("A stored key is nearly all zeros", rule="no honest generator draws it")
        modulus = context.parameters.plain_modulus
        residues = (coefficients.astype(np.int64) & (modulus - 1)).astype(np.uint64)
        return cls.from_bytes(context, context.at_key_level(residues).tobytes())

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
        values = np.zeros(context.degree, dtype=np.int64)
        with context.lock:
            self._decryptor.decrypt(cipher, plain)
            plain.save(context.scratch.path)
            found = context.format.read_plaintext(context.scratch.read())
        values[: len(found)] = found
        modulus = context.parameters.plain_modulus
        return np.where(values >= modulus // 2, values - modulus, values)

    def multiply(self, words: Residues) -> Residues:
        """Product of a polynomial with this key's, modulo ``2**64``: the secret part of a phase, unrounded.

        Parameters
        ----------
        words : ndarray of shape (N,), uint64

        Returns
        -------
        ndarray of shape (N,), uint64
            Together with the polynomial it gives the key away.
        """
        if self._spectrum is None:
            self._spectrum = self._ring.spectrum(self.ternary().astype(np.int64))
        return negacyclic_product(self._ring, words, self._spectrum)

    def __repr__(self) -> str:
        return "SecretKey(<redacted>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a SecretKey is not pickled")
