"""Seeded fakes, insecure by name, and conformance suites. Imported by tests alone."""

from ._authority import InsecureAuthority
from ._checks_channel import channel_checks
from ._conformance import check_detector, detector_checks
from ._faults import FaultyChannel
from ._fleet import FlowerFleet, flower_bin
from ._flower_rig import FakeFleet, FlowerRig, RunningFlower
from ._mosquitto import NO_MOSQUITTO, Mosquitto
from ._noise import InsecureSeededSource
from ._relay import ChaosRelay
from ._rigs import MemoryRig, MqttRig, ProcessRig, grpc_rig, https_rig
from ._sample import sample_records

__all__ = [
    "NO_MOSQUITTO",
    "ChaosRelay",
    "FakeFleet",
    "FaultyChannel",
    "FlowerFleet",
    "FlowerRig",
    "InsecureAuthority",
    "InsecureSeededSource",
    "MemoryRig",
    "Mosquitto",
    "MqttRig",
    "ProcessRig",
    "RunningFlower",
    "channel_checks",
    "check_detector",
    "detector_checks",
    "flower_bin",
    "grpc_rig",
    "https_rig",
    "sample_records",
]
