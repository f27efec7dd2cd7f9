"""The messages around a comparison: ask, spend the mask, compare, open. See docs/wire-blind.md, 'Verdicts'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from blindsight.errors import AuthenticationError, BlindsightError, ProtocolError, WireError

from ._envelope import Header, Session, close_envelope, new_salt, open_envelope, split_envelope
from ._plan import BlindParameters
from ._verdict import NUMBER_BYTES, Desk

__all__ = ["ComparisonEnd", "ComparisonRefused", "answer", "ask"]

Words = npt.NDArray[np.uint64]
Bits = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

GO, NO = b"\x01", b"\x00"


class ComparisonEnd(Protocol):
    """What is asked of one end of a comparison: ``Comparison`` and ``ComparisonProcess`` are."""

    def negative(self, words: Words) -> Bits:
        """See :meth:`Comparison.negative`."""

    def send(self, message: bytes) -> None:
        """See :meth:`Comparison.send`."""

    def receive(self) -> bytes:
        """See :meth:`Comparison.receive`."""


class ComparisonRefused(ProtocolError):
    """The scorer does not compare this answer, since its mask is spent or was never there. Its bits stay charged."""


def answer(
    comparison: ComparisonEnd,
    desk: Desk,
    authenticate: Callable[[Header, bytes], Session],
    *,
    offer: bytes,
) -> Header:
    """Serve one comparison, as the scorer; waits for the owner to ask. Returns what it was about."""
    message = comparison.receive()
    try:
        header, body = split_envelope(message, "compare", offer=offer)
        if len(body) != NUMBER_BYTES or header.registers:
            raise WireError("A request to compare has the wrong length", got=f"{len(body)} bytes")
        session = authenticate(header, message)
        words = desk.take(header.key, header.request, bytes(body), header.rows)
    except BlindsightError:
        comparison.send(NO)
        raise
    comparison.send(GO)
    half = comparison.negative(words)
    reply = Header(
        kind="opened", offer=offer, key=header.key, request=header.request, salt=new_salt(), rows=header.rows
    )
    comparison.send(close_envelope(session, reply, [np.packbits(half, bitorder="little").tobytes()]))
    return header


def ask(
    comparison: ComparisonEnd,
    session: Session,
    about: Header,
    number: bytes,
    words: Words,
    p: BlindParameters,
) -> Ints:
    """Ask for a comparison, as the owner.

    Parameters
    ----------
    about : Header
        Of the answer.
    number : bytes
        From its body.
    words : ndarray of shape (rows,), uint64

    Returns
    -------
    ndarray of shape (rows,), int64
        How many thresholds each score exceeds.
    """
    request = Header(
        kind="compare", offer=about.offer, key=about.key, request=about.salt, salt=new_salt(), rows=about.rows
    )
    comparison.send(close_envelope(session, request, [number]))
    if comparison.receive() != GO:
        raise ComparisonRefused(
            "The scorer refuses the comparison",
            rule="each answer is compared once, whether that succeeds or not",
            fix="seal the records again",
        )
    half = comparison.negative(np.tile(words, p.thresholds))
    message = comparison.receive()
    header, body = split_envelope(message, "opened", offer=about.offer)
    if (header.key, header.request, header.rows) != (about.key, about.salt, about.rows):
        raise AuthenticationError("The verdicts are about another answer")
    if len(body) != -(-half.size // 8) or header.registers:
        raise WireError("Verdicts have the wrong length", got=f"{len(body)} bytes")
    open_envelope(session, header, message)
    other = np.unpackbits(np.frombuffer(body, dtype=np.uint8), count=half.size, bitorder="little")
    exceeds = half ^ other ^ 1  # never zero: the threshold lies half a unit above an integer, the noise within
    return np.asarray(exceeds.reshape(p.thresholds, -1).sum(axis=0, dtype=np.int64))
