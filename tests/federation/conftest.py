"""A federation's kits, made once; tests that change them work on a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blindsight.federation.kits import Workshop, read_plan
from sample_tables import NUMBER_SCHEMA

PLAN = """\
name = "card-fraud"
validity_days = 30
schema = "schema.toml"

[coordinator]
contact = "Olga, +43 1 999"
addresses = ["https://127.0.0.1:8443", "https://federation.example.org"]

[[parties]]
name = "bank-a"
contact = "Ada <ada@bank-a.example>"

[[parties]]
name = "bank-b"

[[parties]]
name = "bank-c"
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kits")
    NUMBER_SCHEMA.write(folder / "schema.toml")
    (folder / "federation.toml").write_text(PLAN)
    Workshop.create(read_plan(folder / "federation.toml"), folder / "kits")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Of ``federation.toml``, ``schema.toml`` and ``kits/``; its own."""
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def workshop(folder: Path) -> Workshop:
    return Workshop(folder / "kits")
