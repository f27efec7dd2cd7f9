"""A party that knows its coordinator's certificate talks to that one alone, and follows when it is replaced."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from blindsight.channels import GrpcChannel, HttpsChannel, serve
from blindsight.errors import ParameterError
from blindsight.testing import InsecureAuthority

CHANNELS = {"https": HttpsChannel, "grpc": GrpcChannel}


@pytest.mark.parametrize("kind", CHANNELS)
def test_a_coordinator_that_was_replaced_is_refused(kind: str, tmp_path: Path) -> None:
    authority = InsecureAuthority(tmp_path)
    old, new = (authority.issue(name, server=True) for name in ("old", "new"))
    party = authority.issue("a")
    prints = {"a": party.fingerprint}
    expected, heard, stop = [old.fingerprint], [], threading.Event()

    def answer(request: bytes) -> bytes:
        heard.append(request)
        return request.upper()

    with CHANNELS[kind](prints, **old.files) as channel:
        port = int(channel.url.rsplit(":", 1)[-1])
        thread = threading.Thread(
            target=serve,
            args=(answer, channel.url),
            kwargs={"name": "a", "coordinator": lambda: expected[0], "stop": stop, "max_backoff_s": 0.3, **party.files},
        )
        thread.start()
        assert channel.exchange({"a": b"one"}, 30.0) == {"a": b"ONE"}
        expected[0] = new.fingerprint  # the party has accepted a list that names another certificate
        assert channel.exchange({"a": b"over the connection that stands"}, 0.7) == {}
        assert channel.exchange({"a": b"over a new one"}, 0.7) == {}
    with CHANNELS[kind](prints, **new.files, port=port) as channel:
        assert channel.exchange({"a": b"two"}, 30.0) == {"a": b"TWO"}
        stop.set()
        thread.join()
    assert heard == [b"one", b"two"]


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_fingerprint_that_is_none_is_said_at_once(scheme: str, tmp_path: Path) -> None:
    files = InsecureAuthority(tmp_path).issue("a").files
    with pytest.raises(ParameterError, match="fingerprint of the coordinator cannot be used"):
        serve(bytes, f"{scheme}://127.0.0.1:1", name="a", coordinator="xyz", **files)


def test_grpc_trusts_the_very_certificate_and_no_other_of_the_same_authority(tmp_path: Path) -> None:
    """What the pin over gRPC rests on: a certificate that is no authority's, given as the only one to trust."""
    import grpc

    authority = InsecureAuthority(tmp_path)
    right, wrong, party = (*(authority.issue(n, server=True) for n in ("right", "wrong")), authority.issue("a"))
    with GrpcChannel({"a": party.fingerprint}, **right.files) as channel:
        for trusted, accepted in ((right, True), (wrong, False)):
            credentials = grpc.ssl_channel_credentials(
                trusted.certificate.read_bytes(), party.private_key.read_bytes(), party.certificate.read_bytes()
            )
            with grpc.secure_channel(channel.url.removeprefix("grpcs://"), credentials) as line:
                ready = grpc.channel_ready_future(line)
                if accepted:
                    ready.result(10.0)
                else:
                    with pytest.raises(grpc.FutureTimeoutError):
                        ready.result(1.0)
