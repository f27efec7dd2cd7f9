"""The five exchanges of a sum, in order."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Phase"]


class Phase(IntEnum):
    """Where a sum stands: rounds 0 to 4 of Bonawitz et al. 2017 (CCS), Figure 4, and the end.

    The value is the tag on the wire.
    """

    ADVERTISE = 0
    """AdvertiseKeys: fresh public keys, signed."""
    SHARE = 1
    """ShareKeys: shares of the mask key and the self-mask seed, sealed for each peer."""
    MASK = 2
    """MaskedInputCollection: the masked vector."""
    CONFIRM = 3
    """ConsistencyCheck: the survivors sign who survived."""
    UNMASK = 4
    """Unmasking: one kind of share per peer."""
    DONE = 5
    """The total is open."""

    @property
    def label(self) -> str:
        """The phase in lower case, for messages to people."""
        return self.name.lower()
