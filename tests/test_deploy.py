"""The files in ``deploy`` say what the command line takes, and systemd can read them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main

from blindsight.cli import app

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
ENVIRONMENT = {
    "$FIT": "--detector ecod --epsilon 1 --unit person --max-records-per-person 4 --output m --deliver all",
    "$SERVE": "--host 0.0.0.0 --port 8443 --bits-per-account 200000",
}


def parsed(words: list[str]) -> None:
    """Have the command line read these words; nothing runs."""
    command, context = typer.main.get_command(app), None
    while hasattr(command, "commands"):
        context = command.make_context(words[0], [], parent=context, resilient_parsing=True)
        command, words = command.commands[words[0]], words[1:]
    command.make_context("x", words, parent=context)


def settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_start_what_there_is_and_are_closed(unit: Path) -> None:
    said = settings(unit)
    (start,) = said["ExecStart"]
    for name, value in ENVIRONMENT.items():
        start = start.replace(name, value)
    program, *words = shlex.split(start)
    assert program == "/opt/blindsight/bin/blindsight"
    parsed(words)
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictSUIDSGID"):
        assert said[key] == ["true"], key
    assert said["ProtectSystem"] == ["strict"]
    assert said["RestartPreventExitStatus"] == ["2 3"]
    assert said["CapabilityBoundingSet"] == [""]
    assert all(":/etc/blindsight/" in given for given in said["LoadCredential"])
    written = " ".join(said["ReadWritePaths"]).split()
    assert written
    assert all(path.startswith("/var/lib/blindsight/") for path in written)


def test_systemd_reads_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    files = []
    for unit in UNITS:
        files.append(tmp_path / unit.name.replace("@.", "@bank-a."))
        files[-1].write_text(unit.read_text().replace("/opt/blindsight/bin/blindsight", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, files)], capture_output=True, text=True, timeout=60, check=False
    )
    told = [line for line in done.stderr.splitlines() if "blindsight" in line]
    assert told == []


def test_the_compose_file_starts_what_there_is() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    commands = re.findall(r"command: \[(.*?)\]", text, flags=re.DOTALL)
    assert len(commands) == 4
    for command in commands:
        parsed([word.strip().strip('"') for word in command.split(",")])
    assert "privileged: true" not in text
    assert text.count("<<: *role") == 4


def test_the_image_has_a_user_constraints_and_no_secret() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    assert text.count("\nFROM ") + text.startswith("FROM ") == 2
    assert "USER 10001:10001" in text
    assert "--constraint constraints.txt" in text
    sources = re.findall(r"^COPY (?!--from)(.*) \S+$", text, flags=re.MULTILINE)
    assert sources
    for name in " ".join(sources).split():
        assert (DEPLOY.parent / name).exists(), name
