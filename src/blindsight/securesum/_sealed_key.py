"""How the shared key gets from its holder to every other party, through a coordinator that cannot read it.

The holder draws the key and seals it for each peer with ChaCha20-Poly1305 (RFC 8439) under a key agreed by X25519 (RFC
7748) between fresh keys that both have signed with their long-term identities in round 0. It commits to the key with a
hash, so that all peers can tell that they got the same one; the key holds 32 uniform bytes, so that the hash hides it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from blindsight.errors import AuthenticationError, FormatError, WireError

from ._agreement import KeyPair, derive
from ._hashing import tagged_hash
from ._scheme import SharedKey, scheme_of
from ._shared_limits import item_bytes
from ._shared_wire import DealtBody
from ._spec import SumSpec

__all__ = ["checked_key", "commit_key", "deal_key", "holders_of", "open_item"]

_NONCE_BYTES = 12
_MOST_HOLDERS = 3


def holders_of(spec: SumSpec, advertised: Iterable[str]) -> tuple[str, ...]:
    """Those who draw a key: the first in the list, and one more for each party that may drop out, up to three.

    The key in use is that of the first of them who dealt one. Who holds the key first matters to nobody's privacy,
    since every party holds it in the end; a second and a third only spare the sum an abort.
    """
    spare = len(spec.participants) - spec.min_survivors
    return spec.ordered(advertised)[: min(1 + spare, _MOST_HOLDERS)]


def commit_key(spec: SumSpec, transcript: bytes, *, dealer: str, public: bytes, secret: bytes) -> bytes:
    """The commitment to a shared key that its dealer publishes; 32 bytes."""
    return tagged_hash("shared key", spec.digest, transcript, dealer.encode(), public, secret)


def deal_key(
    spec: SumSpec, name: str, own: KeyPair, advertised: Mapping[str, bytes], transcript: bytes
) -> tuple[DealtBody, bytes]:
    """Draw a key and seal it for everybody else who advertised.

    Parameters
    ----------
    spec : SumSpec
    name : str
        The dealer.
    own : KeyPair
        Its fresh pair of this sum.
    advertised : mapping of name to bytes
        X25519 public keys, in the order of the list.
    transcript : bytes
        32 bytes.

    Returns
    -------
    body : DealtBody
        For the coordinator.
    secret : bytes
        The key itself.

    Raises
    ------
    AuthenticationError
        A peer's key is a point of low order.
    """
    secret, public = scheme_of(spec).generate()
    commitment = commit_key(spec, transcript, dealer=name, public=public, secret=secret)
    items = {}
    for peer, peer_public in advertised.items():
        if peer == name:
            continue
        nonce = os.urandom(_NONCE_BYTES)  # random, though the key seals once: a party that lost its state seals again
        sealer = ChaCha20Poly1305(_transport_key(own, peer_public, peer, transcript))
        items[peer] = nonce + sealer.encrypt(nonce, secret, _bound_to(spec, transcript, name, peer, commitment))
    return DealtBody(transcript, commitment, public, items), secret


def open_item(
    spec: SumSpec,
    item: bytes,
    *,
    own: KeyPair,
    dealer: str,
    dealer_public: bytes,
    destination: str,
    transcript: bytes,
    commitment: bytes,
) -> bytes:
    """Open the key that ``dealer`` sealed for ``destination``; 32 bytes and the scheme's secret.

    Raises
    ------
    WireError
        Another length.
    AuthenticationError
        Not sealed by the dealer for this party in this very sum under this commitment.
    """
    if len(item) != item_bytes(spec):
        raise WireError(
            f"The key from {dealer!r} has the wrong length", got=f"{len(item)} bytes", rule=str(item_bytes(spec))
        )
    key = _transport_key(own, dealer_public, dealer, transcript)
    bound = _bound_to(spec, transcript, dealer, destination, commitment)
    try:
        return ChaCha20Poly1305(key).decrypt(item[:_NONCE_BYTES], item[_NONCE_BYTES:], bound)
    except InvalidTag:
        raise AuthenticationError(
            f"The key from {dealer!r} does not open",
            rule=f"sealed by {dealer!r} for {destination!r}, in this sum, among the same advertised keys",
            fix=f"{dealer!r}, or the coordinator on the way, sent something else: run a new sum and compare",
        ) from None


def checked_key(
    spec: SumSpec, secret: bytes, *, dealer: str, public: bytes, transcript: bytes, commitment: bytes
) -> SharedKey:
    """Parse a key, and check that it is the one its dealer committed to.

    Raises
    ------
    AuthenticationError
        It is not, or no honest generator makes it; the dealer is named.
    """
    if commit_key(spec, transcript, dealer=dealer, public=public, secret=secret) != commitment:
        raise AuthenticationError(
            f"The key from {dealer!r} is not the one it committed to",
            rule="all parties get one key, which hashes with its public part to the commitment beside it",
            fix=f"{dealer!r}, or the coordinator on the way, sent something else: run a new sum and compare",
        )
    scheme = scheme_of(spec)
    try:
        key = scheme.open(secret, transcript)
        if scheme.public_of(secret) != public:
            raise FormatError("the public part is not its own")
    except FormatError as error:
        raise AuthenticationError(
            f"The key from {dealer!r} cannot be used: {error.what}",
            rule=error.rule,
            fix=f"leave {dealer!r} out of a new sum and ask it what its software does",
        ) from None
    return key


def _transport_key(own: KeyPair, peer_public: bytes, peer: str, transcript: bytes) -> bytes:
    shared = own.agree(peer_public, peer)
    return derive(shared, transcript, "key transport", *sorted((own.public, peer_public)))


def _bound_to(spec: SumSpec, transcript: bytes, source: str, destination: str, commitment: bytes) -> bytes:
    return tagged_hash("sealed key", spec.digest, transcript, source.encode(), destination.encode(), commitment)
