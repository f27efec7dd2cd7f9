"""Frames of a stream that carries messages in parts, both ways. Format: docs/channels.md, 'gRPC'."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from blindsight.errors import WireError

from ._desk import ID_BYTES

__all__ = ["MAX_FRAME_BYTES", "Assembler", "Frame", "FrameReader", "Kind", "parts_of"]

HEADER = struct.Struct(f"<B{ID_BYTES}sQQ")
PART_BYTES = 1 << 20
MAX_FRAME_BYTES = HEADER.size + PART_BYTES
MAX_TOTAL = 1 << 40


class Kind(IntEnum):
    """What a frame is."""

    PART = 1
    """Some bytes of a request or an answer."""
    DONE = 2
    """To the party: its answer is here, or nobody waits for it."""
    FAILED = 3
    """From the party: there will be no answer."""


@dataclass(frozen=True)
class Frame:
    """One frame.

    Parameters
    ----------
    kind : Kind
    id : str
        Of the request, 32 hexadecimal digits.
    total : int
        Length of the whole message in bytes.
    offset : int
        Of ``body`` in it.
    body : bytes
    """

    kind: Kind
    id: str
    total: int = 0
    offset: int = 0
    body: bytes = b""

    def encode(self) -> bytes:
        """The frame's bytes."""
        return HEADER.pack(self.kind, bytes.fromhex(self.id), self.total, self.offset) + self.body

    @classmethod
    def decode(cls, data: bytes) -> Frame:
        """Parse what the other side sent.

        Raises
        ------
        WireError
            Another length, kind or place than the format allows.
        """
        if not HEADER.size <= len(data) <= MAX_FRAME_BYTES:
            raise _malformed(f"{len(data)} bytes")
        number, raw, total, offset = HEADER.unpack_from(data)
        body = data[HEADER.size :]
        if number not in {kind.value for kind in Kind}:
            raise _malformed(f"kind {number}")
        if total > MAX_TOTAL or offset + len(body) > total or (total > 0 and not body and number == Kind.PART):
            raise _malformed(f"{len(body)} bytes at {offset} of {total}")
        if number != Kind.PART and total:
            raise _malformed("a body where there is none")
        return cls(Kind(number), raw.hex(), total, offset, body)


def parts_of(letter_id: str, body: bytes, part_bytes: int = PART_BYTES) -> Iterator[Frame]:
    """A message in frames of at most ``part_bytes`` of it; an empty one is one frame."""
    for offset in range(0, max(1, len(body)), part_bytes):
        yield Frame(Kind.PART, letter_id, len(body), offset, body[offset : offset + part_bytes])


class Assembler:
    """Puts one message at a time together; parts come in order, and another id starts anew."""

    def __init__(self) -> None:
        self._id = ""
        self._total = self._read = 0
        self._parts: list[bytes] | None = []

    def add(self, frame: Frame, *, keep: bool) -> tuple[bool, bytes | None]:
        """Add a part.

        Parameters
        ----------
        frame : Frame
        keep : bool
            False: the message is counted to its end and not kept.

        Returns
        -------
        complete : bool
        message : bytes or None
            None before it is complete, and where it was not kept.

        Raises
        ------
        WireError
            The part does not follow the last one.
        """
        if frame.offset == 0:
            self._id, self._total, self._read, self._parts = frame.id, frame.total, 0, []
        if (frame.id, frame.total, frame.offset) != (self._id, self._total, self._read):
            raise _malformed("a part that does not follow")
        self._read += len(frame.body)
        if not keep:
            self._parts = None
        elif self._parts is not None:
            self._parts.append(frame.body)
        if self._read < self._total:
            return False, None
        message = None if self._parts is None else b"".join(self._parts)
        self._id, self._total, self._read, self._parts = "", 0, 0, []
        return True, message


class FrameReader:
    """Cuts a stream of bytes into frames: all parts but a message's last have the full length."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add bytes; the frames that are whole.

        Raises
        ------
        WireError
        """
        self._data += data
        while len(self._data) >= HEADER.size:
            _, _, total, offset = HEADER.unpack_from(self._data)
            size = HEADER.size + max(0, min(PART_BYTES, total - offset))
            if len(self._data) < size:
                return
            frame = Frame.decode(bytes(self._data[:size]))
            del self._data[:size]
            yield frame


def _malformed(got: str) -> WireError:
    return WireError("A frame is malformed", got=got, rule="docs/channels.md, 'gRPC'", fix="check versions")
