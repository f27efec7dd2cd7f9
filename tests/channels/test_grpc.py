"""gRPC on the wire: what a party that follows docs/channels.md to the letter, or breaks it, is told."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from blindsight.channels import GrpcChannel, serve, serve_grpc
from blindsight.channels._frames import PART_BYTES, Frame, Kind
from blindsight.errors import ParameterError, StoreError, UnavailableError
from blindsight.testing import InsecureAuthority

LIMIT = 2 * PART_BYTES


class Stream:
    """A bare stream of one party."""

    def __init__(self, bench: Bench, name: str) -> None:
        one = bench.issued[name]
        credentials = grpc.ssl_channel_credentials(
            one.authority.read_bytes(), one.private_key.read_bytes(), one.certificate.read_bytes()
        )
        self._channel = grpc.secure_channel(bench.channel.url.removeprefix("grpcs://"), credentials)
        self._out: SimpleQueue[Any] = SimpleQueue()
        self.call = self._channel.stream_stream("/blindsight.v1.Courier/Stream")(iter(self._out.get, None))

    def send(self, frame: Frame | bytes) -> None:
        self._out.put(frame.encode() if isinstance(frame, Frame) else frame)

    def receive(self) -> Frame:
        return Frame.decode(next(self.call))

    def status(self) -> grpc.StatusCode:
        """How the stream ends."""
        with pytest.raises(grpc.RpcError):
            list(self.call)
        return self.call.code()

    def close(self) -> None:
        self._out.put(None)
        self.call.cancel()
        self._channel.close()


class Bench:
    def __init__(self, folder: Path) -> None:
        authority = InsecureAuthority(folder)
        self.coordinator = authority.issue("coordinator", server=True)
        self.issued = {name: authority.issue(name) for name in ("a", "b", "stranger")}
        self.prints = {name: self.issued[name].fingerprint for name in ("a", "b")}
        self.channel = GrpcChannel(self.prints, **self.coordinator.files, max_message_bytes=LIMIT)

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[Stream]:
        stream = Stream(self, name)
        try:
            yield stream
        finally:
            stream.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("grpc"))
    with bench.channel:
        yield bench


@contextlib.contextmanager
def exchanging(bench: Bench, requests: dict[str, bytes]) -> Iterator[dict[str, bytes]]:
    """The answers, once the block has ended."""
    answers: dict[str, bytes] = {}
    thread = threading.Thread(target=lambda: answers.update(bench.channel.exchange(requests, 30.0)))
    thread.start()
    yield answers
    thread.join()


def test_a_request_is_handed_out_on_every_new_stream_until_it_is_answered(bench: Bench) -> None:
    with exchanging(bench, {"a": b"work"}) as answers:
        with bench.stream("a") as stream:
            first = stream.receive()
            assert (first.kind, first.total, first.offset, first.body) == (Kind.PART, 4, 0, b"work")
            stream.send(Frame(Kind.PART, first.id, 4, 0, b"do"))  # and breaks off
        with bench.stream("a") as stream:
            assert stream.receive() == first
            stream.send(Frame(Kind.PART, first.id, 4, 0, b"do"))
            stream.send(Frame(Kind.PART, first.id, 4, 2, b"ne"))
            assert stream.receive() == Frame(Kind.DONE, first.id)
    assert answers == {"a": b"done"}
    # twice, late, and never asked: acknowledged, so that its sender goes on; and dropped
    with exchanging(bench, {"a": b"more"}) as answers, bench.stream("a") as stream, bench.stream("b") as other:
        fresh = stream.receive()
        assert fresh.id != first.id
        for letter in (first.id, "0" * 32):
            stream.send(Frame(Kind.PART, letter, 6, 0, b"forged"))
            assert stream.receive() == Frame(Kind.DONE, letter)
        other.send(Frame(Kind.PART, fresh.id, 2, 0, b"of"))
        assert other.receive() == Frame(Kind.DONE, fresh.id)
        stream.send(Frame(Kind.PART, fresh.id))
        assert stream.receive() == Frame(Kind.DONE, fresh.id)
    assert answers == {"a": b""}


def test_no_answer_and_too_long_an_answer_are_not_waited_for(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for total, words in ((0, "its handler failed"), (LIMIT + 1, "is dropped: 2097153 bytes")):
        begin = time.monotonic()
        with bench.stream("a") as stream, exchanging(bench, {"a": b"work"}) as answers:
            letter = stream.receive().id
            stream.send(Frame(Kind.PART if total else Kind.FAILED, letter, total, 0, bytes(min(total, PART_BYTES))))
        assert answers == {}
        assert time.monotonic() - begin < 10
        while words not in caplog.text:  # it is written once the exchange has been told
            assert time.monotonic() - begin < 20, caplog.text
            time.sleep(0.01)
    with exchanging(bench, {"a": b"work"}) as answers, bench.stream("a") as stream:
        letter = stream.receive().id
        stream.send(Frame(Kind.PART, letter, LIMIT, 0, bytes(PART_BYTES)))
        stream.send(Frame(Kind.PART, letter, LIMIT, PART_BYTES, bytes(PART_BYTES)))
        assert stream.receive() == Frame(Kind.DONE, letter)
    assert answers == {"a": bytes(LIMIT)}


@pytest.mark.parametrize("data", [b"", b"garbage", Frame(Kind.DONE, "0" * 32), Frame(Kind.PART, "0" * 32, 9, 3, b"x")])
def test_garbage_ends_the_stream(bench: Bench, data: Frame | bytes, caplog: pytest.LogCaptureFixture) -> None:
    with bench.stream("a") as stream:
        stream.send(data)
        assert stream.status() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the stream of a is ended" in caplog.text
    with exchanging(bench, {"a": b"work"}) as answers, bench.stream("a") as stream:
        letter = stream.receive().id
        stream.send(Frame(Kind.PART, letter, 1, 0, b"x"))
        assert stream.receive().kind is Kind.DONE
    assert answers == {"a": b"x"}


def test_a_frame_beyond_the_limit_is_not_read(bench: Bench) -> None:
    with bench.stream("a") as stream:
        stream.send(Frame(Kind.PART, "0" * 32, 4 * PART_BYTES, 0, bytes(2 * PART_BYTES)))
        assert stream.status() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_newer_stream_replaces_an_older_one(bench: Bench) -> None:
    with bench.stream("a") as old:
        old.call.initial_metadata()
        with bench.stream("a") as new, exchanging(bench, {"a": b"work"}) as answers:
            new.call.initial_metadata()
            assert old.status() is grpc.StatusCode.ABORTED
            new.send(Frame(Kind.PART, new.receive().id, 3, 0, b"new"))
        assert answers == {"a": b"new"}


def test_a_certificate_on_no_list(bench: Bench) -> None:
    with bench.stream("stranger") as stream:
        assert stream.status() is grpc.StatusCode.PERMISSION_DENIED


def test_a_party_believes_no_other_server(bench: Bench) -> None:
    """A party's certificate is signed by the same authority, even for this host, and yet no coordinator's."""
    one = bench.issued["b"]
    heard: list[bytes] = []
    with GrpcChannel(
        bench.prints, certificate=one.certificate, private_key=one.private_key, authority=one.authority
    ) as impostor:
        stop = threading.Event()
        options = {"name": "a", "stop": stop, "max_backoff_s": 0.3, **bench.issued["a"].files}
        party = threading.Thread(target=serve_grpc, args=(heard.append, impostor.url), kwargs=options)
        party.start()
        assert impostor.exchange({"a": b"records, please"}, 1.0) == {}
        stop.set()
        party.join()
    assert not heard


def test_what_cannot_be_used_is_said_at_once(bench: Bench, tmp_path: Path) -> None:
    files = bench.issued["a"].files
    for url in ("https://127.0.0.1:1", "grpcs://host", "grpcs://user@host:1", "grpcs://host:1/path"):
        with pytest.raises(ParameterError, match="address cannot be used"):
            serve_grpc(bytes, url, name="a", **files)
    with pytest.raises(
        ParameterError, match="https://HOST:PORT or grpcs://HOST:PORT or mqtts://HOST:PORT or flower://HOST:PORT"
    ):
        serve(bytes, "ftp://127.0.0.1:1", name="a", **files)
    with pytest.raises(StoreError, match=r"trusted certificates in 'nowhere.crt'"):
        serve(bytes, "grpcs://127.0.0.1:1", name="a", **{**files, "authority": tmp_path / "nowhere.crt"})
    with pytest.raises(StoreError, match=r"'a.key' or its key could not be used"):
        GrpcChannel(bench.prints, **{**bench.coordinator.files, "certificate": files["private_key"]})
    with pytest.raises(UnavailableError, match=r"cannot be listened on.*--listen HOST:PORT"):
        GrpcChannel(bench.prints, **bench.coordinator.files, port=int(bench.channel.url.rsplit(":")[-1]))
