"""Fixtures that several packages' tests share."""

from __future__ import annotations

import pytest

from blindsight.data import Schema
from sample_tables import MIXED_SCHEMA, NUMBER_SCHEMA


@pytest.fixture(scope="session")
def number_schema() -> Schema:
    return NUMBER_SCHEMA


@pytest.fixture(scope="session")
def mixed_schema() -> Schema:
    return MIXED_SCHEMA
