"""``doctor``: can this machine run Blindsight? One finding a line, each problem with its fix."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec

__all__ = ["Finding", "examine"]

MIN_FREE_BYTES = 500_000_000
EXTRAS = ("he", "deep")
"""Extras that a user chooses by what is to be computed."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line.

    Parameters
    ----------
    what : str
    level : {"ok", "note", "problem"}
    told : str
    fix : str or None
    """

    what: str
    level: Literal["ok", "note", "problem"]
    told: str
    fix: str | None = None


def examine(home: Path, constraints: Path | None = None) -> list[Finding]:
    """Look at everything; never raises.

    Parameters
    ----------
    home : Path
        Where ledgers and keys are to be kept.
    constraints : Path, optional
        A pip constraints file to compare installed versions with.
    """
    findings: list[Finding] = []
    for what, look in (
        ("Python", _python),
        ("packages", _packages),
        ("encryption", _encryption),
        ("disk", lambda: _disk(home)),
        ("randomness", _randomness),
        ("cores", _cores),
        ("constraints", lambda: _constraints(constraints)),
    ):
        findings += _guarded(what, look)
    return findings


def _guarded(what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except Exception as error:
        told = f"{type(error).__name__}: {error}"[:400]
        return [Finding(what=what, level="problem", told=told, fix="reinstall: pip install 'blindsight[he]'")]


def _python() -> list[Finding]:
    version = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036 (the installer can be told to ignore requires-python)
        return [Finding(what="Python", level="problem", told=version, fix="install Python 3.11 or later")]
    return [Finding(what="Python", level="ok", told=f"{version} on {platform.system()} {platform.machine()}")]


def _packages() -> list[Finding]:
    from packaging.requirements import Requirement

    core: list[Requirement] = []
    extras: dict[str, list[Requirement]] = {name: [] for name in EXTRAS}
    for line in metadata.requires("blindsight") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            core.append(requirement)
            continue
        for name, listed in extras.items():
            if requirement.marker.evaluate({"extra": name}):
                listed.append(requirement)
    findings = []
    for title, listed, extra in [("core", core, ""), *((f"extra '{n}'", r, f"[{n}]") for n, r in extras.items())]:
        wrong = [text for text in map(_wrong, listed) if text]
        if wrong:
            findings.append(
                Finding(
                    what=title,
                    level="problem" if not extra else "note",
                    told="; ".join(wrong),
                    fix=f"pip install 'blindsight{extra}'",
                )
            )
        else:
            shown = ", ".join(f"{r.name} {metadata.version(r.name)}" for r in listed)
            findings.append(Finding(what=title, level="ok", told=shown))
    return findings


def _wrong(requirement: object) -> str:
    from packaging.requirements import Requirement

    assert isinstance(requirement, Requirement)
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, needed is {requirement.specifier}"
    return ""


def _encryption() -> list[Finding]:
    """Encrypt, score and decrypt three records for real."""
    try:
        metadata.version("tenseal")
    except metadata.PackageNotFoundError:
        fix = "pip install 'blindsight[he]'"
        return [Finding(what="encryption", level="note", told="not installed: no blind scoring", fix=fix)]
    import numpy as np

    from blindsight.blind import RecordOwner, Scorer
    from blindsight.data import Column, Schema
    from blindsight.detectors import ECOD

    X = np.linspace(0.0, 1.0, 50).reshape(-1, 1)
    model = ECOD(schema=Schema((Column(name="x", low=0.0, high=1.0),))).fit(X)
    scorer = Scorer(model)
    owner = RecordOwner(scorer.offer())
    if not np.array_equal(owner.open(scorer.score(owner.seal(X[:3]))), model.decision_function(X[:3])):
        fix = "do not score blind here: pip install --force-reinstall 'blindsight[he]'"
        return [Finding(what="encryption", level="problem", told="blind and clear scores differ", fix=fix)]
    return [Finding(what="encryption", level="ok", told="SEAL sealed, scored and opened three records exactly")]


def _disk(home: Path) -> list[Finding]:
    from blindsight.keys import write_atomic
    from blindsight.store import Store

    folder = home
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".blindsight-doctor-", dir=folder) as scratch:
            write_atomic(Path(scratch) / "file", b"x")
            Store(Path(scratch) / "ledger.db").log("doctor").append(b"x")
    except Exception as error:
        told = f"{folder} cannot hold a ledger: {str(error)[:200]}"
        return [Finding(what="disk", level="problem", told=told, fix="give a writable --home on a local disk")]
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        told = f"{free / 1e6:.0f} MB free in {folder}"
        return [
            Finding(what="disk", level="problem", told=told, fix="free at least 500 MB: a full disk stops a ledger")
        ]
    return [Finding(what="disk", level="ok", told=f"{folder.resolve()} is writable, {free / 1e9:.1f} GB free")]


def _randomness() -> list[Finding]:
    first, second = secrets.token_bytes(32), secrets.token_bytes(32)
    if first == second or len(set(first)) < 8:
        fix = "do not use this machine: its random numbers repeat"
        return [Finding(what="randomness", level="problem", told="os.urandom repeats itself", fix=fix)]
    if hasattr(os, "getrandom"):
        try:
            os.getrandom(32, os.GRND_NONBLOCK)
        except BlockingIOError:
            fix = "wait until the system has gathered entropy"
            return [Finding(what="randomness", level="problem", told="the kernel's pool is not ready", fix=fix)]
    return [Finding(what="randomness", level="ok", told="the operating system's generator answers")]


def _cores() -> list[Finding]:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [Finding(what="cores", level="ok", told=f"{count} usable")]


def _constraints(path: Path | None) -> list[Finding]:
    if path is None:
        path = Path("constraints.txt")
        if not path.is_file():
            return [Finding(what="constraints", level="note", told="no constraints.txt here; versions not compared")]
    from packaging.requirements import InvalidRequirement, Requirement

    different, compared = [], 0
    for line in path.read_text(encoding="utf-8")[: 1 << 20].splitlines():
        text = line.split("#")[0].split(" \\")[0].strip()
        if not text or text.startswith("-"):
            continue
        try:
            requirement = Requirement(text)
            installed = metadata.version(requirement.name)
        except (InvalidRequirement, metadata.PackageNotFoundError):
            continue  # what is not installed cannot differ
        compared += 1
        if not requirement.specifier.contains(installed, prereleases=True):
            different.append(f"{requirement.name} {installed} (tested: {requirement.specifier})")
    if different:
        more = f" and {len(different) - 8} more" if len(different) > 8 else ""
        told = ", ".join(different[:8]) + more
        return [
            Finding(what="constraints", level="problem", told=told, fix=f"pip install -c {path.name} 'blindsight[he]'")
        ]
    return [Finding(what="constraints", level="ok", told=f"{compared} installed versions are the tested ones")]
