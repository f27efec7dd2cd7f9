"""Seeded fakes, insecure by name, and conformance suites. Imported by tests alone."""

from ._conformance import check_detector, detector_checks, sample_records
from ._faults import FaultyChannel
from ._noise import InsecureSeededSource

__all__ = ["FaultyChannel", "InsecureSeededSource", "check_detector", "detector_checks", "sample_records"]
