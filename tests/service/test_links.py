"""What is said about comparison links, where they may lead, and how many there are; without a service."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.blind.mpc import make_certificate, peer_certificate
from blindsight.errors import ParameterError, WireError
from blindsight.service import RequestError, Settings
from blindsight.service._link_messages import (
    REQUEST_SCHEMA,
    Alive,
    Compared,
    Ended,
    LinkRequest,
    Opened,
    Ready,
    Refused,
    decode_event,
    decode_request,
    encode_event,
    encode_request,
    peer_address,
)
from blindsight.service._link_slots import Slots, free_port
from blindsight.service._problems import Problem

from ._running import make_client_certificate

PROBLEM = Problem(type="t", title="", status=403, detail="d", kind="PolicyError", what="w")
OPENED = Opened(name="00112233445566778899aabbccddeeff", certificate="PEM", port=9000, host="scorer.example.org")
EVENTS = [OPENED, Ready(), Alive(), Compared(rows=3), Refused(problem=PROBLEM), Ended(), Ended(problem=PROBLEM)]
WIRE = Path(__file__).parents[2] / "docs" / "wire-blind.md"


# -- what is said


def test_events_there_and_back():
    for event in EVENTS:
        line = encode_event(event)
        assert line.endswith(b"\n")
        assert decode_event(line) == event


@pytest.mark.parametrize("line", [
    b"", b"{}", b"[]", b"\xff", b'{"event":"none"}', b'{"event":"compared"}', b'{"event":"compared","rows":"3"}',
    encode_event(OPENED).replace(b"0011", b"00G1"), encode_event(OPENED).replace(b"9000", b"80"),
    encode_event(OPENED).replace(b".org", b".org/x"), b'{"event":"ready"}' + b" " * 70_000,
])  # fmt: skip
def test_malformed_events_are_refused(line):
    with pytest.raises(WireError):
        decode_event(line)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(EVENTS), st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_damaged_events_are_events_or_refused(event, at, chunk):
    line = bytearray(encode_event(event))
    line[at % len(line) : at % len(line) + 1] = chunk
    try:
        decode_event(bytes(line))
    except WireError:
        return


def test_the_documents_examples_are_read():
    text = WIRE.read_text()
    (request,) = re.findall(r"^    (\{\"port\".*\})$", text, re.M)
    assert decode_request(request.encode()) == LinkRequest(port=9010, certificate="-----BEGIN CERTIFICATE-----\n...")
    events = [decode_event(line.encode()) for line in re.findall(r"^    (\{\"event\".*\})$", text, re.M)]
    assert [type(event) for event in events] == [Opened, Ready, Compared, Refused, Alive, Ended]


def test_the_schema_says_what_is_read():
    generated = msgspec.json.schema(LinkRequest)["$defs"]["LinkRequest"]
    assert generated["required"] == REQUEST_SCHEMA["required"]
    assert generated["additionalProperties"] is False
    for name, described in REQUEST_SCHEMA["properties"].items():
        for rule, value in generated["properties"][name].items():
            if rule not in ("default", "type"):  # a default makes it optional; an enumeration has no type there
                assert described[rule] == value, (name, rule)
    decode_request(encode_request(LinkRequest(port=1024, certificate="x", host="::1", transfer="softspoken")))


# -- where links may lead


@pytest.mark.parametrize(("asked", "peer", "networks", "expected"), [
    (None, "10.1.2.3", (), "10.1.2.3"),
    ("10.1.2.3", "10.1.2.3", (), "10.1.2.3"),
    ("::ffff:10.1.2.3", "10.1.2.3", (), "10.1.2.3"),
    (None, "::ffff:10.1.2.3", (), "10.1.2.3"),
    (None, "2001:db8::1", (), "[2001:db8::1]"),
    ("10.1.2.4", "10.9.9.9", ("10.1.0.0/16",), "10.1.2.4"),
    (None, "10.1.2.3", ("10.0.0.0/30", "10.1.2.3"), "10.1.2.3"),
])  # fmt: skip
def test_addresses_that_are_allowed(asked, peer, networks, expected):
    assert peer_address(asked, peer, networks) == expected


@pytest.mark.parametrize(("asked", "peer", "networks"), [
    ("10.1.2.4", "10.1.2.3", ()),
    ("127.0.0.1", "10.1.2.3", ()),
    ("::ffff:127.0.0.1", "10.1.2.3", ()),
    ("169.254.169.254", "10.1.2.3", ()),
    ("10.1.2.3", "10.1.2.3", ("10.2.0.0/16",)),  # listed networks replace the rule
    (None, "127.0.0.1", ("10.0.0.0/8",)),  # a proxy on this machine
    ("0.0.0.0", "10.1.2.3", ("0.0.0.0/0",)),
    ("239.1.1.1", "10.1.2.3", ("0.0.0.0/0",)),
    ("localhost", "127.0.0.1", ()),
    ("127.1", "127.0.0.1", ()),
    ("0x7f000001", "127.0.0.1", ()),
    ("127.0.0.1:80", "127.0.0.1", ()),
    ("", "127.0.0.1", ()),
    (None, "", ()),
])  # fmt: skip
def test_addresses_that_are_not(asked, peer, networks):
    with pytest.raises(RequestError) as caught:
        peer_address(asked, peer, networks)
    assert caught.value.status in (403, 422)


def test_certificates_are_written_anew_and_strangers_refused(tmp_path):
    pem = make_certificate("a", tmp_path, days=1)[0].read_bytes()
    assert peer_certificate(b"# said beside it\n" + pem + b"\nmore") == pem
    authority, signed, *_ = make_client_certificate(tmp_path, "b")
    for wrong in (b"", b"x", pem + pem, pem[:-40], pem.replace(b"M", b"N", 1), bytes(20_000), authority.read_bytes(),
                  signed.read_bytes()):  # fmt: skip
        with pytest.raises(WireError):
            peer_certificate(wrong)


# -- how many


def test_a_slot_is_free_again_when_its_holder_is_killed(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from blindsight.service._link_slots import Slots\n"
        "slot = Slots(Path(sys.argv[1]), most=1, most_of_one=1, host='127.0.0.1').take('a')\n"
        "print(slot.port, flush=True); time.sleep(60)"
    )
    slots = Slots(tmp_path, most=1, most_of_one=2, host="127.0.0.1")
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        with pytest.raises(RequestError, match="As many comparison links"):
            slots.take("b")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    slot = slots.take("b")
    assert slot.folder.is_dir()
    slot.release()
    slot.release()
    assert not slot.folder.exists()


def test_ports_are_taken_from_the_range_and_not_twice(tmp_path):
    first = free_port("127.0.0.1")
    slots = Slots(tmp_path, most=3, most_of_one=3, host="127.0.0.1", ports=(first, first))
    slot = slots.take("a")
    assert slot.port == first
    with pytest.raises(RequestError, match="No port"):
        slots.take("a")
    slot.release()
    with socket.create_server(("127.0.0.1", first)), pytest.raises(RequestError, match="No port"):
        slots.take("a")
    slots.take("a").release()


def test_settings_of_links(tmp_path):
    for wrong in ({"link_host": "localhost"}, {"link_ports": (80, 90)}, {"link_ports": (9001, 9000)},
                  {"link_peers": ("10.0.0.1/8",)}, {"links": 0}):  # fmt: skip
        with pytest.raises(ParameterError):
            Settings(home=str(tmp_path), **wrong)
