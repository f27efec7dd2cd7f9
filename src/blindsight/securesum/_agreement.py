"""Fresh X25519 key pairs (RFC 7748) and the keys derived from them with HKDF-SHA256 (RFC 5869)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blindsight.errors import AuthenticationError

from ._hashing import PROTOCOL

__all__ = [
    "KEY_BYTES",
    "KeyPair",
    "OwnKeys",
    "check_public_key",
    "derive",
    "hkdf_sha256",
    "mask_key",
    "seed_key",
    "share_key",
]

KEY_BYTES = 32
_FIELD = (1 << 255) - 19


class KeyPair:
    """An X25519 key pair that lives for one sum.

    Security
    --------
    ``secret`` leaves this object only to be shared (mask key) or persisted by the party; ``repr`` hides it.
    """

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._private = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes_raw()
        self._agreed: dict[bytes, bytes] = {}

    @classmethod
    def generate(cls) -> KeyPair:
        """A fresh pair from the operating system's generator."""
        return cls(X25519PrivateKey.generate().private_bytes_raw())

    def agree(self, peer_public: bytes, peer: str) -> bytes:
        """The shared secret with a peer: 32 bytes, to be hashed before use.

        Raises
        ------
        AuthenticationError
            The peer's key is not a canonical point of large order: the secret would be known to anybody.
        """
        if peer_public in self._agreed:
            return self._agreed[peer_public]
        check_public_key(peer_public, peer)
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError:
            # cryptography refuses an all-zero shared secret, which is what any point of low order gives
            raise AuthenticationError(
                f"The key that {peer!r} advertised is a point of low order",
                rule="the shared secret must not be all zeros (RFC 7748, section 6.1)",
                fix=f"leave {peer!r} out of the sum and ask it what its software does",
            ) from None
        self._agreed[peer_public] = shared  # each secret is needed twice: to check or seal, then to mask or open
        return shared

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public.hex()[:16]}..., secret=<redacted>)"


@dataclass(frozen=True, kw_only=True)
class OwnKeys:
    """What a party makes for one sum: the paper's c pair (for sealing), s pair (for masks) and b (the seed)."""

    sealing: KeyPair
    masking: KeyPair
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> OwnKeys:
        """Fresh ones from the operating system's generator."""
        return cls(sealing=KeyPair.generate(), masking=KeyPair.generate(), seed=os.urandom(KEY_BYTES))


def check_public_key(public: bytes, owner: str) -> None:
    """Raise AuthenticationError unless the key is the one canonical encoding of its point.

    RFC 7748 ignores the top bit and reduces modulo 2**255 - 19, so that a point has several encodings.
    Allowing one makes "all keys differ" (Bonawitz et al. 2017, Figure 4, round 1) mean what it says.
    """
    if len(public) != KEY_BYTES or int.from_bytes(public, "little") >= _FIELD:
        raise AuthenticationError(
            f"The key that {owner!r} advertised is not canonical",
            rule="32 bytes, little-endian, below 2**255 - 19",
        )


def share_key(shared: bytes, *, transcript: bytes, publics: tuple[bytes, bytes]) -> bytes:
    """The key that seals shares between two parties."""
    return derive(shared, transcript, "share key", *sorted(publics))


def mask_key(shared: bytes, *, transcript: bytes, publics: tuple[bytes, bytes]) -> bytes:
    """The key of the pairwise mask between two parties."""
    return derive(shared, transcript, "pairwise mask", *sorted(publics))


def seed_key(seed: bytes, *, transcript: bytes, owner: str) -> bytes:
    """The key of a party's self-mask."""
    return derive(seed, transcript, "self mask", owner.encode())


def derive(secret: bytes, transcript: bytes, purpose: str, *context: bytes) -> bytes:
    """A key of 32 bytes for one purpose, from a secret and the transcript of a sum."""
    # The salt is the hash of every advertisement: parties shown different keys derive different keys.
    # Within one purpose the context is two keys of 32 bytes or one name: joining them is unambiguous.
    info = b"\x00".join((PROTOCOL.encode(), purpose.encode(), b"")) + b"".join(context)
    return hkdf_sha256(secret, salt=transcript, info=info, length=KEY_BYTES)


def hkdf_sha256(secret: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF with SHA-256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)
