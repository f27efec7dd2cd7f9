"""Round 0 of a sum under a shared key: one fresh X25519 key a party."""

from __future__ import annotations

from collections.abc import Mapping

from blindsight.errors import AuthenticationError, WireError

from ._advertisements import check_enough_advertised
from ._agreement import KEY_BYTES, check_public_key
from ._phases import Phase
from ._spec import SumSpec
from ._wire import open_message

__all__ = ["open_key_advertisements", "take_public_key"]


def open_key_advertisements(spec: SumSpec, messages: Mapping[str, bytes]) -> dict[str, bytes]:
    """Everything a party checks before it shares: enough peers, all signed, all keys canonical and different.

    Raises
    ------
    WireError, AuthenticationError
        An advertisement does not hold.
    SurvivorsError
        Fewer than ``spec.min_survivors`` advertisements.
    """
    check_enough_advertised(spec, len(messages))
    opened: dict[str, bytes] = {}
    for name in spec.ordered(messages):
        public = open_message(spec, Phase.ADVERTISE, name, messages[name])
        take_public_key(opened, name, public)
    return opened


def take_public_key(known: dict[str, bytes], name: str, public: bytes) -> None:
    """Add a party's fresh key to those known.

    Raises
    ------
    WireError, AuthenticationError
        Another length; not canonical; or somebody else's.
    """
    if len(public) != KEY_BYTES:
        raise WireError(
            f"The advertisement of {name!r} has the wrong length", got=f"{len(public)} bytes", rule=str(KEY_BYTES)
        )
    check_public_key(public, name)
    for other, key in known.items():
        if key == public and other != name:
            raise AuthenticationError(
                f"{other!r} and {name!r} advertise the same key",
                rule="all fresh keys of a sum differ",
                fix="one copied the other, or a random generator repeats: leave both out and ask them",
            )
    known[name] = public
