"""Shares on their way from dealer to holder: committed to, sealed, and bound to who deals and who holds.

What a dealer sends each holder is one item of fixed layout::

    commitment to the mask-key share   32
    commitment to the seed share       32
    nonce                              12   random
    ChaCha20-Poly1305 of both shares   66 + 16   (RFC 8439)

The commitments are SHA-256 hashes. They let the coordinator tell a holder that releases a wrong share from a
dealer that dealt wrong ones, and let a holder refuse shares that the coordinator would later blame it for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from blindsight.errors import AuthenticationError

from ._hashing import HASH_BYTES, tagged_hash
from ._shamir import SHARE_BYTES
from ._spec import SumSpec

__all__ = [
    "COMMITMENTS_BYTES",
    "ITEM_BYTES",
    "PAIR_BYTES",
    "SharePair",
    "commit_seed",
    "open_item",
    "seal_item",
]

COMMITMENTS_BYTES = 2 * HASH_BYTES
PAIR_BYTES = 2 * SHARE_BYTES
_NONCE_BYTES = 12
_TAG_BYTES = 16
ITEM_BYTES = COMMITMENTS_BYTES + _NONCE_BYTES + PAIR_BYTES + _TAG_BYTES


@dataclass(frozen=True, kw_only=True)
class SharePair:
    """One holder's shares of one dealer's two secrets; a holder releases one of them at most."""

    key_share: bytes = field(repr=False)
    seed_share: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Both shares, 66 bytes."""
        return self.key_share + self.seed_share

    @classmethod
    def from_bytes(cls, raw: bytes) -> SharePair:
        """Split 66 bytes; the caller has checked the length."""
        return cls(key_share=raw[:SHARE_BYTES], seed_share=raw[SHARE_BYTES:])

    def commitments(self, spec: SumSpec, *, source: str, destination: str) -> bytes:
        """Commitments to the mask-key share and to the seed share: 64 bytes."""
        return b"".join(
            commit_share(spec, kind, share, source=source, destination=destination)
            for kind, share in (("key", self.key_share), ("seed", self.seed_share))
        )


def commit_seed(spec: SumSpec, seed: bytes, *, owner: str) -> bytes:
    """The commitment to a self-mask seed that its owner advertises.

    The seed is 256 uniform bits, so that the hash hides it; opening a wrong seed from bad shares is noticed.
    """
    return tagged_hash("self-mask seed", spec.digest, owner.encode(), seed)


def commit_share(spec: SumSpec, kind: str, share: bytes, *, source: str, destination: str) -> bytes:
    """The commitment to one share: ``kind`` is "key" or "seed".

    With fewer than ``threshold`` shares known, each other share is as hard to guess as the secret itself (a
    256-bit seed or a 255-bit key): the hash gives nothing to search through.
    """
    return tagged_hash(f"{kind} share", spec.digest, source.encode(), destination.encode(), share)


def seal_item(spec: SumSpec, pair: SharePair, *, key: bytes, transcript: bytes, source: str, destination: str) -> bytes:
    """Seal a pair of shares for its holder; 158 bytes.

    Security
    --------
    The nonce is random although the key seals only two messages (one each way): a party that lost its state
    and sealed again would otherwise repeat a nonce.
    """
    commitments = pair.commitments(spec, source=source, destination=destination)
    nonce = os.urandom(_NONCE_BYTES)
    bound = _bound_to(spec, transcript, source, destination, commitments)
    return commitments + nonce + ChaCha20Poly1305(key).encrypt(nonce, pair.to_bytes(), bound)


def open_item(spec: SumSpec, item: bytes, *, key: bytes, transcript: bytes, source: str, destination: str) -> SharePair:
    """Open an item of 158 bytes and check its shares against their commitments.

    Raises
    ------
    AuthenticationError
        The item was not sealed by ``source`` for ``destination`` in this very sum, or does not hold what it
        commits to.
    """
    commitments = item[:COMMITMENTS_BYTES]
    nonce = item[COMMITMENTS_BYTES : COMMITMENTS_BYTES + _NONCE_BYTES]
    bound = _bound_to(spec, transcript, source, destination, commitments)
    try:
        opened = ChaCha20Poly1305(key).decrypt(nonce, item[COMMITMENTS_BYTES + _NONCE_BYTES :], bound)
    except InvalidTag:
        raise AuthenticationError(
            f"The shares from {source!r} do not open",
            rule=f"sealed by {source!r} for {destination!r}, in this sum, among the same advertised keys",
            fix=f"{source!r}, or the coordinator on the way, sent something else: run a new sum and compare",
        ) from None
    pair = SharePair.from_bytes(opened)
    if pair.commitments(spec, source=source, destination=destination) != commitments:
        raise AuthenticationError(
            f"The shares from {source!r} are not those it commits to",
            rule="each share hashes to the commitment beside it",
            fix=f"leave {source!r} out of a new sum and ask it what its software does",
        )
    return pair


def _bound_to(spec: SumSpec, transcript: bytes, source: str, destination: str, commitments: bytes) -> bytes:
    return tagged_hash("sealed shares", spec.digest, transcript, source.encode(), destination.encode(), commitments)
