"""One injective hash for everything that is committed to, bound or signed in a sum."""

from __future__ import annotations

import hashlib
from functools import lru_cache

__all__ = ["HASH_BYTES", "PROTOCOL", "tagged_hash"]

PROTOCOL = "blindsight/securesum/1"
"""Name and version of the protocol: in every hash, every derived key and every message."""

HASH_BYTES = 32


def tagged_hash(purpose: str, *parts: bytes | memoryview) -> bytes:
    """SHA-256 of the parts under a purpose: different purposes or different parts never share an input.

    Every part is preceded by its length in eight bytes, so that ``("ab", "c")`` and ``("a", "bc")`` differ.

    Parameters
    ----------
    purpose : str
        What the hash is for. It separates the domains: a hash made for one use is worth nothing in another.
    parts : bytes-like

    Returns
    -------
    bytes
        32 bytes.
    """
    hasher = hashlib.sha256(_head(purpose))
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest()


@lru_cache(maxsize=64)
def _head(purpose: str) -> bytes:
    """Protocol and purpose as every hash begins; the purposes are the few texts of this package."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in (PROTOCOL.encode(), purpose.encode()))
