"""Sealing at rest: authenticated encryption under a passphrase or a key file."""

from __future__ import annotations

import os
import secrets
import struct
import threading
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from blindsight.errors import AuthenticationError, FormatError, ParameterError, StoreError

from ._atomic import write_atomic

__all__ = ["Sealer", "create_key_file", "is_sealed"]

MAGIC = b"BSSEAL1\n"
KEY_FILE_MAGIC = b"blindsight-key-1 "
KEY_BYTES = 32
SALT_BYTES = 16
NONCE_BYTES = 12
TAG_BYTES = 16
MIN_PASSPHRASE_CHARS = 8
MAX_PASSPHRASE_CHARS = 1024
MAX_KEPT_KEYS = 64

KDF_KEY_FILE = 0
KDF_SCRYPT = 1
SCRYPT_LOG2_N = 16  # 64 MiB with r = 8: a tenth of a second for the owner, for every guess of a thief too
SCRYPT_R = 8
SCRYPT_P = 1
MIN_LOG2_N, MAX_LOG2_N = 14, 20  # above, a crafted file would make us allocate gigabytes

_HEADER = struct.Struct(f">8sBBBB{SALT_BYTES}s{NONCE_BYTES}s")  # magic, kdf, log2 n, r, p, salt, nonce


class Sealer:
    """Seals bytes so that they open only under the same secret and the same context.

    Made by :meth:`from_passphrase` or :meth:`from_key_file`.

    Security
    --------
    AES-256-GCM with a random 96-bit nonce; the key comes from the secret and a random
    16-byte salt by Scrypt (RFC 7914; passphrases) or HKDF-SHA-256 (RFC 5869; key files). Header and context
    are authenticated. Nonces are random, hence one salt must seal fewer than 2**32 values (NIST SP 800-38D,
    section 8.3); a store keeps one salt for its life. Each sealer made anew takes a fresh salt, unless it
    first opens something: then it goes on with that salt, so that a store of many sessions needs one key
    derivation. A sealed value shows its length. Neither passphrase nor keys appear in ``repr``; Python cannot
    wipe them from memory.
    """

    __slots__ = ("_kdf", "_keys", "_lock", "_own", "_secret")

    def __init__(self, kdf: int, secret: bytes) -> None:
        self._kdf = kdf
        self._secret = secret
        self._own: tuple[int, int, int, bytes] | None = None
        self._keys: dict[tuple[int, int, int, bytes], AESGCM] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_passphrase(cls, passphrase: str) -> Sealer:
        """Return a sealer for a passphrase of 8 to 1024 characters.

        Raises
        ------
        ParameterError
            The passphrase is too short or too long.
        """
        if not MIN_PASSPHRASE_CHARS <= len(passphrase) <= MAX_PASSPHRASE_CHARS:
            raise ParameterError(
                "The passphrase has an unusable length",
                got=f"{len(passphrase)} characters",
                rule=f"{MIN_PASSPHRASE_CHARS} to {MAX_PASSPHRASE_CHARS}",
                fix="use several random words, or a key file",
            )
        return cls(KDF_SCRYPT, passphrase.encode())

    @classmethod
    def from_key_file(cls, path: str | os.PathLike[str]) -> Sealer:
        """Return a sealer for a file that :func:`create_key_file` wrote.

        Raises
        ------
        StoreError
            The file cannot be read, or others than its owner may read it.
        FormatError
            It is not a key file.
        """
        name = Path(path).name
        limit = len(KEY_FILE_MAGIC) + 2 * KEY_BYTES + 1
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                data = file.read(limit + 1)
        except OSError as error:
            raise StoreError(
                f"The key file {name!r} could not be read", got=error.strerror or type(error).__name__
            ) from error
        if os.name == "posix" and status.st_mode & 0o077:
            raise StoreError(
                f"The key file {name!r} is open to others",
                got=f"mode {status.st_mode & 0o777:04o}",
                rule="its owner alone may read it",
                fix=f"chmod 600 {name}",
            )
        digits = data[len(KEY_FILE_MAGIC) : -1]
        if len(data) != limit or not data.startswith(KEY_FILE_MAGIC) or not data.endswith(b"\n"):
            raise FormatError(
                f"{name!r} is not a key file",
                fix="make one: python -c \"import blindsight; blindsight.keys.create_key_file('my.key')\"",
            )
        try:
            secret = bytes.fromhex(digits.decode("ascii"))
        except ValueError:
            raise FormatError(f"{name!r} is not a key file", rule="64 hexadecimal digits") from None
        if len(secret) != KEY_BYTES:
            raise FormatError(f"{name!r} is not a key file", rule="64 hexadecimal digits")
        return cls(KDF_KEY_FILE, secret)

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Return ``plaintext`` sealed; 56 bytes longer.

        Parameters
        ----------
        plaintext : bytes
        context : bytes
            What the value is and where it belongs; opening asks for the same. Not secret, not stored.
        """
        with self._lock:
            if self._own is None:
                cost = (SCRYPT_LOG2_N, SCRYPT_R, SCRYPT_P) if self._kdf == KDF_SCRYPT else (0, 0, 0)
                self._own = (*cost, secrets.token_bytes(SALT_BYTES))
            parameters = self._own
        nonce = secrets.token_bytes(NONCE_BYTES)
        header = _HEADER.pack(MAGIC, self._kdf, *parameters, nonce)
        return header + self._key(parameters).encrypt(nonce, plaintext, header + context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Return the plaintext.

        Raises
        ------
        FormatError
            The bytes are not sealed, are truncated, or ask for unreasonable work.
        AuthenticationError
            Wrong passphrase, key file or context, or altered bytes.
        """
        if len(sealed) < _HEADER.size + TAG_BYTES or not is_sealed(sealed):
            raise FormatError("These bytes were not sealed by Blindsight, or are truncated", got=f"{len(sealed)} bytes")
        header = bytes(sealed[: _HEADER.size])
        _, kdf, log2_n, r, p, salt, nonce = _HEADER.unpack(header)
        if kdf not in (KDF_KEY_FILE, KDF_SCRYPT):
            raise FormatError("Sealed bytes name an unknown key derivation", got=str(kdf))
        if kdf != self._kdf:
            raise AuthenticationError(
                f"These bytes were sealed with a {_NAMES[kdf]}",
                got=f"a {_NAMES[self._kdf]}",
                fix=f"give the {_NAMES[kdf]}",
            )
        sane = MIN_LOG2_N <= log2_n <= MAX_LOG2_N and r == SCRYPT_R and p == SCRYPT_P
        if not (sane if kdf == KDF_SCRYPT else (log2_n, r, p) == (0, 0, 0)):
            raise FormatError(
                "Sealed bytes ask for an unreasonable key derivation",
                got=f"log2 n = {log2_n}, r = {r}, p = {p}",
                rule=f"log2 n in {MIN_LOG2_N}..{MAX_LOG2_N}, r = {SCRYPT_R}, p = {SCRYPT_P}",
            )
        parameters = (log2_n, r, p, salt)
        try:
            plaintext = self._key(parameters).decrypt(nonce, bytes(sealed[_HEADER.size :]), header + context)
        except InvalidTag:
            raise AuthenticationError(
                f"Sealed bytes do not open: the {_NAMES[kdf]} is another, or they were altered or moved",
                rule="the same secret and the same place as when they were sealed",
                fix=f"check the {_NAMES[kdf]}; without it nothing can be recovered",
            ) from None
        with self._lock:
            if self._own is None:
                self._own = parameters
        return plaintext

    def _key(self, parameters: tuple[int, int, int, bytes]) -> AESGCM:
        with self._lock:
            cipher = self._keys.get(parameters)
            if cipher is None:
                log2_n, r, p, salt = parameters
                if self._kdf == KDF_SCRYPT:
                    key = Scrypt(salt=salt, length=KEY_BYTES, n=1 << log2_n, r=r, p=p).derive(self._secret)
                else:
                    key = HKDF(SHA256(), KEY_BYTES, salt, b"blindsight seal v1").derive(self._secret)
                if len(self._keys) >= MAX_KEPT_KEYS:
                    self._keys.clear()
                cipher = self._keys[parameters] = AESGCM(key)
            return cipher

    def __repr__(self) -> str:
        return f"Sealer({_NAMES[self._kdf]}, <redacted>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Sealer holds a secret and is not pickled")


_NAMES = {KDF_KEY_FILE: "key file", KDF_SCRYPT: "passphrase"}


def is_sealed(data: bytes) -> bool:
    """Whether ``data`` begins as sealed bytes do."""
    return bytes(data[: len(MAGIC)]) == MAGIC


def create_key_file(path: str | os.PathLike[str]) -> None:
    """Write a new random 256-bit key to a file of mode 0600; an existing file is refused.

    Raises
    ------
    StoreError
        The file exists or cannot be written.

    Security
    --------
    Whoever has the file opens what it seals. Without it nothing can be recovered: keep a copy elsewhere.
    """
    write_atomic(path, KEY_FILE_MAGIC + secrets.token_bytes(KEY_BYTES).hex().encode() + b"\n", replace=False)
