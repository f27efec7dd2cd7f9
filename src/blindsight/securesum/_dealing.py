"""Round 1 at a party: dealing its two secrets, and opening what its peers dealt."""

from __future__ import annotations

from collections.abc import Mapping

from blindsight.errors import WireError

from ._advertisements import Advertisement
from ._agreement import KeyPair, OwnKeys, share_key
from ._envelopes import ITEM_BYTES, SharePair, open_item, seal_item
from ._shamir import deal
from ._spec import SumSpec
from ._wire import SharesBody

__all__ = ["deal_to_peers", "open_inbox"]


def deal_to_peers(
    spec: SumSpec, name: str, keys: OwnKeys, advertised: Mapping[str, Advertisement], transcript: bytes
) -> tuple[SharesBody, SharePair]:
    """Share the mask key and the seed among all who advertised, this party included.

    Parameters
    ----------
    spec : SumSpec
    name : str
        The dealer.
    keys : OwnKeys
    advertised : mapping of name to Advertisement
        The paper's U1, in the order of the list.
    transcript : bytes
        32 bytes.

    Returns
    -------
    body : SharesBody
        For the coordinator: a sealed item per peer, and commitments to all shares.
    own : SharePair
        The dealer's own shares of its secrets; it is one of the holders.

    Raises
    ------
    AuthenticationError
        A peer's key is a point of low order.
    """
    points = [spec.point(peer) for peer in advertised]
    key_shares = deal(keys.masking.secret, threshold=spec.threshold, points=points)
    seed_shares = deal(keys.seed, threshold=spec.threshold, points=points)
    pairs = {
        peer: SharePair(key_share=key_share, seed_share=seed_share)
        for peer, key_share, seed_share in zip(advertised, key_shares, seed_shares, strict=True)
    }
    own = pairs.pop(name)
    items = {}
    for peer, pair in pairs.items():
        # The mask keys meet only in round 2; a point of low order among them is refused here, before dealing.
        keys.masking.agree(advertised[peer].mask_public, peer)
        key = _share_key(keys.sealing, advertised[peer], peer, transcript)
        items[peer] = seal_item(spec, pair, key=key, transcript=transcript, source=name, destination=peer)
    return SharesBody(transcript, own.commitments(spec, source=name, destination=name), items), own


def open_inbox(
    spec: SumSpec,
    name: str,
    keys: OwnKeys,
    advertised: Mapping[str, Advertisement],
    transcript: bytes,
    inbox: Mapping[str, bytes],
) -> dict[str, SharePair]:
    """Open every peer's item; the shares this party now holds for them, by dealer.

    The paper opens them in round 4. Opening them before masking names a bad dealer before anything is sent.

    Raises
    ------
    WireError, AuthenticationError
        An item has the wrong length or does not open; its dealer is named.
    """
    held = {}
    for peer, item in inbox.items():
        if len(item) != ITEM_BYTES:
            raise WireError(
                f"The shares from {peer!r} have the wrong length",
                got=f"{len(item)} bytes",
                rule=str(ITEM_BYTES),
            )
        key = _share_key(keys.sealing, advertised[peer], peer, transcript)
        held[peer] = open_item(spec, item, key=key, transcript=transcript, source=peer, destination=name)
    return held


def _share_key(sealer: KeyPair, peer_advertised: Advertisement, peer: str, transcript: bytes) -> bytes:
    public = peer_advertised.share_public
    return share_key(sealer.agree(public, peer), transcript=transcript, publics=(sealer.public, public))
