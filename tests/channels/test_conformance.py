"""Every channel against the same suite."""

from __future__ import annotations

import pytest

from blindsight.testing import FlowerRig, MemoryRig, ProcessRig, channel_checks, grpc_rig, https_rig

RIGS = [MemoryRig(), ProcessRig(), https_rig(), grpc_rig(), FlowerRig()]
CASES = [(rig, name) for rig in RIGS for name in channel_checks(rig)]


@pytest.mark.parametrize(("rig", "name"), CASES, ids=[f"{rig.name}-{name}" for rig, name in CASES])
def test_channel(rig, name: str) -> None:
    channel_checks(rig)[name](rig)
