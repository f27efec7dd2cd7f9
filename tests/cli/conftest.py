"""One small federated fit through the command line, shared by the tests that read what it left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blindsight import load_hospitals
from blindsight.cli import app
from blindsight.keys import create_key_file

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def value(self):
        return json.loads(self.out)


def invoke(*arguments: object) -> Done:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return Done(result.exit_code, result.stdout, result.stderr)


def start(*arguments: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> Done:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "blindsight", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Fitted:
    """A home with a fitted model."""

    folder: Path
    command: tuple[str, ...]
    done: Done

    @property
    def home(self) -> Path:
        return self.folder / "run"

    @property
    def model(self) -> Path:
        return self.folder / "m.blindsight"

    @property
    def records(self) -> Path:
        return self.folder / "hospital-b.csv"

    @property
    def key_file(self) -> Path:
        return self.folder / "key"


@pytest.fixture(scope="session")
def fitted(tmp_path_factory) -> Fitted:
    folder = tmp_path_factory.mktemp("fitted")
    tables, schema = load_hospitals()
    schema.write(folder / "schema.toml")
    (folder / "policy.toml").write_text("allow_exact_sums = true\nmaximum_epsilon = 5.0\n")
    create_key_file(folder / "key")
    command = [
        "fit",
        "--schema",
        str(folder / "schema.toml"),
        "--home",
        str(folder / "run"),
        "--output",
        str(folder / "m.blindsight"),
    ]
    for name, table in tables.items():
        table.write_csv(folder / f"{name}.csv")
        command += ["--party", f"{name}={folder / name}.csv", "--evaluate", f"{name}={folder / name}.csv"]
    command += ["--policy", str(folder / "policy.toml"), "--key-file", str(folder / "key")]
    return Fitted(folder, tuple(command), invoke(*command, "--epsilon", "1", "--contamination", "0.05", "--json"))


@pytest.fixture
def fitted_copy(fitted, tmp_path) -> Fitted:
    """A copy whose ledgers may be damaged."""
    shutil.copytree(fitted.folder, tmp_path / "copy")
    return Fitted(tmp_path / "copy", (), fitted.done)
