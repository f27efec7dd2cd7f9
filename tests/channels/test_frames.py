"""Frames of the gRPC channel: every message survives them, and nothing else gets through."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindsight.channels import _frames
from blindsight.channels._frames import MAX_FRAME_BYTES, PART_BYTES, Assembler, Frame, Kind, parts_of
from blindsight.errors import WireError

ID = "0123456789abcdef" * 2


def packed(kind: int, total: int, offset: int, body: bytes) -> bytes:
    return struct.pack("<B16sQQ", kind, bytes.fromhex(ID), total, offset) + body


def test_the_documented_bytes() -> None:
    assert [f.encode() for f in parts_of(ID, b"ab")] == [packed(1, 2, 0, b"ab")]
    assert [f.encode() for f in parts_of(ID, b"")] == [packed(1, 0, 0, b"")]
    assert (Frame(Kind.DONE, ID).encode(), Frame(Kind.FAILED, ID).encode()) == (
        packed(2, 0, 0, b""),
        packed(3, 0, 0, b""),
    )
    long = [f.encode() for f in parts_of(ID, bytes(PART_BYTES + 1))]
    assert long == [packed(1, PART_BYTES + 1, 0, bytes(PART_BYTES)), packed(1, PART_BYTES + 1, PART_BYTES, b"\0")]
    assert max(map(len, long)) == MAX_FRAME_BYTES


@given(message=st.binary(max_size=60), part=st.integers(1, 20))
def test_a_message_comes_out_as_it_went_in(message: bytes, part: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_frames, "PART_BYTES", part)
        frames = [Frame.decode(frame.encode()) for frame in parts_of(ID, message)]
    assembler = Assembler()
    results = [assembler.add(frame, keep=True) for frame in frames]
    assert results == [(False, None)] * (len(frames) - 1) + [(True, message)]
    # again, with the same assembler, counted and not kept
    results = [assembler.add(frame, keep=number != len(frames) // 2) for number, frame in enumerate(frames)]
    assert results[-1] == (True, None)


@given(data=st.binary(max_size=80))
def test_whatever_comes_is_a_frame_or_an_error(data: bytes) -> None:
    try:
        frame = Frame.decode(data)
    except WireError:
        return
    assert frame.encode() == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        packed(1, 2, 0, b"ab")[:-3],
        packed(0, 0, 0, b""),
        packed(4, 0, 0, b""),
        packed(1, 2, 1, b"ab"),
        packed(1, 2, 0, b"abc"),
        packed(1, 2, 0, b""),
        packed(1, 2**63, 0, b"a"),
        packed(2, 1, 0, b"a"),
        packed(3, 1, 0, b""),
        packed(1, PART_BYTES + 1, 0, bytes(PART_BYTES + 1)),
    ],
)
def test_frames_that_are_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="frame is malformed"):
        Frame.decode(data)


@pytest.mark.parametrize(
    "second",
    [
        Frame(Kind.PART, ID, 10, 3, b"x"),
        Frame(Kind.PART, ID, 10, 5, b"x"),
        Frame(Kind.PART, ID, 11, 4, b"x"),
        Frame(Kind.PART, "f" * 32, 10, 4, b"x"),
    ],
)
def test_parts_that_do_not_follow_are_refused(second: Frame) -> None:
    assembler = Assembler()
    assembler.add(Frame(Kind.PART, ID, 10, 0, b"abcd"), keep=True)
    with pytest.raises(WireError, match="does not follow"):
        assembler.add(second, keep=True)


def test_a_message_may_start_anew() -> None:
    assembler = Assembler()
    assembler.add(Frame(Kind.PART, ID, 10, 0, b"abcd"), keep=True)
    assert assembler.add(Frame(Kind.PART, "f" * 32, 1, 0, b"x"), keep=True) == (True, b"x")
