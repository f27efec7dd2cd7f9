"""A connection to a broker, without one."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from blindsight.channels import _broker
from blindsight.errors import UnavailableError

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not there: the extra net")


def test_a_broker_that_confirms_nothing_fills_no_memory() -> None:
    async def meet() -> None:
        link = _broker.BrokerLink(
            "127.0.0.1",
            1,
            ssl.create_default_context(),
            take=lambda topic, payload: None,
            will=("will", b"", False),
            keepalive_s=20.0,
        )
        for _ in range(_broker.IN_FLIGHT + _broker.MAX_QUEUED):
            link.publish("down", b"end")
        assert not link.over.done()
        for _ in range(100):
            link.publish("down", b"end")
        assert isinstance(link.over.result(), UnavailableError)
        assert len(link._queued) == 0

    asyncio.run(meet())
