"""Long-term Ed25519 identities."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from blindsight.errors import AuthenticationError, FormatError, ParameterError, StoreError

from ._atomic import write_atomic
from ._sealer import Sealer

__all__ = ["Identity", "PublicIdentity"]

SEED_BYTES = 32
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
MAX_FILE_BYTES = 4096
_CONTEXT = b"blindsight identity v1"


@dataclass(frozen=True)
class PublicIdentity:
    """The public half of an identity.

    Parameters
    ----------
    raw : bytes of length 32
        The Ed25519 public key (RFC 8032).
    """

    raw: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.raw, bytes) or len(self.raw) != PUBLIC_BYTES:
            raise ParameterError("A public identity has the wrong form", rule=f"{PUBLIC_BYTES} bytes")

    def verify(self, signature: bytes, message: bytes) -> None:
        """Return if ``signature`` is this identity's over ``message``.

        Raises
        ------
        AuthenticationError
            It is not.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise AuthenticationError(
                f"A signature does not match the identity {self.fingerprint}",
                rule="Ed25519 over the exact message",
                fix="compare the identity's fingerprint with its owner over another channel",
            ) from error

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key, first 20 bytes in hexadecimal groups of four, for reading aloud."""
        digits = hashlib.sha256(self.raw).hexdigest()[:40]
        return "-".join(digits[i : i + 4] for i in range(0, 40, 4))

    def __repr__(self) -> str:
        return f"PublicIdentity({self.fingerprint})"


class Identity:
    """A long-term signing key; made by :meth:`generate` or :meth:`load`.

    Security
    --------
    Ed25519 from ``cryptography``. ``sign`` signs bytes as given: callers put a label for
    the protocol and the run in front, so that a signature for one purpose is none for another. The key does
    not appear in ``repr`` and does not pickle.
    """

    __slots__ = ("_key", "_public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = PublicIdentity(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Identity:
        """Return a fresh identity from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def public(self) -> PublicIdentity:
        """The public half."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over ``message``."""
        return self._key.sign(message)

    def save(self, path: str | os.PathLike[str], sealer: Sealer) -> None:
        """Write the sealed private key to a new file of mode 0600; an existing file is refused.

        Raises
        ------
        StoreError
            The file exists or cannot be written.
        """
        write_atomic(path, sealer.seal(self._key.private_bytes_raw(), _CONTEXT), replace=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str], sealer: Sealer) -> Identity:
        """Read an identity that :meth:`save` wrote.

        Raises
        ------
        StoreError
            The file cannot be read.
        FormatError
            It is not a sealed identity.
        AuthenticationError
            The passphrase or key file is another, or the file was altered.
        """
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise StoreError(
                f"The identity {Path(path).name!r} could not be read",
                got=error.strerror or type(error).__name__,
            ) from error
        if len(data) > MAX_FILE_BYTES:
            raise FormatError(f"{Path(path).name!r} is not an identity", rule=f"at most {MAX_FILE_BYTES} bytes")
        seed = sealer.open(data, _CONTEXT)
        if len(seed) != SEED_BYTES:
            raise FormatError(f"{Path(path).name!r} is not an identity", rule=f"a key of {SEED_BYTES} bytes")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def __repr__(self) -> str:
        return f"Identity(public={self._public.fingerprint}, private=<redacted>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an Identity holds a private key and is not pickled; use save and load")
