"""Every channel against the same suite."""

from __future__ import annotations

import pytest

from blindsight.testing import (
    NO_MOSQUITTO,
    FlowerRig,
    MemoryRig,
    MqttRig,
    ProcessRig,
    channel_checks,
    grpc_rig,
    https_rig,
)

RIGS = [MemoryRig(), ProcessRig(), https_rig(), grpc_rig(), MqttRig(), FlowerRig()]
NEEDS = {"mqtt": pytest.mark.skipif(NO_MOSQUITTO is not None, reason=str(NO_MOSQUITTO))}
CASES = [
    pytest.param(rig, name, id=f"{rig.name}-{name}", marks=NEEDS.get(rig.name, ()))
    for rig in RIGS
    for name in channel_checks(rig)
]


@pytest.mark.parametrize(("rig", "name"), CASES)
def test_channel(rig, name: str) -> None:
    channel_checks(rig)[name](rig)
