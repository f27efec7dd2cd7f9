"""Channels: only bytes cross, silence is a dropout, lateness is silence."""

from __future__ import annotations

import io
import os
import signal
import struct
import sys
import time

import pytest

from blindsight.channels import MemoryChannel, ProcessChannel, serve_frames
from blindsight.errors import WireError

ECHO = """
import sys, time
from blindsight.channels import serve_frames
def answer(request):
    if request.startswith(b"sleep"):
        time.sleep(float(request[5:]))
    if request == b"die":
        raise SystemExit(3)
    return request[::-1]
serve_frames(answer, sys.stdin.buffer, sys.stdout.buffer)
"""
GARBAGE = "import sys; sys.stdout.write('I print to stdout\\n' * 100); sys.stdout.flush(); sys.stdin.read()"
MUTE = "import sys; sys.stdin.read()"


def test_memory_channel_passes_bytes_and_counts_them() -> None:
    channel = MemoryChannel({"b": lambda r: r + b"!", "a": bytes.upper})
    assert channel.parties == ("a", "b")
    assert channel.exchange({"a": b"xy", "b": b"z"}, 1.0) == {"a": b"XY", "b": b"z!"}
    assert (channel.traffic.sent_bytes, channel.traffic.received_bytes, channel.traffic.exchanges) == (3, 4, 1)


def test_a_handler_that_raises_or_is_late_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: bytes) -> bytes:
        raise RuntimeError("boom")

    def late(request: bytes) -> bytes:
        time.sleep(0.05)
        return b"late"

    channel = MemoryChannel({"a": broken, "b": bytes.upper})
    assert channel.exchange({"a": b"x", "b": b"y"}, 1.0) == {"b": b"Y"}
    assert "boom" in caplog.text
    assert MemoryChannel({"a": late}).exchange({"a": b"x"}, 0.01) == {}


def test_process_channel() -> None:
    """One start-up for all of it: processes are slow to start."""
    python = [sys.executable, "-c"]
    commands = {"a": [*python, ECHO], "b": [*python, ECHO], "garbage": [*python, GARBAGE], "mute": [*python, MUTE]}
    with ProcessChannel(commands) as channel:
        assert channel.parties == ("a", "b", "garbage", "mute")
        big = os.urandom(3_000_000)  # far beyond a pipe's buffer
        # who answers garbage frames is ended, and nobody waits for it
        assert channel.exchange({"a": b"abc", "b": big, "garbage": b"x"}, 30.0) == {"a": b"cba", "b": big[::-1]}
        assert channel.exchange({"a": b"abc", "mute": b"x"}, 0.3) == {"a": b"cba"}
        # an answer after its deadline is dropped, and not taken for that to the next request
        assert channel.exchange({"a": b"sleep0.4"}, 0.05) == {}
        assert channel.exchange({"a": b"one", "b": b"two"}, 5.0) == {"a": b"eno", "b": b"owt"}
        # a process that ends, by itself or by force, is silent from then on and does not hold anybody up
        assert channel.exchange({"a": b"die", "b": b"two"}, 5.0) == {"b": b"owt"}
        channel._processes["a"].poll = lambda: None  # type: ignore[method-assign]  # closed, but not reaped yet
        os.kill(channel.process_id("b"), signal.SIGKILL)
        started = time.monotonic()
        assert channel.exchange({"a": b"x", "b": b"y"}, 5.0) == {}
        assert time.monotonic() - started < 4.0
        del channel._processes["a"].poll
    assert all(process.poll() is not None for process in channel._processes.values())


def frame(number: int, body: bytes) -> bytes:
    return struct.pack("<QI", number, len(body)) + body


def test_serve_frames_answers_in_order_and_ends_with_its_input() -> None:
    sink = io.BytesIO()
    serve_frames(bytes.upper, io.BytesIO(frame(7, b"ab") + frame(8, b"") + frame(2**64 - 1, b"c")), sink)
    assert sink.getvalue() == frame(7, b"AB") + frame(8, b"") + frame(2**64 - 1, b"C")


@pytest.mark.parametrize("cut", range(1, 13))
def test_a_frame_cut_short_is_no_frame(cut: int) -> None:
    sink = io.BytesIO()
    whole = frame(1, b"ab")
    serve_frames(bytes.upper, io.BytesIO(whole[: len(whole) - cut]), sink)
    assert sink.getvalue() == b""


def test_a_frame_of_absurd_length_is_refused_before_it_is_read() -> None:
    with pytest.raises(WireError, match=r"too long.*Got: 4294967295 bytes.*Rule: at most"):
        serve_frames(bytes.upper, io.BytesIO(struct.pack("<QI", 1, 2**32 - 1)), io.BytesIO())
