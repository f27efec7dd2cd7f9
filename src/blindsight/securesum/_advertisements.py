"""Round 0's advertisements: parsing them, and the checks that Figure 4 asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blindsight.errors import AuthenticationError, SurvivorsError, WireError

from ._agreement import KEY_BYTES, check_public_key
from ._hashing import HASH_BYTES
from ._phases import Phase
from ._spec import SumSpec
from ._wire import ADVERTISEMENT_BYTES, open_message

__all__ = ["Advertisement", "check_distinct", "check_enough_advertised", "open_advertisements"]


@dataclass(frozen=True, kw_only=True)
class Advertisement:
    """What a party publishes in round 0: two X25519 public keys and a commitment to its self-mask seed.

    The paper's c key (for sealing shares) and s key (for masks) are two, because the s key is revealed to the
    coordinator when its owner drops out, and the shares must stay sealed then.
    """

    share_public: bytes
    mask_public: bytes
    seed_commitment: bytes

    def to_bytes(self) -> bytes:
        """96 bytes: both keys, then the commitment."""
        return self.share_public + self.mask_public + self.seed_commitment

    @classmethod
    def from_bytes(cls, raw: bytes, *, owner: str) -> Advertisement:
        """Parse 96 bytes.

        Raises
        ------
        WireError
            Another length.
        AuthenticationError
            A key is not the canonical encoding of its point.
        """
        if len(raw) != ADVERTISEMENT_BYTES:
            raise WireError(
                f"The advertisement of {owner!r} has the wrong length",
                got=f"{len(raw)} bytes",
                rule=str(ADVERTISEMENT_BYTES),
            )
        parsed = cls(
            share_public=raw[:KEY_BYTES],
            mask_public=raw[KEY_BYTES : 2 * KEY_BYTES],
            seed_commitment=raw[-HASH_BYTES:],
        )
        check_public_key(parsed.share_public, owner)
        check_public_key(parsed.mask_public, owner)
        return parsed


def check_distinct(advertised: Mapping[str, Advertisement]) -> None:
    """Raise AuthenticationError if any public key appears twice (Figure 4, round 1)."""
    owners: dict[bytes, str] = {}
    for name, advertisement in advertised.items():
        for public in (advertisement.share_public, advertisement.mask_public):
            if public in owners:
                raise AuthenticationError(
                    f"{owners[public]!r} and {name!r} advertise the same key",
                    rule="all fresh keys of a sum differ",
                    fix="one copied the other, or a random generator repeats: leave both out and ask them",
                )
            owners[public] = name


def check_enough_advertised(spec: SumSpec, count: int) -> None:
    """Raise SurvivorsError if fewer than ``spec.min_survivors`` advertised."""
    if count < spec.min_survivors:
        raise SurvivorsError(
            "Too few parties advertised keys",
            got=f"{count} of {len(spec.participants)}",
            rule=f"at least {spec.min_survivors}",
            fix="start the sum again when more parties are online",
        )


def open_advertisements(spec: SumSpec, messages: Mapping[str, bytes]) -> dict[str, Advertisement]:
    """Everything a party checks before it shares: enough peers, all signed, all keys different.

    Raises
    ------
    WireError, AuthenticationError
        An advertisement does not hold.
    SurvivorsError
        Fewer than ``spec.min_survivors`` advertisements.
    """
    check_enough_advertised(spec, len(messages))
    opened = {
        name: Advertisement.from_bytes(open_message(spec, Phase.ADVERTISE, name, messages[name]), owner=name)
        for name in spec.ordered(messages)
    }
    check_distinct(opened)
    return opened
