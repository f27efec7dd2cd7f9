"""Seeded fakes, insecure by name, and conformance suites. Imported by tests alone."""

from ._conformance import check_detector, detector_checks
from ._faults import FaultyChannel
from ._noise import InsecureSeededSource
from ._sample import sample_records

__all__ = ["FaultyChannel", "InsecureSeededSource", "check_detector", "detector_checks", "sample_records"]
