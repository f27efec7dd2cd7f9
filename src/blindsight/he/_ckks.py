"""CKKS through SEAL, behind arrays: encoding, encryption, switching down; decryption of ciphertexts of several parts.

There are no evaluation keys. A ciphertext of s parts decrypts to ``c_0 + c_1 s + c_2 s**2 + ...``: products are left
unrelinearised (SEAL 4, ``Evaluator::multiply``; Brakerski, Vaikuntanathan, CRYPTO 2011), which costs parts and saves
key-switching keys, their parsing, and the assumption of circular security that they need.
"""

from __future__ import annotations

import math
import secrets
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import WireError

from ._ckks_parameters import CkksHeParameters
from ._context import SealSession, id_bytes, load_seal
from ._negacyclic import Negacyclic
from ._residues import add_mod, check_residues
from ._sealfile import SEED_BYTES
from ._secret import key_bytes, key_of

__all__ = ["CkksContext", "CkksKey", "centred", "slots_of"]

Residues = npt.NDArray[np.uint64]
AnyResidues = npt.NDArray[np.unsignedinteger[Any]]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class CkksContext(SealSession):
    """Ciphertexts as arrays of residues under one CKKS parameter set. Holds no key.

    Parameters
    ----------
    parameters : CkksHeParameters

    Notes
    -----
    Fresh ciphertexts are arrays of shape (2, primes, N) in NTT form, as SEAL has them: sums, and products with scalars
    and of two ciphertexts, are those of single residues. Answers are of shape (parts, kept, N) in coefficient form.
    """

    def __init__(self, parameters: CkksHeParameters) -> None:
        super().__init__("CKKS", parameters.degree, parameters.bits)
        self.parameters = parameters
        if self.primes != parameters.primes:
            raise WireError("SEAL chose other primes than planned", rule="the largest of 27 bits")
        self.kept_primes = self.primes[: parameters.kept]
        self.last_id = self.level_id(parameters.count - parameters.kept)
        self.last_parms_id = id_bytes(self.last_id)
        self.negacyclic = Negacyclic(self.degree, self.kept_primes)

    def expand(self, seed: bytes, c0: AnyResidues) -> Residues:
        """Both parts, shape (2, primes, N), of a fresh seeded ciphertext; both arguments may be a peer's."""
        # the first part, which is here already, is left out of what SEAL writes and compresses
        parts = self._expand(self.parms_id, self.primes, seed, np.zeros_like(c0), ntt=True).copy()
        check_residues(c0, self.primes)
        parts[0] = c0
        return parts

    def expand_zero(self, seed: bytes, b: AnyResidues) -> Residues:
        """Both parts, shape (2, kept, N) in *coefficient* form, of a seeded encryption of zero modulo the kept primes.

        Parameters
        ----------
        seed : bytes
            64 bytes.
        b : ndarray of shape (kept, N)
            First part in NTT form. May be a peer's, like the seed: see :meth:`HeContext.seeded_ciphertext`.
        """
        return self._expand(self.last_parms_id, self.kept_primes, seed, b, ntt=False)

    def _expand(self, level: bytes, primes: tuple[int, ...], seed: bytes, c0: AnyResidues, *, ntt: bool) -> Residues:
        if len(seed) != SEED_BYTES or c0.shape != (len(primes), self.degree):
            raise WireError("A seeded ciphertext has the wrong shape", got=f"{len(seed)} bytes, {c0.shape}")
        check_residues(c0, primes)
        file = self.format.seeded(level, c0.astype(np.uint64, copy=False), seed, ntt=True)
        cipher = self.load("Ciphertext", file)
        with self.lock:
            if not ntt:
                self.evaluator.transform_from_ntt_inplace(cipher)
            cipher.save(self.scratch.path)
            return self.format.read_ciphertext(self.scratch.read(), ntt=ntt)

    def switch_down(self, parts: Residues) -> Residues:
        """Divide by the primes that are not kept and round: (parts, primes, N), NTT form, to (parts, kept, N), not NTT.

        Each part is off by at most half a unit, and a little: the phase by the sum of that times powers of the key.
        """
        return self._from_ntt(parts, 0)

    def coefficients(self, parts: Residues) -> Residues:
        """Coefficient form of residues in NTT form, both of shape (2 or more, kept, N)."""
        return self._from_ntt(parts, self.parameters.count - self.parameters.kept)

    @cached_property
    def _ring(self) -> SealSession:
        """The same residues in a BFV context, where SEAL divides them in coefficient form.

        In a CKKS context it divides in NTT form only, with more than twice as many transforms.
        """
        return SealSession("BFV", self.degree, self.parameters.bits, 2)

    def _from_ntt(self, parts: Residues, dropped: int) -> Residues:
        # SEAL refuses ciphertexts whose later parts are all zero, which an owner could bring about for some weights and
        # not for others. A random multiple of the primes to be divided by keeps that from being seen: what it becomes,
        # a constant polynomial, is known exactly and taken away again.
        ring, kept, last = self._ring, self.kept_primes, self.parameters.count - self.parameters.kept
        primes = self.primes[: len(self.primes) - dropped]
        constant, divisor = secrets.randbelow(math.prod(kept)), math.prod(primes[len(kept) :])
        parts = parts.copy()
        parts[1] = add_mod(parts[1], np.array([[constant * divisor % p] for p in primes], dtype=np.uint64), primes)
        level = id_bytes(ring.level_id(dropped))
        cipher = ring.load("Ciphertext", ring.format.ciphertext(level, parts, ntt=True))
        with ring.lock:
            ring.evaluator.transform_from_ntt_inplace(cipher)
            ring.evaluator.mod_switch_to_inplace(cipher, ring.level_id(last))
            cipher.save(ring.scratch.path)
            found = ring.format.read_ciphertext(ring.scratch.read(), parts=len(parts)).copy()
        minus = np.array([[-constant % p] for p in kept], dtype=np.uint64)
        found[1, :, :1] = add_mod(found[1, :, :1], minus, kept)
        return found


class CkksKey:
    """The record owner's CKKS key.

    Made by :meth:`generate` or :meth:`from_bytes`.

    Security
    --------
    As :class:`SecretKey`: ternary, drawn by SEAL; no evaluation key is ever made. What :meth:`phase` returns is *not*
    for the other side's eyes: an approximate decryption carries the noise, and with it the key (IND-CPA-D: Li,
    Micciancio, EUROCRYPT 2021).
    """

    def __init__(self, context: CkksContext, seal_key: Any) -> None:
        seal = load_seal()
        self.context = context
        self._seal = seal
        self._key = seal_key
        self._encryptor = seal.Encryptor(context.seal_context, seal_key)
        self._encoder = seal.CKKSEncoder(context.seal_context)
        self._spectrum: npt.NDArray[np.complex128] | None = None

    @classmethod
    def generate(cls, context: CkksContext) -> CkksKey:
        """Draw a new key."""
        return cls(context, load_seal().KeyGenerator(context.seal_context).secret_key())

    def to_bytes(self) -> bytes:
        """Residues in NTT form, little-endian uint64, shape (data primes + 1, N). Seal before storing."""
        return key_bytes(self.context, self._key)

    @classmethod
    def from_bytes(cls, context: CkksContext, data: bytes) -> CkksKey:
        """Rebuild a key; FormatError for a wrong length or a residue that is not reduced."""
        return cls(context, key_of(context, data))

    def encrypt(self, slots: Floats, scale: float) -> Residues:
        """Encrypt up to N / 2 real numbers; shape (2, primes, N), NTT form."""
        context, cipher = self.context, self._seal.Ciphertext()
        with context.lock:
            self._encryptor.encrypt_symmetric(self._encode(slots, scale), cipher)
            cipher.save(context.scratch.path)
            return context.format.read_ciphertext(context.scratch.read(), ntt=True)

    def encrypt_seeded(self, slots: Floats, scale: float) -> tuple[bytes, Residues]:
        """The same as a seed and a first part, shape (primes, N)."""
        context = self.context
        with context.lock:
            self._encryptor.encrypt_symmetric(self._encode(slots, scale)).save(context.scratch.path)
            return context.format.read_seeded(context.scratch.read(), ntt=True)

    def encrypt_zero_seeded(self) -> tuple[bytes, Residues]:
        """Encryption of zero modulo the kept primes: the seed of its second part, and its first, shape (kept, N)."""
        context = self.context
        with context.lock:
            self._encryptor.encrypt_zero_symmetric(context.last_id).save(context.scratch.path)
            return context.format.read_seeded(context.scratch.read(), ntt=True)

    def _encode(self, slots: Floats, scale: float) -> Any:
        plain = self._seal.Plaintext()
        self._encoder.encode(slots.tolist(), scale, plain)
        return plain

    def secret(self) -> Ints:
        """Coefficients of the key, -1, 0 and 1; shape (N,)."""
        context = self.context
        rows = np.frombuffer(self.to_bytes(), dtype="<u8").reshape(-1, context.degree)[: context.parameters.kept]
        found = context.coefficients(np.stack([rows, rows]))[0, 0].astype(np.int64)
        return np.where(found > 1, found - context.primes[0], found)

    def phase(self, parts: Residues) -> Residues:
        """``c_0 + c_1 s + c_2 s**2 + ...`` by Horner's rule; (parts, kept, N) to (kept, N), in coefficient form."""
        context = self.context
        ring = context.negacyclic
        if self._spectrum is None:
            self._spectrum = ring.spectrum(self.secret())[None]
        total = parts[-1]
        for part in parts[-2::-1]:
            product = ring.sum_of_products(self._spectrum, ring.digits(total)[None])
            total = add_mod(product, part, context.kept_primes)
        return np.asarray(total)

    def __repr__(self) -> str:
        return "CkksKey(<redacted>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a CkksKey is not pickled")


def centred(residues: Residues, primes: tuple[int, ...]) -> Floats:
    """Integers modulo the product of the primes, centred around 0, shape (primes, n) to (n,); relative error 2**-50.

    Mixed radix digits (Garner 1959), of which the leading one is centred, so that small negative numbers do not cancel.
    """
    digits: list[Ints] = []
    for i, p in enumerate(primes):
        digit = residues[i].astype(np.int64)
        for before, q in zip(digits, primes, strict=False):
            digit = (digit - before) % p * pow(q, -1, p) % p
        digits.append(digit)
    top = digits[-1]
    value = np.where(2 * top >= primes[-1], top - primes[-1], top).astype(np.float64)
    for digit, p in zip(digits[-2::-1], primes[-2::-1], strict=True):
        value = value * p + digit
    return value


def slots_of(coefficients: Floats, slots: int) -> Floats:
    """Real parts of the first slots of a real polynomial, shape (N,): its values at ``exp(i pi 3**k / N)``.

    What SEAL's ``CKKSEncoder::decode`` computes, for coefficients that need not be residues.
    """
    degree = len(coefficients)
    values = np.fft.ifft(coefficients * np.exp(1j * np.pi * np.arange(degree) / degree)) * degree
    powers = np.array([pow(3, k, 2 * degree) for k in range(slots)])
    return np.ascontiguousarray(values.real[(powers - 1) // 2])
