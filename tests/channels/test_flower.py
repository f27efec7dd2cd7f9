"""The channel over Flower with carriers that are slow, broken and hostile; its sockets; the app's files."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import stat
import threading
import time
import tomllib
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from blindsight.channels import FlowerChannel, _flower_party, serve, serve_flower, write_flower_app
from blindsight.channels._flower_app.blindsight_courier import courier
from blindsight.channels._flower_nodes import MAX_NODES
from blindsight.channels._parcels import STRANGER_BYTES, Parcel, ParcelSession, new_session
from blindsight.channels._pin import pin_context
from blindsight.channels._tls import mutual_context
from blindsight.channels._unix import listen_unix
from blindsight.errors import ParameterError, StoreError, UnavailableError
from blindsight.testing import FlowerRig, InsecureAuthority
from blindsight.testing._flower_rig import FakeFleet, RunningFlower

SECONDS = 60.0
PART = 0.15  # of the parcels is tampered with: a session begins with six, so that some live


class Carrier:
    """Does one thing to some parcels, and keeps all that it saw."""

    def __init__(self, how: str) -> None:
        self.how, self.seen, self.done = how, [], 0
        self._dice = random.Random(7)
        self._last: dict[tuple[int, bool], bytes] = {}

    def __call__(self, node: int, up: bool, parcel: bytes) -> Iterable[bytes]:
        self.seen.append(parcel)
        before = self._last.get((node, up), parcel)
        others = [one for (other, way), one in self._last.items() if other != node and way == up]
        self._last[node, up] = parcel
        if self._dice.random() > PART:
            return [parcel]
        self.done += 1
        return {
            "changes": [parcel[:-1] + bytes([parcel[-1] ^ 1])],
            "drops": [],
            "repeats": [parcel, parcel],
            "brings old ones first": [before, parcel],
            "brings old ones instead": [before],
            "swaps parties": others[:1] or [parcel],
            "cuts": [parcel[: len(parcel) // 2]],
            "makes up": [b"\1" + bytes(len(parcel))],
        }[self.how]


@pytest.mark.parametrize(
    "how",
    [
        "changes",
        "drops",
        "repeats",
        "brings old ones first",
        "brings old ones instead",
        "swaps parties",
        "cuts",
        "makes up",
    ],
)
def test_a_hostile_carrier_costs_time_and_nothing_else(how: str) -> None:
    carrier = Carrier(how)
    with FlowerRig().running(["a", "b"]) as running:
        running.fleet.tamper = carrier
        for turn in range(6):
            requests = {name: b"a plain word %s %d" % (name.encode(), turn) for name in "ab"}
            answers = running.channel.exchange(requests, SECONDS)
            assert answers == {name: request[::-1] for name, request in requests.items()}
        running.fleet.tamper = None
        counts = running.channel.exchange({"a": b"!handled", "b": b"!handled"}, SECONDS)
    assert carrier.done > 2
    assert counts == {"a": b"7", "b": b"7"}, "every request was computed once, however often it was carried"
    assert not any(b"plain word" in parcel or b"drow nialp" in parcel for parcel in carrier.seen)


def test_a_session_costs_two_messages_and_an_exchange_one() -> None:
    with FlowerRig().running(["a"]) as running:
        assert running.channel.exchange({"a": b"xy"}, SECONDS) == {"a": b"yx"}
        first = running.fleet.carried
        for _ in range(5):
            running.channel.exchange({"a": b"xy"}, SECONDS)
        assert running.fleet.carried == first + 5
        assert first <= 4  # knock, handshake, letter; one more where the party was not listening yet


def test_a_request_that_takes_longer_than_couriers_wait_is_asked_for_again() -> None:
    with FlowerRig().running(["a"], absent=["a"]) as running:
        running.options["hold_s"] = 0.1
        running.start("a")
        assert running.channel.exchange({"a": b"xy"}, SECONDS) == {"a": b"yx"}
        before = running.fleet.carried
        assert running.channel.exchange({"a": b"!sleep 0.6"}, SECONDS) == {"a": b"slept"}
        assert running.fleet.carried >= before + 3
        assert running.channel.exchange({"a": b"!handled"}, SECONDS) == {"a": b"3"}


def test_sessions_outlive_the_app() -> None:
    with FlowerRig().running(["a", "b"]) as running:
        requests = {"a": b"xy", "b": b"xy"}
        assert len(running.channel.exchange(requests, SECONDS)) == 2
        running.restart_app()
        assert len(running.channel.exchange(requests, SECONDS)) == 2
        threading.Timer(0.2, running.restart_app).start()
        assert running.channel.exchange({"a": b"!sleep 0.5", "b": b"xy"}, SECONDS) == {"a": b"slept", "b": b"yx"}
        assert running.channel.exchange({"a": b"!handled"}, SECONDS) == {"a": b"4"}


def test_another_coordinator_than_the_pinned_one_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[bytes] = []
    with FlowerRig().running(["a"], absent=["a"]) as running, caplog.at_level(logging.WARNING):
        running.options["coordinator"] = "00" * 32
        running.serve("a", running.issued["a"], lambda request: heard.append(request) or b"")
        assert running.channel.exchange({"a": b"xy"}, 1.0) == {}
    assert not heard
    assert "the one that is expected is 0000" in caplog.text


def test_a_coordinator_that_is_replaced_is_refused_over_a_session_that_stands() -> None:
    with FlowerRig().running(["a"], absent=["a"]) as running:
        print_ = InsecureAuthority(running.folder, "other").issue("another", server=True).fingerprint
        expected = [running.coordinator.fingerprint]
        running.options["coordinator"] = lambda: expected[-1]
        running.start("a")
        assert running.channel.exchange({"a": b"xy"}, SECONDS) == {"a": b"yx"}
        expected.append(print_)
        assert running.channel.exchange({"a": b"xy"}, 1.0) == {}
        expected.pop()
        assert running.channel.exchange({"a": b"!handled"}, SECONDS) == {"a": b"2"}


def test_who_talks_nonsense_at_the_coordinators_socket_is_cut_off() -> None:
    with FlowerRig().running(["a"]) as running:
        for nonsense in (b"\xff" * 8, courier.LENGTH.pack(courier.HEAD.size) + bytes(courier.HEAD.size)):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(str(running.channel.socket))
                stranger.sendall(nonsense)
                stranger.settimeout(20)
                while stranger.recv(1 << 16):  # the list of errands; then the end
                    pass
        assert running.channel.exchange({"a": b"xy"}, SECONDS) == {"a": b"yx"}


@pytest.mark.parametrize(
    ("kind", "length", "match"),
    [
        (courier.NODES, courier.LENGTH.size * (MAX_NODES + 1), "4097 nodes"),
        (courier.LOST, STRANGER_BYTES + 1, "65537 bytes of why"),
    ],
)
def test_a_frame_that_is_too_long_for_its_kind_is_refused_before_its_body_comes(
    kind: int, length: int, match: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FlowerRig().running(["a"], absent=["a"]) as running:
        running.fleet.close()
        with socket.socket(socket.AF_UNIX) as app:
            app.settimeout(20)
            app.connect(str(running.channel.socket))
            head = courier.HEAD.pack(kind, 0, 0, 0.0)
            app.sendall(courier.LENGTH.pack(len(head) + length) + head)
            assert app.recv(1) == b""
    assert match in caplog.text


def test_who_talks_nonsense_at_a_partys_socket_reaches_nothing() -> None:
    with FlowerRig().running(["a"]) as running:
        assert running.channel.exchange({"a": b"xy"}, SECONDS) == {"a": b"yx"}
        agent = str(running.fleet.agents[0])
        hello = courier.ask(agent, b"nonsense")
        assert hello[:1] == b"\1"
        assert courier.ask(agent, hello) != hello, "its own words are none of the coordinator's"
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(agent)
            stranger.sendall(courier.LENGTH.pack(1 << 40))
            stranger.settimeout(20)
            assert stranger.recv(1) == b""
        assert running.channel.exchange({"a": b"!handled"}, SECONDS) == {"a": b"2"}


class HostileNode:
    """A node with a certificate of the authority's and no place on the list, seen from the coordinator's socket."""

    def __init__(self, running: RunningFlower, name: str) -> None:
        issued = running.authority.issue(name)
        context = mutual_context(
            certificate=issued.certificate,
            private_key=issued.private_key,
            trusted=[issued.authority],
            server=False,
            check_name=False,
        )
        self.carried = ParcelSession(
            pin_context(context, running.coordinator.fingerprint), server=False, session=new_session()
        )
        self._app = socket.socket(socket.AF_UNIX)
        self._app.settimeout(20)
        self._app.connect(str(running.channel.socket))
        courier.write(self._app, courier.HEAD.pack(courier.NODES, 0, 0, 0.0), courier.LENGTH.pack(7))

    def asked(self) -> tuple[int, Parcel]:
        """Number and parcel of the next errand."""
        frame = courier.read(self._app)
        kind, node, number, _ = courier.HEAD.unpack_from(frame)
        assert (kind, node) == (courier.CARRY, 7)
        return number, Parcel.decode(frame[courier.HEAD.size :])

    def answer(self, number: int, parcel: bytes, more: int = 0) -> None:
        """Answer an errand, with so many megabytes behind what there is to say."""
        head = courier.HEAD.pack(courier.ANSWER, 7, number, 0.0)
        self._app.sendall(courier.LENGTH.pack(len(head) + len(parcel) + more * len(MEGABYTE)) + head + parcel)
        for _ in range(more):
            self._app.sendall(MEGABYTE)

    def lose(self, number: int, reason: str) -> None:
        """Say that an errand was lost."""
        courier.write(self._app, courier.HEAD.pack(courier.LOST, 7, number, 0.0), reason.encode())

    def shake(self) -> int:
        """Come so far that our certificate lies ready; the number under which to send it."""
        number, knock = self.asked()
        assert knock.session == bytes(16)
        self.answer(number, self.carried.parcel().encode())
        number, hello = self.asked()
        self.carried.take(hello)
        return number

    def close(self) -> None:
        self._app.close()


MEGABYTE = bytes(1 << 20)


@pytest.mark.parametrize("when", ["before a session", "in a handshake", "with a certificate"])
def test_a_stranger_of_the_same_authority_costs_no_memory(when: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "blindsight.channels")
    with FlowerRig().running(["a"], absent=["a"]) as running:
        running.fleet.close()  # the stranger's node is all of the fleet
        node = HostileNode(running, "stranger")
        tracemalloc.start()
        try:
            if when == "before a session":
                number, _ = node.asked()
                node.answer(number, node.carried.parcel().encode(), more=64)
            elif when == "in a handshake":
                node.answer(node.shake(), node.carried.parcel().encode(), more=64)
            else:
                number = node.shake()
                node.carried.send(bytes(50_000))
                node.answer(number, node.carried.parcel().encode())
            _, again = node.asked()  # it begins anew
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            node.close()
        assert again.session == bytes(16)
        assert peak < 16 << 20, "read ahead, and no more"
        told = "a stranger was refused" if when == "with a certificate" else "longer than a stranger's may be"
        assert told in caplog.text
        running.fleet = FakeFleet(running.channel.socket)
        running.start("a")
        assert running.channel.exchange({"a": b"xy"}, SECONDS) == {"a": b"yx"}


def test_why_a_message_was_lost_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with FlowerRig().running(["a"], absent=["a"]) as running:
        running.fleet.close()
        node = HostileNode(running, "b")
        number, _ = node.asked()
        node.lose(number, "gone\n2026-01-01 INFO all is well\x1b[2J")
        node.asked()
        node.close()
    (told,) = [line for line in caplog.messages if "all is well" in line]
    assert told.isprintable()


def test_a_long_parcel_of_no_session_is_not_kept_at_a_party_and_begins_one() -> None:
    with FlowerRig().running(["a"]) as running:
        assert running.channel.exchange({"a": b"xy"}, SECONDS) == {"a": b"yx"}
        tracemalloc.start()
        try:
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.settimeout(20)
                stranger.connect(str(running.fleet.agents[0]))
                head = Parcel(new_session(), 0, 0, b"").encode()
                stranger.sendall(courier.LENGTH.pack(len(head) + 64 * len(MEGABYTE)) + head)
                for _ in range(64):
                    stranger.sendall(MEGABYTE)
                hello = Parcel.decode(courier.read(stranger))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert hello.records, "the beginning of another session"
        assert peak < 16 << 20
        assert running.channel.exchange({"a": b"!handled"}, SECONDS) == {"a": b"2"}, "the one that was goes on"


def place_in(running: RunningFlower) -> Parcel:
    """Where the next parcel to the party begins, as whoever carries sees it."""
    seen: list[bytes] = []
    running.fleet.tamper = lambda node, up, parcel: (seen.append(parcel) if not up else None, [parcel])[1]
    assert running.channel.exchange({"a": b"xy"}, SECONDS) == {"a": b"yx"}
    running.fleet.tamper = None
    last = Parcel.decode(seen[-1])
    return Parcel(last.session, last.offset + len(last.records), last.received)


def bring(agent: Path, head: Parcel, megabytes: int) -> bytes:
    """What a party answers to a parcel with so much behind its header."""
    with socket.socket(socket.AF_UNIX) as courier_:
        courier_.settimeout(60)
        courier_.connect(str(agent))
        data = head.encode()
        courier_.sendall(courier.LENGTH.pack(len(data) + megabytes * len(MEGABYTE)) + data)
        for _ in range(megabytes):
            courier_.sendall(MEGABYTE)
        return courier.read(courier_)


def peak_of(work: Callable[[], object]) -> int:
    """How many bytes of memory it takes at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lie", ["a gap", "an acknowledgement"])
def test_a_long_parcel_that_does_not_fit_into_the_session_is_not_kept(lie: str) -> None:
    with FlowerRig().running(["a"]) as running:
        place = place_in(running)
        more = (1, 0) if lie == "a gap" else (0, 1 << 20)
        head = Parcel(place.session, place.offset + more[0], place.received + more[1])
        assert peak_of(lambda: bring(running.fleet.agents[0], head, 32)) < 16 << 20
        assert running.channel.exchange({"a": b"xy"}, SECONDS) == {"a": b"yx"}, "in another session"


def test_of_parcels_that_fit_one_is_kept_once_however_many_come() -> None:
    with FlowerRig().running(["a"]) as running:
        head, answers = place_in(running), []
        couriers = [
            threading.Thread(target=lambda: answers.append(bring(running.fleet.agents[0], head, 32))) for _ in range(4)
        ]

        def come() -> None:
            for one in couriers:
                one.start()
            for one in couriers:
                one.join(60)

        peak = peak_of(come)
        assert len(answers) == 4
        assert 32 << 20 < peak < 56 << 20, "one, with room to grow, and what is read ahead of each"
        assert running.channel.exchange({"a": b"xy"}, SECONDS) == {"a": b"yx"}


def test_an_answer_is_written_to_one_courier_at_a_time_and_kept_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_flower_party, "PIECE_SECONDS", 0.7)
    with FlowerRig().running(["a"]) as running, contextlib.ExitStack() as stack:
        ask = Parcel(place_in(running).session).encode()  # as if nothing had been received
        running.fleet.tamper = lambda node, up, parcel: [] if up else [parcel]
        assert running.channel.exchange({"a": b"!zeros %d" % (8 << 20)}, 1.0) == {}
        couriers = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(5)]

        def come() -> None:
            for one in couriers:
                one.settimeout(20)
                one.connect(str(running.fleet.agents[0]))
                courier.write(one, ask)
            assert len(courier.read(couriers[-1])) > 8 << 20, "the others read nothing"

        assert peak_of(come) < 64 << 20, "two copies here, and two there"


def test_an_answer_that_is_too_long_is_a_dropout(tmp_path: Path) -> None:
    class Short(FlowerRig):
        def __init__(self) -> None:
            super().__init__()
            self.make = lambda parties, **files: FlowerChannel(parties, **files, max_message_bytes=1000)

    with Short().running(["a"]) as running:
        begin = time.monotonic()
        assert running.channel.exchange({"a": b"!zeros 1001"}, SECONDS) == {}
        assert time.monotonic() - begin < SECONDS / 2
        assert running.channel.exchange({"a": b"!zeros 1000"}, SECONDS) == {"a": bytes(1000)}


def test_sockets_are_their_owners_and_taken_over_from_the_dead_alone(tmp_path: Path) -> None:
    path = tmp_path / "flower.sock"
    with listen_unix(path) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(UnavailableError, match="Another process listens"):
            listen_unix(path)
        listener.accept()[0].close()  # the trial
    with listen_unix(path, mode=0o660):  # what the dead one left is in the way no more
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    path.unlink()
    path.write_text("something else")
    with pytest.raises(StoreError, match="no socket"):
        listen_unix(path)
    with pytest.raises(StoreError, match="too long"):
        listen_unix(tmp_path / ("x" * 100))
    with pytest.raises(StoreError, match="cannot be made"):
        listen_unix(tmp_path / "missing" / "flower.sock")


def test_addresses_of_another_kind_are_refused(tmp_path: Path) -> None:
    files = InsecureAuthority(tmp_path).issue("a").files
    with pytest.raises(ParameterError, match="flower://"):
        serve_flower(lambda _: b"", "https://host:1", name="a", **files)
    with pytest.raises(ParameterError, match="flower://HOST:PORT"):
        serve(lambda _: b"", "mail://host", name="a", **files)


def test_the_app_is_a_folder_of_its_own_that_names_no_machine(tmp_path: Path) -> None:
    folder = write_flower_app(tmp_path / "app")
    config = tomllib.loads((folder / "pyproject.toml").read_text())
    for kind, end in (("serverapp", "server_app"), ("clientapp", "client_app")):
        module = config["tool"]["flwr"]["app"]["components"][kind].partition(":")[0]
        assert (folder / f"{module.replace('.', '/')}.py").is_file()
        assert module.endswith(end)
    assert (folder / config["project"]["license"]["file"]).is_file()
    assert not list(folder.rglob("__pycache__"))
    with pytest.raises(StoreError, match="could not be written"):
        write_flower_app(folder)


def test_a_courier_says_nothing_of_its_machine(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as told:
        courier.ask(str(tmp_path / "nobody.sock"), b"parcel")
    assert str(tmp_path) not in str(told.value)
    with pytest.raises(RuntimeError, match=r"no coordinator at the socket for 0\.1 s"):
        courier.serve(str(tmp_path / "nobody.sock"), _Nothing(), 0.1)


class _Nothing:
    def forget(self) -> None:
        return
