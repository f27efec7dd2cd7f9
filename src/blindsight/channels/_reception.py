"""What a party sends in frames, taken to the desk; what coordinators over gRPC, MQTT and Flower have in common."""

from __future__ import annotations

import logging

from blindsight.errors import WireError

from ._desk import Desk
from ._frames import Assembler, Frame, Kind

__all__ = ["Reception"]

log = logging.getLogger(__name__)


class Reception:
    """Takes the frames of one party's stream. At most one message is put together at a time.

    Parameters
    ----------
    desk : Desk
    who : str
        Whose stream it is.
    max_bytes : int
        Longest answer that is kept.
    """

    def __init__(self, desk: Desk, who: str, max_bytes: int) -> None:
        self._desk, self._who, self._max_bytes = desk, who, max_bytes
        self._assembler = Assembler()

    def take(self, frame: Frame) -> str | None:
        """Take a frame; return the id of the letter that the party is done with now, if there is one.

        Raises
        ------
        WireError
            It is none that a party sends at this place.
        """
        if frame.kind is Kind.PART:
            return frame.id if self._take_part(frame) else None
        if frame.kind is Kind.FAILED:
            if self._desk.answer(self._who, frame.id, None):
                log.warning("%s did not answer: its handler failed", self._who)
            return frame.id
        raise WireError("A frame is malformed", got="an acknowledgement from a party")

    def _take_part(self, frame: Frame) -> bool:
        if frame.total > self._max_bytes and self._desk.answer(self._who, frame.id, None):
            log.error("an answer of %s is dropped: %d bytes, at most %d", self._who, frame.total, self._max_bytes)
        complete, body = self._assembler.add(frame, keep=self._desk.is_open(self._who, frame.id))
        if complete and (body is None or not self._desk.answer(self._who, frame.id, body)):
            log.info("an answer of %s came late, or twice, and is dropped", self._who)
        return complete
