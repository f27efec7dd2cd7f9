"""SEAL behind arrays: everything that the record owner and the model holder both may do."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any, NewType

import numpy as np
import numpy.typing as npt

from blindsight.errors import CapacityError, MissingExtraError, ProtocolError, WireError

from ._parameters import HeParameters
from ._residues import check_residues
from ._scratch import Scratch
from ._sealfile import SEED_BYTES, SealFormat

__all__ = ["HeContext", "NttCipher", "NttPlain", "SealSession", "id_bytes", "load_seal"]

Residues = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

NttCipher = NewType("NttCipher", object)
NttPlain = NewType("NttPlain", object)


def load_seal() -> Any:
    """Import SEAL's binding, or say how to install it."""
    try:
        import tenseal.sealapi as seal
    except ImportError as error:
        raise MissingExtraError(
            "Blind scoring needs SEAL through TenSEAL", fix="pip install 'blindsight[he]'"
        ) from error
    return seal


class SealSession:
    """A SEAL context of either scheme, its primes, and the scratch file through which objects pass.

    Parameters
    ----------
    scheme : {"BFV", "CKKS"}
    degree : int
    bits : sequence of int
        Of each prime; the last is the key-switching prime.
    plain_modulus : int, optional
        Of BFV.
    """

    def __init__(self, scheme: str, degree: int, bits: Sequence[int], plain_modulus: int | None = None) -> None:
        seal = load_seal()
        self.lock = threading.RLock()
        self.scratch = Scratch()
        options = seal.EncryptionParameters(getattr(seal.SCHEME_TYPE, scheme))
        options.set_poly_modulus_degree(degree)
        try:
            moduli = seal.CoeffModulus.Create(degree, list(bits))
        except RuntimeError as error:
            raise CapacityError(
                "There are not enough primes of the wanted sizes", got=f"{list(bits)} bits at degree {degree}"
            ) from error
        options.set_coeff_modulus(moduli)
        if plain_modulus is not None:
            options.set_plain_modulus(plain_modulus)
        self.seal_context = seal.SEALContext(options, True, seal.SEC_LEVEL_TYPE.TC128)
        if not self.seal_context.parameters_set():
            raise CapacityError("SEAL refuses the parameters", got=str(self.seal_context.parameters_error_message()))
        values = [int(modulus.value()) for modulus in moduli]
        self.primes: tuple[int, ...] = tuple(values[:-1])
        self.key_primes: tuple[int, ...] = tuple(values)
        self.modulus = math.prod(self.primes)
        self.degree = degree
        """N."""
        self._first = self.seal_context.first_parms_id()
        self.parms_id = id_bytes(self._first)
        self.key_parms_id = id_bytes(self.seal_context.key_parms_id())
        seal.Plaintext("1").save(self.scratch.path)
        self.format = SealFormat.of(self.scratch.read())
        self._seal = seal
        self.evaluator = seal.Evaluator(self.seal_context)

    def level_id(self, dropped: int) -> Any:
        """SEAL's name of the level at which so many of the last data primes are gone."""
        level = self.seal_context.first_context_data()
        for _ in range(dropped):
            level = level.next_context_data()
        return level.parms_id()

    def load(self, kind: str, file: bytes) -> Any:
        """Let SEAL load a canonical file of ours; it validates against the context once more."""
        value = getattr(self._seal, kind)()
        with self.lock:
            self.scratch.write(file)
            try:
                value.load(self.seal_context, self.scratch.path)
            except (RuntimeError, ValueError, IndexError) as error:
                raise WireError(
                    f"SEAL refuses a {kind.lower()}", rule="reduced residues of the agreed shape"
                ) from error
            finally:
                self.scratch.clear()
        return value


class HeContext(SealSession):
    """Ciphertexts as arrays of residues under one BFV parameter set. Holds no key.

    Parameters
    ----------
    parameters : HeParameters

    Notes
    -----
    A ciphertext is an array of shape (2, primes, N) in coefficient form. Methods take a lock: SEAL's objects pass
    through one scratch file.
    """

    def __init__(self, parameters: HeParameters) -> None:
        super().__init__(
            "BFV", parameters.degree, [*parameters.prime_bits, parameters.special_bits], parameters.plain_modulus
        )
        self.parameters = parameters

    # ---- arrays to SEAL

    def ciphertext(self, parts: npt.NDArray[np.unsignedinteger[Any]]) -> Any:
        """SEAL ciphertext from residues of shape (2, primes, N), which may be a peer's: they are checked here."""
        self._check(parts, (2, len(self.primes), self.degree))
        if not parts[1].any():
            raise WireError("A ciphertext is transparent", rule="its second part is not zero")
        return self.load("Ciphertext", self.format.ciphertext(self.parms_id, parts.astype(np.uint64, copy=False)))

    def seeded_ciphertext(self, seed: bytes, c0: npt.NDArray[np.unsignedinteger[Any]]) -> Any:
        """SEAL ciphertext from a first part of shape (primes, N) and the seed of the second; both may be a peer's.

        *Security*: SEAL expands the seed with BLAKE2Xb, an extendable-output function modelled as a random oracle. A
        peer may *choose* the seed, but not the polynomial that comes out: to steer it takes as many evaluations as
        guessing would.
        """
        if len(seed) != SEED_BYTES:
            raise WireError("A seed has the wrong length", got=f"{len(seed)} bytes", rule=f"{SEED_BYTES} bytes")
        self._check(c0, (len(self.primes), self.degree))
        return self.load("Ciphertext", self.format.seeded(self.parms_id, c0.astype(np.uint64, copy=False), seed))

    def _check(self, residues: npt.NDArray[np.unsignedinteger[Any]], shape: tuple[int, ...]) -> None:
        if residues.shape != shape:
            raise WireError("A ciphertext has the wrong shape", got=str(residues.shape), rule=str(shape))
        check_residues(residues, self.primes)

    # ---- SEAL to arrays

    def residues(self, cipher: Any) -> Residues:
        """Residues, shape (2, primes, N), of a ciphertext in coefficient form."""
        with self.lock:
            cipher.save(self.scratch.path)
            return self.format.read_ciphertext(self.scratch.read())

    def expand(self, seed: bytes, c0: npt.NDArray[np.unsignedinteger[Any]]) -> Residues:
        """Both parts, shape (2, primes, N), of a seeded ciphertext."""
        self._check(c0, (len(self.primes), self.degree))
        # the first part, which is here already, is left out of what SEAL writes and compresses
        parts = self.residues(self.seeded_ciphertext(seed, np.zeros_like(c0))).copy()
        parts[0] = c0
        return parts

    # ---- products

    def prepare_cipher(self, cipher: Any) -> NttCipher:
        """Transform a SEAL ciphertext for :meth:`inner_product`."""
        with self.lock:
            self.evaluator.transform_to_ntt_inplace(cipher)
        return NttCipher(cipher)

    def prepare_plain(self, coefficients: Ints) -> NttPlain | None:
        """Transform a signed integer polynomial, shape (N,), \\|c\\| < t / 2; None if it is zero.

        SEAL refuses a zero factor (the product would be transparent), and there is nothing to compute.
        """
        if not coefficients.any():
            return None
        modulus = self.parameters.plain_modulus
        if coefficients.shape != (self.degree,) or 2 * int(np.abs(coefficients).max()) >= modulus:
            raise CapacityError(
                "A polynomial does not fit the plaintext modulus", rule=f"{self.degree} coefficients below t / 2"
            )
        residues = (coefficients & (modulus - 1)).astype(np.uint64)  # the modulus is a power of two
        plain = self.load("Plaintext", self.format.plaintext(residues))
        with self.lock:
            self.evaluator.transform_to_ntt_inplace(plain, self._first)
        return NttPlain(plain)

    def at_key_level(self, coefficients: Residues) -> Residues:
        """NTT form of a plaintext modulo the data primes and the key-switching prime: the form of SEAL's keys.

        Parameters
        ----------
        coefficients : ndarray of shape (N,), uint64
            Below t; from t / 2 on they are read as negative.

        Returns
        -------
        ndarray of shape (primes + 1, N), uint64
        """
        plain = self.load("Plaintext", self.format.plaintext(coefficients))
        with self.lock:
            self.evaluator.transform_to_ntt_inplace(plain, self.seal_context.key_parms_id())
            plain.save(self.scratch.path)
            values = self.format.read_plaintext(self.scratch.read())
        return values.reshape(len(self.key_primes), self.degree)

    def inner_product(self, ciphers: Sequence[NttCipher], plains: Sequence[NttPlain | None]) -> Residues:
        """Residues, shape (2, primes, N), of the sum of products; zero where every factor is None."""
        total: Any = None
        with self.lock:
            try:
                for cipher, plain in zip(ciphers, plains, strict=True):
                    if plain is None:
                        continue
                    product = self._seal.Ciphertext()
                    self.evaluator.multiply_plain(cipher, plain, product)
                    if total is None:
                        total = product
                    else:
                        self.evaluator.add_inplace(total, product)
                if total is None:
                    return np.zeros((2, len(self.primes), self.degree), dtype=np.uint64)
                self.evaluator.transform_from_ntt_inplace(total)
            except RuntimeError as error:
                # a transparent result, which ciphertexts with second parts expanded from seeds do not give
                raise ProtocolError("SEAL refuses a product", got=str(error)) from error
            return self.residues(total)


def id_bytes(parms_id: Sequence[int]) -> bytes:
    """SEAL's name of a parameter level, as its files have it; 32 bytes."""
    return b"".join(int(word).to_bytes(8, "little") for word in parms_id)
