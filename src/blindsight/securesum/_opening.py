"""Round 4 at the coordinator: checking released shares, bringing secrets back, and naming who dealt badly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blindsight.errors import AuthenticationError, BlindsightError

from ._advertisements import Advertisement
from ._agreement import KeyPair
from ._envelopes import COMMITMENTS_BYTES, commit_seed, commit_share
from ._hashing import HASH_BYTES
from ._shamir import Recombiner
from ._spec import SumSpec
from ._wire import SharesBody, UnmaskBody

__all__ = ["Reconstructed", "check_released", "reconstruct"]


@dataclass(frozen=True, kw_only=True)
class Reconstructed:
    """Secrets that t holders brought back together, by owner; and whose shares were bad, with why."""

    seeds: Mapping[str, bytes]
    keys: Mapping[str, KeyPair]
    faulty: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Reconstructed(<{len(self.seeds)} seeds, {len(self.keys)} keys>, faulty={list(self.faulty)})"


def check_released(spec: SumSpec, holder: str, released: UnmaskBody, dealt: Mapping[str, SharesBody]) -> None:
    """Raise AuthenticationError unless every released share is the one that its dealer committed to.

    The holder found the same commitment true when it received the share, and refused to go on otherwise. So a
    mismatch here is the holder's doing, not the dealer's.
    """
    for kind, shares, offset in (("key", released.key_shares, 0), ("seed", released.seed_shares, HASH_BYTES)):
        for dealer, share in shares.items():
            body = dealt[dealer]
            commitments = body.own if dealer == holder else body.items[holder][:COMMITMENTS_BYTES]
            made = commit_share(spec, kind, share, source=dealer, destination=holder)
            if made != commitments[offset : offset + HASH_BYTES]:
                raise AuthenticationError(
                    f"{holder!r} released a {kind} share of {dealer!r} that is not the one it was dealt",
                    rule="a share hashes to its dealer's commitment, which the holder checked on receipt",
                )


def reconstruct(
    spec: SumSpec,
    holders: Sequence[str],
    released: Mapping[str, UnmaskBody],
    advertised: Mapping[str, Advertisement],
    *,
    survivors: Sequence[str],
    lost: Sequence[str],
) -> Reconstructed:
    """Bring back survivors' seeds and lost parties' mask keys, each checked against its advertisement.

    Parameters
    ----------
    spec : SumSpec
    holders : sequence of str
        Exactly ``spec.threshold`` parties whose released shares were checked; one set of Lagrange
        coefficients serves all secrets.
    released : mapping of holder to UnmaskBody
    advertised : mapping of name to Advertisement
    survivors, lost : sequence of str
        The paper's U3, and U2 without U3.

    Notes
    -----
    Every share used is the one its dealer committed to. A secret that comes back wrong therefore convicts its
    dealer of shares that do not lie on one polynomial of degree t - 1 through what it advertised. Other sets
    of holders are not tried: a party that cheats so could as well deal garbage to all, and its vector
    deserves no trust.
    """
    recombiner = Recombiner([spec.point(holder) for holder in holders])
    seeds: dict[str, bytes] = {}
    keys: dict[str, KeyPair] = {}
    faulty: dict[str, str] = {}
    for owner in survivors:
        try:
            seed = recombiner.open([released[holder].seed_shares[owner] for holder in holders])
        except BlindsightError as error:
            faulty[owner] = str(error)
            continue
        if commit_seed(spec, seed, owner=owner) == advertised[owner].seed_commitment:
            seeds[owner] = seed
        else:
            faulty[owner] = f"the seed that {owner!r} dealt is not the one it committed to"
    for owner in lost:
        try:
            secret = recombiner.open([released[holder].key_shares[owner] for holder in holders])
        except BlindsightError as error:
            faulty[owner] = str(error)
            continue
        pair = KeyPair(secret)
        if pair.public == advertised[owner].mask_public:
            keys[owner] = pair
        else:
            faulty[owner] = f"the mask key that {owner!r} dealt is not the one it advertised"
    return Reconstructed(seeds=seeds, keys=keys, faulty=faulty)
