"""The audit log: what is in it, and that nothing can be taken out of it unnoticed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsight.data import Schema
from blindsight.detectors import ECOD
from blindsight.errors import BlindsightError, FormatError, PendingError, PolicyError, StoreError
from blindsight.federation import Policy
from blindsight.federation import _audit as audit_module
from blindsight.federation._audit import AUDIT_FILE, AuditLog
from blindsight.store import Store
from sample_tables import make_table

from ._drive import EXACT, dp, embedded, tables
from .test_jobs import BY_HAND

pytestmark = pytest.mark.filterwarnings("ignore:The federation has about")


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / AUDIT_FILE, Store(tmp_path / "ledger.db"))


def filled(audit: AuditLog, lines: int = 6) -> list[bytes]:
    for i in range(lines):
        audit.write("began", release=f"r{i}")
    return audit._path.read_bytes().splitlines(keepends=True)


def test_every_request_approval_and_release_is_in_it_and_no_record_is(number_schema: Schema, tmp_path: Path) -> None:
    home = tmp_path / "home"
    federation = embedded(tables(3, rows=30), number_schema, Policy(maximum_epsilon=2.0), home=home)
    federation.fit(ECOD(bins=8), privacy=dp(1.0))
    with pytest.raises(PolicyError):
        federation.fit(ECOD(bins=8), privacy=None)
    log = AuditLog(home / "bank-01" / AUDIT_FILE, federation.parties["bank-01"]._own.store)
    kinds = [line.kind for line in log.lines()]
    assert kinds == ["began", "released", "signed", "began", "released", "signed", "refused"]
    began, released, signed = log.lines()[:3]
    assert began.detail["detector"] == "ECOD"
    assert began.detail["privacy"]["epsilon"] == 1.0
    assert released.detail["unit"] == "record"
    assert released.detail["rho"] > 0
    assert signed.detail["survivors"] == ["bank-00", "bank-01", "bank-02"]
    refused = log.lines()[-1]
    assert refused.detail["what"] == "The policy does not allow exact sums"
    assert log.verify() == 7
    path = home / "bank-01" / AUDIT_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    for value in make_table(30, 101)["amount"].to_list():
        assert repr(value)[:9] not in text


def test_a_request_on_which_the_party_fails_is_in_it_without_what_it_failed_on(
    number_schema: Schema, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = embedded(tables(3, rows=30), number_schema, EXACT, home=tmp_path)
    party = federation.parties["bank-01"]

    def fails(*_: object) -> None:
        raise RuntimeError("secret-4711")

    monkeypatch.setattr(party._answers, "begin", fails)
    with pytest.raises(BlindsightError):
        federation.fit(ECOD(bins=8), privacy=None)
    assert party._own.audit is not None
    (line,) = party._own.audit.lines()
    assert (line.kind, line.detail["error"]) == ("refused", "RuntimeError")
    assert b"secret-4711" not in (tmp_path / "bank-01" / AUDIT_FILE).read_bytes()


def test_approvals_are_in_it(number_schema: Schema, tmp_path: Path) -> None:
    from .test_jobs import ALICE

    federation = embedded(tables(3), number_schema, BY_HAND, home=tmp_path / "h", approval_timeout_s=0.0)
    with pytest.raises(PendingError):
        federation.fit(ECOD(bins=8), privacy=None)
    party = federation.parties["bank-00"]
    (job,) = party.jobs.all()
    party.decide(job.id, "approve", approver="alice", identity=ALICE, note="as agreed on Monday")
    assert party._own.audit is not None
    lines = party._own.audit.lines()
    assert [line.kind for line in lines] == ["waits", "approved"]
    assert lines[0].detail["digest"] == lines[1].detail["digest"] == job.digest
    assert lines[1].detail["approver"] == "alice"


def test_changed_removed_inserted_and_swapped_lines(audit: AuditLog) -> None:
    lines = filled(audit)
    assert audit.verify() == 6
    other = json.dumps({"a": 1}).encode() + b"\n"
    for damaged, match in (
        ([*lines[:2], lines[2].replace(b"r2", b"r9"), *lines[3:]], "broken at line 3"),
        ([*lines[:2], *lines[3:]], "broken at line 2"),
        ([lines[1], lines[0], *lines[2:]], "broken at line 0"),
        ([*lines[:3], lines[2], *lines[3:]], "broken at line 3"),
        ([*lines[:3], other, *lines[3:]], "Line 3 of the audit log is malformed"),
        ([*lines[:3], b"[" * 30_000 + b"\n"], "malformed"),
        (lines[:-1], "does not contain the head that the party's store remembers"),
        ([], "does not contain the head that the party's store remembers"),
        ([*lines[:-1], lines[-1][:-1]], "ends in the middle|does not contain"),
        ([*lines[:1], lines[1].replace(b'{"detail"', b'{ "detail"'), *lines[2:]], "broken at line 1"),
    ):
        audit._path.write_bytes(b"".join(damaged))
        with pytest.raises(FormatError, match=match):
            audit.verify()
    audit._path.write_bytes(b"".join(lines))
    assert audit.verify() == 6


def test_lines_cut_off_stay_missing_whatever_is_written_afterwards(audit: AuditLog) -> None:
    lines = filled(audit)
    audit._path.write_bytes(b"".join(lines[:3]))
    audit.write("began", release="later")
    with pytest.raises(FormatError, match="broken at line 3"):
        audit.verify()


def test_an_old_copy_of_both_is_shown_by_a_head_noted_elsewhere(tmp_path: Path) -> None:
    store = Store(tmp_path / "ledger.db")
    audit = AuditLog(tmp_path / AUDIT_FILE, store)
    filled(audit, 3)
    store.close()
    old = {path: path.read_bytes() for path in tmp_path.iterdir()}
    store = Store(tmp_path / "ledger.db")
    audit = AuditLog(tmp_path / AUDIT_FILE, store)
    audit.write("began", release="x")
    noted = audit.head()
    assert audit.verify(noted) == 4
    store.close()
    for path in tmp_path.iterdir():
        path.unlink()
    for path, data in old.items():
        path.write_bytes(data)
    audit = AuditLog(tmp_path / AUDIT_FILE, Store(tmp_path / "ledger.db"))
    assert audit.verify() == 3
    with pytest.raises(FormatError, match="does not contain the head that was seen before"):
        audit.verify(noted)


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_torn_line_is_taken_away_and_told(audit: AuditLog, cut: int) -> None:
    lines = filled(audit, 3)
    with audit._path.open("ab") as file:
        file.write(lines[-1][:cut])  # a writer that was killed: its event was never answered
    audit.write("began", release="next")
    assert audit.verify() == 5
    assert [(line.kind, line.detail.get("bytes")) for line in audit.lines()[3:]] == [("torn", cut), ("began", None)]


def _append(path: str, database: str, count: int) -> None:
    audit = AuditLog(Path(path), Store(database))
    for i in range(count):
        audit.write("began", release=f"{os.getpid()}/{i}")


def test_several_processes_write_one_chain_and_a_kill_leaves_it_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path, database = str(tmp_path / AUDIT_FILE), str(tmp_path / "ledger.db")
    Store(database).close()
    workers = [context.Process(target=_append, args=(path, database, count)) for count in (30, 100_000)]
    for worker in workers:
        worker.start()
    workers[0].join(60)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and Path(path).read_bytes().count(b"\n") < 50:
        time.sleep(0.02)
    assert workers[1].pid is not None
    os.kill(workers[1].pid, signal.SIGKILL)
    workers[1].join(10)
    audit = AuditLog(Path(path), Store(database))
    audit.write("began", release="afterwards")
    assert audit.verify() > 50
    releases = [line.detail["release"] for line in audit.lines() if line.kind == "began"]
    assert len(set(releases)) == len(releases)


def test_refusals_fill_no_disk(audit: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module.time, "monotonic", lambda: 600.0)
    for _ in range(audit_module.REFUSALS_A_MINUTE + 40):
        audit.refused(error="PolicyError", what="no")
    assert audit.verify() == audit_module.REFUSALS_A_MINUTE
    monkeypatch.setattr(audit_module.time, "monotonic", lambda: 661.0)
    audit.refused(error="PolicyError", what="no")
    assert audit.lines()[-1].detail["not_written_before"] == 40


def test_what_cannot_be_logged_does_not_happen(number_schema: Schema, tmp_path: Path) -> None:
    federation = embedded(tables(3), number_schema, EXACT, home=tmp_path / "h")
    for name in federation.parties:
        path = tmp_path / "h" / name / AUDIT_FILE
        path.unlink(missing_ok=True)
        path.mkdir()  # root may write anywhere: a folder in its place stops even root
    with pytest.raises(StoreError, match=r"audit log could not be written.*what is not logged does not happen"):
        federation.fit(ECOD(bins=8), privacy=None)
    assert not any(party._releases.has_read for party in federation.parties.values())


@given(
    st.text(max_size=3000), st.recursive(st.none() | st.floats() | st.text(max_size=50) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=70), inner, max_size=4), max_leaves=9),
)  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_coordinator_sends_stays_one_line(audit: AuditLog, what: str, more: object) -> None:
    audit.write("refused", what=what, more=more)
    audit.verify()
