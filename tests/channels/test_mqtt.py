"""MQTT through a real broker: one that restarts, listens, meddles; and one that keeps parties apart."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blindsight.channels import MqttChannel, MqttTopics, mutual_context, serve, serve_mqtt
from blindsight.channels._mqtt_wire import Envelope, Sort, Why
from blindsight.errors import AuthenticationError, ParameterError, StoreError, UnavailableError
from blindsight.federation._knock import knock
from blindsight.federation.kits import Workshop, read_plan
from blindsight.testing import NO_MOSQUITTO, ChaosRelay, InsecureAuthority, Mosquitto, MqttRig
from blindsight.testing._mosquitto import free_port
from blindsight.testing._party_script import Script

pytestmark = pytest.mark.skipif(NO_MOSQUITTO is not None, reason=str(NO_MOSQUITTO))
LONG_SECONDS = 60.0


class Tap:
    """A client that reads what it may, and meddles; ``react`` gets every message that is not its own."""

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext,
        *filters: str,
        react: Callable[[str, bytes], None] | None = None,
        client_id: str = "",
    ) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
        from paho.mqtt.subscribeoptions import SubscribeOptions

        self.seen: list[tuple[str, bytes]] = []
        self._ready, self.lost = threading.Event(), threading.Event()
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False
        )
        self.client.tls_set_context(context)
        self.client.connect_timeout = 5.0

        def on_message(_client, _data, message) -> None:
            self.seen.append((message.topic, bytes(message.payload)))
            if react is not None:
                react(message.topic, bytes(message.payload))

        self.client.on_message = on_message
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_disconnect = lambda *_: self.lost.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        options = SubscribeOptions(qos=1, noLocal=True)
        self.client.subscribe([(one, options) for one in filters or ("#",)])
        assert self._ready.wait(10)

    def publish(self, topic: str, payload: bytes) -> None:
        self.client.publish(topic, payload, qos=1)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@contextlib.contextmanager
def tapped(running, **options) -> Iterator[Tap]:
    context = ssl.create_default_context(cafile=str(running.authority.certificate))
    tap = Tap(running.broker.port, context, **options)
    try:
        yield tap
    finally:
        tap.close()


def until(true: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_broker_that_dies_in_the_middle_of_an_exchange_costs_time_and_nothing_else() -> None:
    with MqttRig().running(["a", "b"], relay=True) as running:
        running.relay.bytes_per_s = 6e6
        both = {"a": b"!handled", "b": b"!handled"}
        assert running.channel.exchange(both, LONG_SECONDS) == {"a": b"1", "b": b"1"}

        def restart() -> None:
            time.sleep(0.3)
            running.broker.kill()
            time.sleep(0.3)
            running.broker.start()

        for request, answer in ((b"!sleep 0.5", b"slept"), (big := os.urandom(4 << 20), big[::-1])):
            thread = threading.Thread(target=restart)
            thread.start()
            requests = {
                "a": request,
                "b": b"!sleep 0.5",
            }  # the broker dies while b sleeps, and a's request is on its way
            assert running.channel.exchange(requests, LONG_SECONDS) == {"a": answer, "b": b"slept"}
            thread.join()
        assert running.channel.exchange(both, LONG_SECONDS) == {"a": b"4", "b": b"4"}, "each was computed once"


def test_a_broker_sees_that_something_passes_and_nothing_of_what(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "blindsight")
    with MqttRig().running(["a"], absent=["a"]) as running, tapped(running) as tap:
        running.start("a")
        secret = os.urandom(300_000)
        marks = [secret[i : i + 16] for i in range(0, len(secret), 10_000)]
        assert running.channel.exchange({"a": secret}, LONG_SECONDS)["a"] == secret[::-1]

        def found() -> int:
            everything = b"".join(payload for _, payload in tap.seen)
            return sum(mark in everything or mark[::-1] in everything for mark in marks)

        until(lambda: sum(len(payload) for _, payload in tap.seen) > 2 * len(secret), "all of it was recorded")
        assert found() == 0
        assert max(len(payload) for _, payload in tap.seen) <= 1 << 18
        # the same search finds what is there: a broker that is told in the clear
        tap.seen.append(("control", secret))
        assert found() == len(marks)


def test_what_was_recorded_is_played_again_and_nobody_is_disturbed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "blindsight")
    with MqttRig().running(["a"], absent=["a"]) as running, tapped(running) as tap:
        running.start("a")
        assert running.channel.exchange({"a": b"!handled"}, LONG_SECONDS) == {"a": b"1"}
        first = list(tap.seen)
        running._threads[0][1].set()
        running._threads[0][0].join()
        running.start("a")  # another process, another session
        assert running.channel.exchange({"a": b"!handled"}, LONG_SECONDS) == {"a": b"1"}
        caplog.clear()
        for topic, payload in [*first, *list(tap.seen)]:
            if not topic.endswith("presence"):
                tap.publish(topic, payload)
        assert running.channel.exchange({"a": b"!handled"}, LONG_SECONDS) == {"a": b"2"}
        assert "reach" not in caplog.text, "the session that ran goes on"


def test_a_broker_that_keeps_to_the_standard_delivers_no_packet_that_is_too_long(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with MqttRig().running(["a"]) as running, tapped(running) as tap:
        assert running.channel.exchange({"a": b"!handled"}, LONG_SECONDS) == {"a": b"1"}
        topic = running.channel._topics.up("a")
        tap.publish(topic, bytes(1 << 20))
        tap.publish(topic, bytes(1 << 18))  # of 256 KiB, which is delivered, and no message of ours
        until(lambda: "is dropped" in caplog.text, "the second one has come")
        assert caplog.text.count("is dropped") == 1, "and the first has not"
        assert running.channel.exchange({"a": b"!handled"}, LONG_SECONDS) == {"a": b"2"}
        assert "reach" not in caplog.text, "no connection has ended"


def damaged(payload: bytes) -> bytes:
    envelope = Envelope.decode(payload)
    records = bytearray(envelope.records)
    records[-1] ^= 1
    return Envelope(envelope.sort, envelope.session, envelope.number + 1, envelope.credit, bytes(records)).encode()


def ahead(payload: bytes) -> bytes:
    envelope = Envelope.decode(payload)
    return Envelope(Sort.DATA, envelope.session, envelope.number + 3, envelope.credit, envelope.records).encode()


def ended(payload: bytes) -> bytes:
    return Envelope(Sort.END, Envelope.decode(payload).session, Why.REFUSED).encode()


def generous(payload: bytes) -> bytes:
    return Envelope(Sort.CREDIT, Envelope.decode(payload).session, 0, 2**64 - 1).encode()


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("deed", [damaged, ahead, ended, generous, lambda _: b"junk", lambda payload: payload])
def test_a_broker_that_meddles_costs_time_and_changes_nothing(deed: Callable[[bytes], bytes], direction: str) -> None:
    """It puts one forged message behind the third of a direction, in the middle of an answer or a request."""
    with MqttRig().running(["a"], absent=["a"]) as running:
        count, forged = [0], threading.Event()

        def react(topic: str, payload: bytes) -> None:
            if topic.endswith(direction) and Envelope.decode(payload).sort is Sort.DATA:
                count[0] += 1
                if count[0] == 3:
                    tap.publish(topic, deed(payload))
                    forged.set()

        with tapped(running, react=react) as tap:
            running.start("a")
            secret = os.urandom(1 << 20)
            for _ in range(3):
                assert running.channel.exchange({"a": secret}, LONG_SECONDS) == {"a": secret[::-1]}
            assert forged.is_set()


def test_presence_that_is_forged_or_taken_away_delays_and_no_more() -> None:
    with MqttRig().running(["a"]) as running, tapped(running) as tap:
        assert running.channel.exchange({"a": b"!handled"}, LONG_SECONDS) == {"a": b"1"}
        presence = MqttTopics(running.coordinator.fingerprint).presence
        tap.publish(presence, b"another boot id.")
        assert running.channel.exchange({"a": b"!handled"}, LONG_SECONDS) == {"a": b"2"}
        running.channel.close()
        until(lambda: (presence, b"") in tap.seen, "the broker takes the presence of who has left back")


def test_a_party_that_waits_for_a_coordinator_goes_to_the_next_one_when_it_is_told_of_it() -> None:
    """The topics are others; nobody would ever appear at the old ones."""
    with MqttRig().running(["a"], absent=["a"]) as running:
        told, stop = ["00" * 32], threading.Event()
        options = {"name": "a", "stop": stop, "keepalive_s": 0.2, "max_backoff_s": 0.3, **running.issued["a"].files}
        options["coordinator"] = lambda: told[0]
        party = threading.Thread(target=serve_mqtt, args=(Script(), running.url), kwargs=options)
        party.start()
        assert running.channel.exchange({"a": b"x"}, 0.5) == {}
        told[0] = running.coordinator.fingerprint
        assert running.channel.exchange({"a": b"xy"}, LONG_SECONDS) == {"a": b"yx"}
        time.sleep(0.2)  # its answer is acknowledged, so that there is nothing to deliver when it is told to stop
        told[0] = "00" * 32
        assert running.channel.exchange({"a": b"xy"}, 0.5) == {}
        stop.set()
        party.join()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x32\x00",  # a PUBLISH with nothing in it
        b"\x32\x03\x00\xffx",  # a topic that is longer than the packet
        b"\x32\x05\x00\x01\xff\x00\x01",  # no UTF-8
        b"\x90\x01\x00",  # a SUBACK without a number
        b"\xf0\xff\xff\xff\xff\xff",  # a length that never ends
    ],
)
def test_a_party_survives_a_broker_that_speaks_no_mqtt(garbage: bytes, tmp_path: Path) -> None:
    authority = InsecureAuthority(tmp_path)
    broker, issued, stop = authority.issue("broker", server=True), authority.issue("a"), threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(broker.certificate, broker.private_key)
    visits = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"mqtts://127.0.0.1:{listener.getsockname()[1]}"
        options = {"name": "a", "stop": stop, "coordinator": "00" * 32, "max_backoff_s": 0.1, **issued.files}
        party = threading.Thread(target=serve_mqtt, args=(bytes, url), kwargs=options)
        party.start()
        for _ in range(3):
            raw, _ = listener.accept()
            with context.wrap_socket(raw, server_side=True) as tls:
                assert tls.recv(1 << 16)[0] == 0x10  # CONNECT
                tls.sendall(b"\x20\x03\x00\x00\x00")
                assert tls.recv(1 << 16)[0] == 0x82  # SUBSCRIBE
                tls.sendall(garbage)
                with contextlib.suppress(OSError):
                    while tls.recv(1 << 16):
                        pass
            visits += 1
        stop.set()
        party.join(20)
    assert (visits, party.is_alive()) == (3, False)


def test_what_waits_at_the_broker_stays_below_the_least_that_it_keeps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight messages and no more: with 8 MiB for a party behind a slow line it has nothing to drop."""
    caplog.set_level(logging.INFO, "blindsight")
    authority = InsecureAuthority(tmp_path)
    settings = "max_queued_messages 10\nmax_inflight_messages 2\n"
    with Mosquitto.open_to_all(tmp_path, authority, settings) as broker:
        coordinator, issued, stop = authority.issue("coordinator", server=True), authority.issue("a"), threading.Event()
        with MqttChannel({"a": issued.fingerprint}, **coordinator.files, port=broker.port) as channel:
            options = {"name": "a", "stop": stop, "coordinator": coordinator.fingerprint, **issued.files}
            with ChaosRelay("127.0.0.1", broker.port) as relay:
                relay.bytes_per_s = 20e6
                url = f"mqtts://127.0.0.1:{relay.port}"
                party = threading.Thread(target=serve_mqtt, args=(lambda request: request[::-1], url), kwargs=options)
                party.start()
                big = os.urandom(8 << 20)
                assert channel.exchange({"a": big}, LONG_SECONDS) == {"a": big[::-1]}
                stop.set()
                party.join()
    assert "again" not in caplog.text, "nothing was lost: there was one session"


# -- the broker of a kit ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Mosquitto]]:
    folder, port = tmp_path_factory.mktemp("mqtt"), free_port()
    (folder / "federation.toml").write_text(
        f'name = "card-fraud"\n[coordinator]\naddresses = ["mqtts://127.0.0.1:{port}"]\n'
        + "".join(f'[[parties]]\nname = "bank-{one}"\n' for one in "abc")
    )
    Workshop.create(read_plan(folder / "federation.toml"), folder / "kits")
    with Mosquitto.of_kit(folder / "kits" / "broker", port) as broker:
        yield folder / "kits", broker


def files_of(kits: Path, name: str) -> dict[str, Path]:
    key = "tls.key" if name == "coordinator" else "keys/tls.key"
    names = {"certificate": "tls.crt", "private_key": key, "authority": "authority.crt"}
    return {what: kits / name / file for what, file in names.items()}


def context_of(kits: Path, name: str) -> ssl.SSLContext:
    files = files_of(kits, name)
    return mutual_context(
        certificate=files["certificate"],
        private_key=files["private_key"],
        trusted=[files["authority"]],
        server=False,
        check_name=True,
    )


def test_a_party_reads_and_writes_its_own_topics_alone(
    kits: tuple[Path, Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    folder, port = kits[0], kits[1].port
    listing = Workshop(folder).current
    topics = MqttTopics(listing.coordinator.certificate)
    stop = threading.Event()
    options = {"name": "bank-a", "stop": stop, "coordinator": listing.coordinator.certificate}
    with MqttChannel(listing.certificates, **files_of(folder, "coordinator"), port=port) as channel:
        party = threading.Thread(
            target=serve, args=(Script(), channel.url), kwargs={**options, **files_of(folder, "bank-a")}
        )
        # everything that there is, by name and by wildcard; under another one's client id, which must not end the other
        everything = ("#", topics.down("bank-a"), topics.down("bank-b"), topics.up("bank-a"), topics.every_up)
        spy = Tap(port, context_of(folder, "bank-b"), *everything, client_id="bank-a")
        try:
            party.start()
            assert channel.exchange({"bank-a": b"!handled"}, LONG_SECONDS) == {"bank-a": b"1"}
            spy.publish(topics.up("bank-a"), b"junk")
            spy.publish(topics.down("bank-a"), b"junk")
            spy.publish(topics.up("bank-b"), b"junk")
            until(lambda: "said to be of bank-b is dropped" in caplog.text, "its own topic reaches the coordinator")
            spy.publish(topics.up("bank-b"), Envelope(Sort.CREDIT, bytes(16), 0, 1).encode())
            down = (topics.down("bank-b"), Envelope(Sort.END, bytes(16), Why.UNKNOWN).encode())
            until(lambda: down in spy.seen, "what is for it reaches it")
            assert channel.exchange({"bank-a": b"!handled"}, LONG_SECONDS) == {"bank-a": b"2"}
            assert {topic for topic, _ in spy.seen} <= {topics.down("bank-b"), topics.presence}
            assert "said to be of bank-a is dropped" not in caplog.text
            assert not spy.lost.is_set()
        finally:
            spy.close()
            stop.set()
            party.join()


def test_who_comes_and_goes_is_let_in_and_shut_out_with_the_access_list(
    kits: tuple[Path, Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    (folder, broker), workshop = kits, Workshop(kits[0])
    workshop.add("bank-d", contact="Dora")
    topics = MqttTopics(workshop.current.coordinator.certificate)
    names = ["bank-a", "bank-d"]

    def heard(junk: bytes) -> set[str]:
        """Whose junk reaches the coordinator, once that of bank-a has."""
        caplog.clear()
        with contextlib.ExitStack() as stack:
            for name in reversed(names):
                spy = Tap(broker.port, context_of(folder, name), topics.down(name))
                stack.callback(spy.close)
                for _ in range(3):
                    spy.client.publish(topics.up(name), junk, qos=1).wait_for_publish(10)
            until(lambda: "of bank-a is dropped" in caplog.text, "bank-a is heard")
        return {name for name in names if f"of {name} is dropped" in caplog.text}

    prints = {name: workshop.current.certificates[name] for name in names}
    with MqttChannel(prints, **files_of(folder, "coordinator"), port=broker.port):
        assert heard(b"before") == {"bank-a"}
        broker.reload()
        until(lambda: heard(b"between") == {"bank-a", "bank-d"}, "who was added is heard")
        workshop.revoke("bank-d")
        broker.reload()
        until(lambda: heard(b"after") == {"bank-a"}, "who was revoked is not heard")


def test_a_party_under_another_ones_name_is_told_what_is_wrong(
    kits: tuple[Path, Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    (folder, broker), listing = kits, Workshop(kits[0]).current
    stop, heard = threading.Event(), []
    options = {"name": "bank-b", "stop": stop, "coordinator": listing.coordinator.certificate}
    with MqttChannel(listing.certificates, **files_of(folder, "coordinator"), port=broker.port) as channel:
        swapped = {**options, **files_of(folder, "bank-a")}
        party = threading.Thread(target=serve_mqtt, args=(heard.append, channel.url), kwargs=swapped)
        party.start()
        until(lambda: "The broker does not take what we publish. Got: Not authorized" in caplog.text, "it is told")
        stop.set()
        party.join()
    assert not heard


def test_who_has_no_certificate_of_the_federation_is_not_let_in(kits: tuple[Path, Mosquitto], tmp_path: Path) -> None:
    (folder, broker), address = kits, f"mqtts://127.0.0.1:{kits[1].port}"
    own, forged = files_of(folder, "bank-a"), InsecureAuthority(tmp_path).issue("bank-a")
    assert knock(address, **own, expected="", timeout_s=5.0).level == "ok"
    refused = knock(address, **{**forged.files, "authority": own["authority"]}, expected="", timeout_s=5.0)
    assert (refused.level, "newest kit" in str(refused.fix)) == ("fail", True)
    with pytest.raises((UnavailableError, AuthenticationError), match="broker"):
        MqttChannel({}, **{**forged.files, "authority": own["authority"]}, port=broker.port)
    with pytest.raises(UnavailableError, match="broker's TLS is not accepted"):
        MqttChannel({}, **forged.files, port=broker.port)
    context = ssl.create_default_context(cafile=str(own["authority"]))
    with (
        socket.create_connection(("127.0.0.1", broker.port)) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as tls,
        pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
    ):
        tls.recv(1)


def test_what_cannot_be_used_is_said_at_once(tmp_path: Path) -> None:
    authority = InsecureAuthority(tmp_path)
    files, pinned = authority.issue("a").files, "00" * 32
    for url in ("https://127.0.0.1:1", "mqtts://host", "mqtts://user@host:1", "mqtts://host:1/path"):
        with pytest.raises(ParameterError, match="address cannot be used"):
            serve_mqtt(bytes, url, name="a", coordinator=pinned, **files)
    with pytest.raises(ParameterError, match="has to know its coordinator's certificate"):
        serve(bytes, "mqtts://127.0.0.1:1", name="a", **files)
    with pytest.raises(ParameterError, match="cannot stand in a topic"):
        serve(bytes, "mqtts://127.0.0.1:1", name="a/+", coordinator=pinned, **files)
    with pytest.raises(StoreError, match=r"trusted certificates in 'nowhere.crt'"):
        serve_mqtt(
            bytes, "mqtts://h:1", name="a", coordinator=pinned, **{**files, "authority": tmp_path / "nowhere.crt"}
        )
    with pytest.raises(ParameterError, match="cannot stand in a topic"):
        MqttChannel({"a/b": pinned}, **files)
    with pytest.raises(UnavailableError, match="broker cannot be reached"):
        MqttChannel({"a": pinned}, **files, port=free_port())
