"""What the parties saw, as hashes: everybody must have seen the same, or nothing opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ._hashing import tagged_hash
from ._spec import SumSpec

__all__ = ["request_digest", "sharers_digest", "survivors_digest", "transcript_of"]


def transcript_of(spec: SumSpec, advertisements: Mapping[str, bytes]) -> bytes:
    """Hash of the specification and of every advertisement as it was signed: the salt of all derived keys."""
    return tagged_hash("transcript", spec.digest, *_flat(spec, advertisements))


def sharers_digest(spec: SumSpec, transcript: bytes, sharers: Sequence[str]) -> bytes:
    """Hash of who shared (the paper's U2), under the transcript."""
    return tagged_hash("sharers", spec.digest, transcript, *(name.encode() for name in sharers))


def survivors_digest(spec: SumSpec, transcript: bytes, sharers: Sequence[str], survivors: Sequence[str]) -> bytes:
    """What survivors sign in round 3.

    The paper signs U3. Here the signature also covers U2 and the transcript, so that a coordinator that told
    parties different stories before is found out now, instead of opening a wrong total.
    """
    return tagged_hash(
        "survivors",
        spec.digest,
        sharers_digest(spec, transcript, sharers),
        *(name.encode() for name in survivors),
    )


def request_digest(spec: SumSpec, parts: Mapping[str, bytes]) -> bytes:
    """Hash of what a party was asked in one phase: tells a retry from a second request."""
    return tagged_hash("request", spec.digest, *_flat(spec, parts))


def _flat(spec: SumSpec, parts: Mapping[str, bytes]) -> list[bytes]:
    return [part for name in spec.ordered(parts) for part in (name.encode(), parts[name])]
