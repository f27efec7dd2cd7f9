"""Records and their schema: column roles, public ranges, readers in bounded memory, samples.

A :class:`Schema` says what everybody may know about the records; :func:`records` reads any table by it and
yields validated chunks. What breaks the schema is refused with column, row, value, rule and fix; values
outside a range are legal, kept and counted.
"""

from ._cards import simulate_card_payments
from ._check import Finding, check
from ._column import Column
from ._draft import draft
from ._hospitals import load_hospitals
from ._mock import mock_records
from ._partition import Split, partition
from ._records import ClippingReport, Records, read_table, records
from ._rolling import rolling_features
from ._rolling_state import RollingState, moment
from ._samples import write_sample
from ._schema import Schema
from ._window_table import doubtful_order, gather, joined, missing_order, series_key, window_table
from ._windows import Segments, Windows, looking_back, normalise_series, segments, uneven_time, windows
from ._without import Without, person_keys

__all__ = [
    "ClippingReport",
    "Column",
    "Finding",
    "Records",
    "RollingState",
    "Schema",
    "Segments",
    "Split",
    "Windows",
    "Without",
    "check",
    "doubtful_order",
    "draft",
    "gather",
    "joined",
    "load_hospitals",
    "looking_back",
    "missing_order",
    "mock_records",
    "moment",
    "normalise_series",
    "partition",
    "person_keys",
    "read_table",
    "records",
    "rolling_features",
    "segments",
    "series_key",
    "simulate_card_payments",
    "uneven_time",
    "window_table",
    "windows",
    "write_sample",
]
