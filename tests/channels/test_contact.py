"""What a party's end of each channel says of its coordinator."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from blindsight.channels import Contact
from blindsight.testing import NO_MOSQUITTO, FlowerRig, MqttRig, grpc_rig, https_rig
from blindsight.testing._rigs import DialledRig

NEEDS_MOSQUITTO = pytest.mark.skipif(NO_MOSQUITTO is not None, reason=str(NO_MOSQUITTO))
SECONDS = 60.0


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "make",
    [https_rig, grpc_rig, pytest.param(MqttRig, marks=NEEDS_MOSQUITTO), FlowerRig],
    ids=["https", "grpc", "mqtt", "flower"],
)
def test_a_party_knows_whether_its_coordinator_is_there(make: Callable[[], DialledRig]) -> None:
    rig, contact = make(), Contact()
    with rig.running(["a"], absent=["a"]) as running:
        more = running.more
        running.more = lambda: {**more(), "contact": contact}
        assert (contact.connected, contact.seconds) == (False, None)
        running.start("a")
        assert running.channel.exchange({"a": b"xy"}, SECONDS) == {"a": b"yx"}
        until(lambda: contact.connected)
        before = contact.seconds
        assert before is not None
        time.sleep(0.05)
        assert running.channel.exchange({"a": b"!handled"}, SECONDS) == {"a": b"2"}
        until(lambda: contact.seconds < before + 0.05)
        if rig.name != "flower":  # there the carrier's end is nobody's here to see
            running.channel.close()
            until(lambda: not contact.connected)
            assert sum(contact.failures.values()) >= 1


def test_another_coordinator_than_the_pinned_one_is_no_contact() -> None:
    contact = Contact()
    with FlowerRig().running(["a"], absent=["a"]) as running:
        running.options |= {"coordinator": "00" * 32, "contact": contact}
        running.start("a")
        assert running.channel.exchange({"a": b"xy"}, 1.0) == {}
        until(lambda: contact.failures["AuthenticationError"])
    assert (contact.connected, contact.seconds) == (False, None)
