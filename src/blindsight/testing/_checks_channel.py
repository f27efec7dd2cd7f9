"""The suite that every channel is held against: what an exchange promises, whatever the network does.

``channel_checks(rig)`` gives the checks that apply, by name. All channels: exchange, deadlines, raising, big, twenty,
unknown, closing. Where parties are processes: killed. Where they dial out: absent, restarted, strangers, revoked,
stopped. Where a relay for TCP fits between: comes_back, cut, partition, twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ._authority import InsecureAuthority
from ._rigs import DialledRig, Rig

__all__ = ["Check", "channel_checks"]

Check = Callable[[Any], None]

LONG_SECONDS = 60.0
"""For exchanges that end as soon as everybody has answered."""


def channel_checks(rig: Rig | None = None) -> dict[str, Check]:
    """The checks by name that apply to a kind of channel; all of them without one."""
    groups = [_ALL]
    if rig is None or rig.processes:
        groups.append(_PROCESSES)
    if rig is None or rig.dialled:
        groups.append(_DIALLED)
    if rig is None or rig.relayed:
        groups.append(_RELAYED)
    return {check.__name__.removeprefix("_check_"): check for group in groups for check in group}


# -- every channel ----------------------------------------------------------------------------------------------------


def _check_exchange(rig: Rig) -> None:
    """Answers come by name, in whatever order they come; empty messages are messages; payloads are counted."""
    with rig.running(["c", "a", "b"]) as running:
        channel = running.channel
        assert channel.parties == ("a", "b", "c")
        answers = channel.exchange({"c": b"!sleep 0.2", "a": b"", "b": bytes(range(256))}, LONG_SECONDS)
        assert answers == {"a": b"", "b": bytes(reversed(range(256))), "c": b"slept"}
        assert channel.exchange({"b": b"\x00\xff"}, LONG_SECONDS) == {"b": b"\xff\x00"}
        assert channel.exchange({}, 0.1) == {}
        traffic = channel.traffic
        assert (traffic.sent_bytes, traffic.received_bytes, traffic.exchanges) == (10 + 256 + 2, 5 + 256 + 2, 3)


def _check_deadlines(rig: Rig) -> None:
    """Who is late is absent, at the deadline; a late answer is not taken for that to the next request."""
    with rig.running(["a", "b"]) as running:
        assert len(running.channel.exchange({"a": b"x", "b": b"x"}, LONG_SECONDS)) == 2, "everybody is there"
        begin = time.monotonic()
        answers = running.channel.exchange({"a": b"!sleep 1.0", "b": b"xy"}, 0.4)
        took = time.monotonic() - begin
        # a channel that calls its parties in turn notices lateness afterwards
        assert answers in ({"b": b"yx"}, {}), "the late one is absent"
        assert rig.name == "memory" or (answers and took < 0.9), f"nobody waits beyond the deadline: {took:.2f} s"
        for word in (b"one", b"two"):
            assert running.channel.exchange({"a": word, "b": b"-"}, LONG_SECONDS) == {"a": word[::-1], "b": b"-"}


def _check_raising(rig: Rig) -> None:
    """A party that raises is a dropout that nobody waits for, and the others go on."""
    with rig.running(["a", "b"]) as running:
        begin = time.monotonic()
        assert running.channel.exchange({"a": b"!raise", "b": b"xy"}, LONG_SECONDS) == {"b": b"yx"}
        assert time.monotonic() - begin < LONG_SECONDS / 2
        expected = {"b": b"two"[::-1]} if rig.name == "process" else {"a": b"eno", "b": b"owt"}
        assert running.channel.exchange({"a": b"one", "b": b"two"}, LONG_SECONDS) == expected


def _check_big(rig: Rig) -> None:
    """64 MiB, each way."""
    with rig.running(["a"]) as running:
        big = os.urandom(1 << 20) * 64
        answer = running.channel.exchange({"a": big}, LONG_SECONDS)["a"]
        assert len(answer) == len(big)
        assert answer == big[::-1]


def _check_twenty(rig: Rig) -> None:
    """Twenty parties, each with a request of its own, twice."""
    names = [f"party-{i:02d}" for i in range(20)]
    with rig.running(names) as running:
        for turn in (b"first", b"second"):
            requests = {name: turn + name.encode() for name in names}
            answers = running.channel.exchange(requests, LONG_SECONDS)
            assert answers == {name: request[::-1] for name, request in requests.items()}


def _check_unknown(rig: Rig) -> None:
    """A request to a name that is nobody's is a dropout; nobody waits for it."""
    with rig.running(["a"]) as running:
        begin = time.monotonic()
        assert running.channel.exchange({"a": b"xy", "nobody": b"xy"}, LONG_SECONDS) == {"a": b"yx"}
        assert time.monotonic() - begin < LONG_SECONDS / 2


def _check_closing(rig: Rig) -> None:
    """close() ends threads and sockets, may be called twice, and every later exchange is empty at once."""
    for turn in range(3):
        with rig.running(["a", "b"]) as running:
            assert running.channel.exchange({"a": b"xy"}, LONG_SECONDS) == {"a": b"yx"}
            if rig.name != "memory":
                running.channel.close()
                begin = time.monotonic()
                assert running.channel.exchange({"a": b"xy"}, LONG_SECONDS) == {}
                assert time.monotonic() - begin < 1.0
                running.channel.close()
        if turn == 0:  # what libraries keep for good is there after the first time
            held = _held()
    gc.collect()
    deadline = time.monotonic() + 10
    while any(now > before for now, before in zip(_held(), held, strict=True)):
        assert time.monotonic() < deadline, f"threads, open files: {held} before, {_held()} now"
        time.sleep(0.1)


def _held() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


# -- parties that are processes ---------------------------------------------------------------------------------------


def _check_killed(rig: Rig) -> None:
    """A process that is really killed while it works is a dropout; the others' answers are there."""
    with rig.running(["a", "b"], absent=["a"]) as running:
        if rig.dialled:
            running.start("a", process=True)
        assert set(running.channel.exchange({"a": b"x", "b": b"x"}, LONG_SECONDS)) == {"a", "b"}
        killer = threading.Timer(0.3, running.kill, ["a"])
        killer.start()
        assert running.channel.exchange({"a": b"!sleep 30", "b": b"xy"}, 1.5) == {"b": b"yx"}
        killer.join()
        assert running.channel.exchange({"a": b"xy", "b": b"xy"}, 0.5) == {"b": b"yx"}


# -- parties that dial out --------------------------------------------------------------------------------------------


def _check_absent(rig: DialledRig) -> None:
    """A request waits for a party that is not there, until the deadline and no longer."""
    with rig.running(["a", "b"], absent=["a"]) as running:
        assert running.channel.exchange({"b": b"xy"}, LONG_SECONDS) == {"b": b"yx"}, "everybody else is there"
        assert running.channel.exchange({"a": b"xy", "b": b"xy"}, 0.7) == {"b": b"yx"}
        late = threading.Timer(0.5, running.start, ["a"])
        late.start()
        assert running.channel.exchange({"a": b"xy"}, LONG_SECONDS) == {"a": b"yx"}
        late.join()


def _check_comes_back(rig: DialledRig) -> None:
    """Killed with half of its answer sent, a party that is started again in time answers in the same exchange."""
    with rig.running(["a"], absent=["a"], relay=True) as running:
        running.start("a", process=True)
        assert running.channel.exchange({"a": b"xy"}, LONG_SECONDS) == {"a": b"yx"}
        before, running.relay.bytes_per_s = running.relay.up_bytes, 8e6

        def kill_and_start() -> None:
            while running.relay.up_bytes < before + (1 << 20):
                time.sleep(0.01)
            running.kill("a")
            running.relay.bytes_per_s = float("inf")
            running.start("a", process=True)

        with _meanwhile(kill_and_start):
            answer = running.channel.exchange({"a": b"!zeros 8000000"}, LONG_SECONDS)
        assert answer == {"a": bytes(8_000_000)}


def _check_cut(rig: DialledRig) -> None:
    """A connection that is reset in the middle of an answer costs time and nothing else: it is computed once."""
    with rig.running(["a"], relay=True) as running:
        assert running.channel.exchange({"a": b"!handled"}, LONG_SECONDS) == {"a": b"1"}
        running.relay.cut()
        assert running.channel.exchange({"a": b"!handled"}, LONG_SECONDS) == {"a": b"2"}
        running.relay.cut_after = 1 << 20
        running.relay.cut()
        assert running.channel.exchange({"a": b"!zeros 3000000"}, LONG_SECONDS) == {"a": bytes(3_000_000)}
        assert running.relay.cut_after is None, "the answer was really cut"
        assert running.channel.exchange({"a": b"!handled"}, LONG_SECONDS) == {"a": b"4"}
        running.relay.delay_s = 0.05
        assert running.channel.exchange({"a": b"xy"}, LONG_SECONDS) == {"a": b"yx"}


def _check_restarted(rig: DialledRig) -> None:
    """A coordinator that ends and is there again is found again; an answer to its former life is not taken for one."""
    with rig.running(["a", "b"]) as running:
        assert len(running.channel.exchange({"a": b"x", "b": b"x"}, LONG_SECONDS)) == 2, "everybody is there"
        assert running.channel.exchange({"a": b"!sleep 0.6", "b": b"xy"}, 0.3) == {"b": b"yx"}
        running.restart_channel()
        assert running.channel.exchange({"a": b"one", "b": b"two"}, LONG_SECONDS) == {"a": b"eno", "b": b"owt"}


def _check_partition(rig: DialledRig) -> None:
    """A partition that heals in time is not noticed; one that does not is a dropout, and the next exchange works."""
    with rig.running(["a", "b"], relay=True) as running:
        both = {"a": b"xy", "b": b"xy"}
        assert set(running.channel.exchange(both, LONG_SECONDS)) == {"a", "b"}
        running.relay.partition()
        healer = threading.Timer(0.7, running.relay.heal)
        healer.start()
        begin = time.monotonic()
        assert set(running.channel.exchange(both, LONG_SECONDS)) == {"a", "b"}
        assert time.monotonic() - begin > 0.5, "there really was a partition"
        healer.join()
        running.relay.partition()
        assert running.channel.exchange({"a": b"one"}, 0.5) == {}
        running.relay.cut()  # both ends are left with dead connections, and new ones hang
        time.sleep(0.5)
        running.relay.heal()
        assert running.channel.exchange(both, LONG_SECONDS) == {"a": b"yx", "b": b"yx"}


def _check_twice(rig: DialledRig) -> None:
    """Whoever repeats a party's bytes on another connection reaches nothing."""
    with rig.running(["a"], absent=["a"], relay=True) as running:
        running.relay.twice = True
        running.start("a")
        assert running.channel.exchange({"a": b"xy"}, LONG_SECONDS) == {"a": b"yx"}
        assert running.channel.exchange({"a": b"!handled"}, LONG_SECONDS) == {"a": b"2"}


def _check_strangers(rig: DialledRig) -> None:
    """Certificates of another authority, on no list, or expired are not taken for a party's."""
    heard: list[bytes] = []

    def handler(request: bytes) -> bytes:
        heard.append(request)
        return b"I am a"

    with (
        _told() as lines,
        tempfile.TemporaryDirectory() as folder,
        rig.running(["a", "b", "old"], absent=["a", "old"], expired=["old"]) as running,
    ):
        forged = InsecureAuthority(Path(folder)).issue("a")
        trusting = dataclasses.replace(forged, authority=running.authority.certificate)
        running.serve("a", trusting, handler)
        running.serve("old", running.issued["old"], handler)
        running.serve("a", running.authority.issue("unlisted"), handler)
        running.serve("a", running.issued["b"], handler)  # on the list, under another name
        deadline = time.monotonic() + 20
        while missing := [words for words in rig.refusals if not any(words in line for line in lines)]:
            assert time.monotonic() < deadline, f"{missing} are not in the log:\n{lines}"
            time.sleep(0.05)
        assert running.channel.exchange({"a": b"x", "b": b"xy", "old": b"x"}, 0.7) == {"b": b"yx"}
        assert not heard


def _check_revoked(rig: DialledRig) -> None:
    """A party whose certificate is taken off the list is a dropout at once; with another one it is back."""
    with rig.running(["a", "b"]) as running:
        assert set(running.channel.exchange({"a": b"x", "b": b"x"}, LONG_SECONDS)) == {"a", "b"}
        prints = {name: one.fingerprint for name, one in running.issued.items()}
        running.channel.replace_parties({"b": prints["b"]})
        assert running.channel.exchange({"a": b"xy", "b": b"xy"}, 0.7) == {"b": b"yx"}
        renewed = running.authority.issue("a-renewed")
        running.channel.replace_parties({**prints, "a": renewed.fingerprint})
        running.serve("a", renewed, lambda _request: b"renewed")
        assert running.channel.exchange({"a": b"xy", "b": b"xy"}, LONG_SECONDS) == {"a": b"renewed", "b": b"yx"}


def _check_stopped(rig: DialledRig) -> None:
    """SIGTERM: the request at hand is answered, and the process ends with status 0."""
    with rig.running(["a"], absent=["a"]) as running:
        running.start("a", process=True)
        assert running.channel.exchange({"a": b"xy"}, LONG_SECONDS) == {"a": b"yx"}
        status: list[int] = []

        def stop() -> None:
            time.sleep(0.3)
            status.append(running.terminate("a"))

        with _meanwhile(stop):
            assert running.channel.exchange({"a": b"!sleep 0.8"}, LONG_SECONDS) == {"a": b"slept"}
        assert status == [0]
        running.start("a", process=True)
        assert running.channel.exchange({"a": b"xy"}, LONG_SECONDS) == {"a": b"yx"}
        begin = time.monotonic()
        assert running.terminate("a") == 0
        assert time.monotonic() - begin < 5.0, "a party that only waits for work ends at once"


@contextlib.contextmanager
def _meanwhile(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


@contextlib.contextmanager
def _told() -> Iterator[list[str]]:
    """What channels say in the log while the block runs."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    target = logging.getLogger("blindsight.channels")
    target.addHandler(handler)
    try:
        yield lines
    finally:
        target.removeHandler(handler)


_ALL: tuple[Check, ...] = (
    _check_exchange,
    _check_deadlines,
    _check_raising,
    _check_big,
    _check_twenty,
    _check_unknown,
    _check_closing,
)
_PROCESSES: tuple[Check, ...] = (_check_killed,)
_DIALLED: tuple[Check, ...] = (
    _check_absent,
    _check_restarted,
    _check_strangers,
    _check_revoked,
    _check_stopped,
)
_RELAYED: tuple[Check, ...] = (_check_comes_back, _check_cut, _check_partition, _check_twice)
