"""Round 2 at a party and its undoing in round 4 at the coordinator: the same masks, put on and taken off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from ._advertisements import Advertisement
from ._agreement import KeyPair, OwnKeys, mask_key, seed_key
from ._ring import RingVector
from ._spec import SumSpec

__all__ = ["mask_vector", "take_off_masks"]

Ints = npt.NDArray[np.int64]


def mask_vector(
    spec: SumSpec,
    name: str,
    vector: Ints,
    keys: OwnKeys,
    advertised: Mapping[str, Advertisement],
    transcript: bytes,
    peers: Iterable[str],
) -> bytes:
    """y_u = x_u + PRG(b_u) + sum over peers v of +-PRG(s_uv), modulo 2**bits (Figure 4, round 2).

    Parameters
    ----------
    spec : SumSpec
    name : str
        u, the vector's owner.
    vector : ndarray of shape (length,), int64
        x_u, already checked.
    keys : OwnKeys
    advertised : mapping of name to Advertisement
    transcript : bytes
    peers : iterable of str
        All others who shared: the paper's U2 without u.

    Returns
    -------
    bytes
        ``spec.vector_bytes``, little-endian.
    """
    masked = RingVector(spec)
    masked.add_integers(vector)
    masked.add_mask(seed_key(keys.seed, transcript=transcript, owner=name))
    for peer in peers:
        key = _pair_key(keys.masking, advertised[peer].mask_public, peer, transcript)
        if _adds(spec, name, peer):
            masked.add_mask(key)
        else:
            masked.subtract_mask(key)
    return masked.to_bytes()


def take_off_masks(
    spec: SumSpec,
    total: RingVector,
    *,
    seeds: Mapping[str, bytes],
    keys: Mapping[str, KeyPair],
    advertised: Mapping[str, Advertisement],
    transcript: bytes,
) -> None:
    """Turn the sum of masked vectors into the sum of vectors, in place (Figure 4, round 4, server).

    Parameters
    ----------
    spec : SumSpec
    total : RingVector
        Sum of the survivors' masked vectors.
    seeds : mapping of survivor to bytes
        Their reconstructed self-mask seeds; masks between survivors cancel by themselves.
    keys : mapping of name to KeyPair
        Reconstructed mask keys of those who shared but sent no masked vector.
    advertised : mapping of name to Advertisement
    transcript : bytes
    """
    for survivor, seed in seeds.items():
        total.subtract_mask(seed_key(seed, transcript=transcript, owner=survivor))
    for gone, pair in keys.items():
        for survivor in seeds:
            key = _pair_key(pair, advertised[survivor].mask_public, survivor, transcript)
            if _adds(spec, survivor, gone):
                total.subtract_mask(key)
            else:
                total.add_mask(key)


def _adds(spec: SumSpec, owner: str, peer: str) -> bool:
    """Whether ``owner`` adds the mask it shares with ``peer``; the other side then subtracts it."""
    return spec.index(owner) > spec.index(peer)


def _pair_key(own: KeyPair, public: bytes, peer: str, transcript: bytes) -> bytes:
    return mask_key(own.agree(public, peer), transcript=transcript, publics=(own.public, public))
