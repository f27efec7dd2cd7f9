"""HTTPS on the wire: what a party that follows docs/channels.md to the letter, or breaks it, is told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from blindsight.channels import HttpsChannel, mutual_context, serve_https
from blindsight.errors import ParameterError, StoreError, UnavailableError
from blindsight.testing import InsecureAuthority


class Bench:
    """A channel to ``a`` and ``b``, and bare HTTP clients with their certificates."""

    def __init__(self, folder: Path) -> None:
        authority = InsecureAuthority(folder)
        self.coordinator = authority.issue("coordinator", server=True)
        self.issued = {name: authority.issue(name) for name in ("a", "b", "stranger")}
        self.prints = {name: self.issued[name].fingerprint for name in ("a", "b")}
        self.channel = HttpsChannel(self.prints, **self.coordinator.files, max_message_bytes=1 << 20)

    def context(self, name: str) -> ssl.SSLContext:
        one = self.issued[name]
        return mutual_context(
            certificate=one.certificate,
            private_key=one.private_key,
            trusted=[one.authority],
            server=False,
            check_name=True,
        )

    @contextlib.contextmanager
    def client(self, name: str) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=self.channel.url, verify=self.context(name), trust_env=False, timeout=20) as client:
            yield client

    @contextlib.contextmanager
    def connection(self, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
        host, port = self.channel.url.removeprefix("https://").split(":")
        with (
            socket.create_connection((host, int(port)), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            yield tls


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("https"))
    with bench.channel:
        yield bench


@contextlib.contextmanager
def exchanging(bench: Bench, requests: dict[str, bytes], timeout_s: float = 30.0) -> Iterator[dict[str, bytes]]:
    """The answers, once the block has ended."""
    answers: dict[str, bytes] = {}
    thread = threading.Thread(target=lambda: answers.update(bench.channel.exchange(requests, timeout_s)))
    thread.start()
    yield answers
    thread.join()


def poll(client: httpx.Client, wait_s: int = 20) -> httpx.Response:
    return client.post("/v1/poll", headers={"prefer": f"wait={wait_s}"})


def test_a_question_is_held_and_then_answered_with_nothing(bench: Bench) -> None:
    with bench.client("a") as client:
        begin = time.monotonic()
        assert (poll(client, 0).status_code, poll(client, 1).status_code) == (204, 204)
        assert 0.9 < time.monotonic() - begin < 10


def test_a_request_is_handed_out_until_it_is_answered(bench: Bench) -> None:
    with bench.client("a") as client:
        with exchanging(bench, {"a": b"work"}) as answers:
            first, again = poll(client), poll(client)
            assert first.content == again.content == b"work"
            letter = first.headers["x-blindsight-id"]
            assert again.headers["x-blindsight-id"] == letter
            assert client.post(f"/v1/answers/{letter}", content=b"done").status_code == 204
        assert answers == {"a": b"done"}
        assert poll(client, 0).status_code == 204
        # twice, late, and never asked: acknowledged, so that its sender goes on; and dropped
        with exchanging(bench, {"a": b"more"}) as answers:
            fresh = poll(client).headers["x-blindsight-id"]
            assert fresh != letter
            assert client.post(f"/v1/answers/{letter}", content=b"done").status_code == 204
            assert client.post(f"/v1/answers/{'0' * 32}", content=b"forged").status_code == 204
            with bench.client("b") as other:
                assert other.post(f"/v1/answers/{fresh}", content=b"of another party").status_code == 204
            assert client.post(f"/v1/answers/{fresh}", content=b"").status_code == 204
        assert answers == {"a": b""}


def test_a_party_without_an_answer_is_not_waited_for(bench: Bench) -> None:
    with bench.client("a") as client, exchanging(bench, {"a": b"work"}) as answers:
        begin = time.monotonic()
        letter = poll(client).headers["x-blindsight-id"]
        assert client.post(f"/v1/failures/{letter}").status_code == 204
    assert answers == {}
    assert time.monotonic() - begin < 10


def test_lengths_are_bounded_before_a_body_is_read(bench: Bench) -> None:
    with bench.client("a") as client:
        with exchanging(bench, {"a": b"work"}) as answers:
            letter = poll(client).headers["x-blindsight-id"]
            url = f"/v1/answers/{letter}"
            assert client.post(url, content=iter([b"no length"])).status_code == 413
            assert client.post("/v1/answers/nonsense", content=b"x").status_code == 400
            assert client.post(url, content=bytes(1 << 20)).status_code == 204
        assert answers == {"a": bytes(1 << 20)}
    with bench.connection(bench.context("a")) as tls:
        tls.sendall(f"POST {url} HTTP/1.1\r\nhost: x\r\ncontent-length: {(1 << 20) + 1}\r\n\r\n".encode())
        assert tls.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_that_ends_early_is_no_answer(bench: Bench) -> None:
    with bench.client("a") as client:
        with exchanging(bench, {"a": b"work"}) as answers:
            letter = poll(client).headers["x-blindsight-id"]
            with bench.connection(bench.context("a")) as tls:
                head = f"POST /v1/answers/{letter} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
                tls.sendall(head.encode() + b"half")
            assert poll(client).headers["x-blindsight-id"] == letter
            assert client.post(f"/v1/answers/{letter}", content=b"whole").status_code == 204
        assert answers == {"a": b"whole"}


def test_a_newer_question_replaces_an_older_one(bench: Bench) -> None:
    statuses: list[int] = []
    with bench.client("a") as old, bench.client("a") as new:
        waiting = threading.Thread(target=lambda: statuses.append(poll(old).status_code))
        waiting.start()
        time.sleep(0.3)
        with exchanging(bench, {"a": b"work"}) as answers:
            time.sleep(0.1)
            letter = poll(new).headers["x-blindsight-id"]
            new.post(f"/v1/answers/{letter}", content=b"new")
        waiting.join()
        assert answers == {"a": b"new"}
        assert statuses in ([409], [200])  # 200: it was handed out before the new question came
        waiting = threading.Thread(target=lambda: statuses.append(poll(old, 20).status_code))
        waiting.start()
        time.sleep(0.3)
        assert poll(new, 0).status_code == 204
        waiting.join()
        assert statuses[1:] == [409]


def greeting(bench: Bench, context: ssl.SSLContext) -> bytes:
    """What comes back, nothing where the connection is refused."""
    try:
        with bench.connection(context) as tls:
            tls.sendall(b"POST /v1/poll HTTP/1.1\r\nhost: x\r\nprefer: wait=0\r\n\r\n")
            return tls.recv(100)
    except OSError:
        return b""


def test_no_tls_below_1_3_and_no_client_without_a_certificate(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    assert greeting(bench, bench.context("a")).startswith(b"HTTP/1.1 204")
    old = bench.context("a")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    bare = ssl.create_default_context(cafile=str(bench.coordinator.authority))
    for context, words in ((old, "UNSUPPORTED_PROTOCOL"), (bare, "PEER_DID_NOT_RETURN_A_CERTIFICATE")):
        assert greeting(bench, context) == b""
        assert words in caplog.text
    with bench.client("stranger") as client:
        refused = client.post("/v1/poll")
        assert (refused.status_code, refused.json()["title"]) == (403, "This certificate is on no list here")
        assert client.post(f"/v1/answers/{'0' * 32}", content=bytes(1000)).status_code == 403


def test_a_party_believes_no_other_server(bench: Bench, tmp_path: Path) -> None:
    """A party's certificate is signed by the same authority, even for this host, and yet no coordinator's."""
    one = bench.issued["b"]
    heard: list[bytes] = []
    with HttpsChannel(bench.prints, certificate=one.certificate, private_key=one.private_key,
                      authority=one.authority) as impostor:  # fmt: skip
        stop = threading.Event()
        files = bench.issued["a"].files
        party = threading.Thread(
            target=serve_https, args=(heard.append, impostor.url), kwargs={"name": "a", "stop": stop, **files}
        )
        party.start()
        assert impostor.exchange({"a": b"records, please"}, 1.0) == {}
        stop.set()
        party.join()
    assert not heard


def test_what_cannot_be_used_is_said_at_once(bench: Bench, tmp_path: Path) -> None:
    files = bench.issued["a"].files
    for url in ("http://127.0.0.1:1", "https://", "https://user@host:1", "https://host/path"):
        with pytest.raises(ParameterError, match="address cannot be used"):
            serve_https(bytes, url, name="a", **files)
    with pytest.raises(StoreError, match=r"trusted certificates in 'nowhere.crt'"):
        serve_https(bytes, "https://127.0.0.1:1", name="a", **{**files, "authority": tmp_path / "nowhere.crt"})
    with pytest.raises(StoreError, match=r"'a.key' or its key could not be used"):
        HttpsChannel(bench.prints, **{**bench.coordinator.files, "certificate": files["private_key"]})
    for prints, words in (({"a": "xyz"}, "fingerprint of a"), (dict.fromkeys("ab", "0" * 64), "same certificate")):
        with pytest.raises(ParameterError, match=words):
            HttpsChannel(prints, **bench.coordinator.files)
    with pytest.raises(UnavailableError, match=r"cannot be listened on.*--listen HOST:PORT"):
        HttpsChannel(bench.prints, **bench.coordinator.files, port=int(bench.channel.url.rsplit(":")[-1]))
    with pytest.raises(ParameterError, match="does not know this party"):
        bench.channel.replace_parties({"c": "0" * 64})
