"""Jobs that wait for a person: what an approval lets through, how often, and what it does not."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blindsight.data import Schema
from blindsight.detectors import ECOD, HBOS
from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    ParameterError,
    PendingError,
    PolicyError,
    ReleaseError,
)
from blindsight.federation import Federation, Hours, Party, Policy, open_party
from blindsight.federation import _coordinator as coordinator_module
from blindsight.federation import _jobs as jobs_module
from blindsight.federation._wire import Begin, Refusal, Reply, Step, decode_reply, encode
from blindsight.keys import Identity

from ._drive import EXACT, charges, dp, embedded, faulty, nothing_charged, tables

pytestmark = pytest.mark.filterwarnings("ignore:The federation has about")

ALICE, BOB, EVE = (Identity.generate() for _ in range(3))
APPROVERS = {"alice": ALICE.public.raw.hex(), "bob": BOB.public.raw.hex()}
BY_HAND = replace(EXACT, approval={"ECOD": "by-hand"}, approvers=APPROVERS)
FOUR_EYES = replace(EXACT, approval={"default": "four-eyes"}, approvers=APPROVERS)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_module, "FIRST_PAUSE_S", 0.02)


def waiting(schema: Schema, policy: Policy = BY_HAND, **options: Any) -> tuple[Federation, Party, str]:
    """A federation one party of which waits for approval of a fit; that party, and the job."""
    federation = embedded(tables(3), schema, {"bank-00": EXACT, "bank-01": policy, "bank-02": EXACT},
                          approval_timeout_s=0.0)  # fmt: skip
    with pytest.raises(PendingError, match="The run waits for approval at bank-01"):
        federation.fit(ECOD(bins=8), privacy=None, **options)
    party = federation.parties["bank-01"]
    (job,) = party.jobs.all()
    assert job.state == "waits"
    assert nothing_charged(federation)
    assert not party._releases.has_read
    return federation, party, job.id


def last_begin(federation: Federation) -> Begin:
    """What the coordinator would ask of bank-01 next, in a run whose job waits."""
    channel = faulty(federation)
    with pytest.raises(PendingError):
        federation.fit(ECOD(bins=8), privacy=None)
    return msgspec.msgpack.decode(channel.requests[0]["bank-01"], type=Begin)


def refused(party: Party, step: Step) -> BlindsightError:
    answer = decode_reply(party.handle(encode(Begin(step))))
    assert isinstance(answer, Refusal)
    return answer.error(party.name)


def test_a_job_shows_everything_that_is_asked_for(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, replace(BY_HAND, allow_exact_sums=False), approval_timeout_s=0.0)
    with pytest.raises(PendingError, match=r"waits for approval at bank-00, bank-01, bank-02.*jobs approve"):
        federation.fit(ECOD(bins=8), privacy=dp(0.7))
    (job,) = federation.parties["bank-00"].jobs.all()
    assert job.id == federation.history[0].run
    assert job.detector == {"name": "ECOD", "parameters": job.detector["parameters"]}  # type: ignore[index]
    assert job.detector["parameters"]["bins"] == 8  # type: ignore[index]
    assert job.privacy is not None
    assert (job.privacy.epsilon, job.privacy.unit) == (0.7, "record")
    assert job.columns == list(number_schema.feature_names)
    assert job.participants == ["bank-00", "bank-01", "bank-02"]
    assert (job.rule, job.released) == ("by-hand", 0)


def test_a_run_goes_on_when_a_person_approves_meanwhile(number_schema: Schema) -> None:
    data = tables(3)
    federation = embedded(data, number_schema, BY_HAND, approval_timeout_s=60.0)
    told: list[str] = []
    seen = threading.Event()

    def progress(step: str, phase: str) -> None:
        told.append(phase)
        if "waits for approval" in phase:
            seen.set()

    federation.progress = progress

    def people() -> None:
        assert seen.wait(30)
        for party in federation.parties.values():
            (job,) = party.jobs.all()
            party.decide(job.id, "approve", approver="alice", identity=ALICE)

    person = threading.Thread(target=people)
    person.start()
    model = federation.fit(ECOD(bins=8), privacy=None)
    person.join()
    assert "waits for approval at bank-00, bank-01, bank-02" in told
    reference = embedded(data, number_schema).fit(ECOD(bins=8), privacy=None)
    assert (model.totals_ == reference.totals_).all()
    for party in federation.parties.values():
        (job,) = party.jobs.all()
        assert (job.state, job.released) == ("done", 2)


def test_automatic_runs_are_jobs_too(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, replace(BY_HAND, purposes=("fit", "threshold", "describe")))
    federation.fit(HBOS(bins=8), privacy=None)
    federation.describe(privacy=None)
    assert [(job.purpose, job.rule, job.state) for job in federation.parties["bank-00"].jobs.all()] == [
        ("fit", "automatic", "done"),
        ("describe", "automatic", "done"),
    ]


def test_four_eyes_are_two_persons(number_schema: Schema) -> None:
    federation, party, job = waiting(number_schema, FOUR_EYES)
    step = msgspec.structs.replace(last_begin(federation).step)
    job = step.run
    party.decide(job, "approve", approver="alice", identity=ALICE)
    assert isinstance(refused(party, step), PendingError)
    party.decide(job, "approve", approver="alice", identity=ALICE)
    error = refused(party, step)
    assert isinstance(error, PendingError)
    assert "1 of 2 approvals" in str(error), "the same person twice is one"
    with pytest.raises(AuthenticationError, match="'bob' may not decide with this key"):
        party.decide(job, "approve", approver="bob", identity=ALICE)
    party.decide(job, "approve", approver="bob", identity=BOB)
    assert isinstance(decode_reply(party.handle(encode(Begin(step)))), Reply)


@pytest.mark.parametrize(
    ("approver", "identity", "match"),
    [("eve", EVE, "'eve' may not decide"), ("alice", EVE, "'alice' may not decide"), ("", ALICE, "'' may not decide")],
)
def test_strangers_do_not_approve(approver: str, identity: Identity, match: str, number_schema: Schema) -> None:
    _, party, job = waiting(number_schema)
    with pytest.raises(AuthenticationError, match=match):
        party.decide(job, "approve", approver=approver, identity=identity)
    with pytest.raises(AuthenticationError, match="may not decide"):
        party.decide(job, "approve", approver="alice")  # with the party's own identity: the policy names others
    with pytest.raises(ParameterError, match="There is no job"):
        party.decide("nothing", "approve", approver="alice", identity=ALICE)


def test_where_nobody_is_named_the_party_approves_with_its_own_identity(number_schema: Schema) -> None:
    federation, party, _ = waiting(number_schema, replace(EXACT, approval={"default": "by-hand"}))
    step = last_begin(federation).step
    with pytest.raises(AuthenticationError, match="none, hence the party's own identity"):
        party.decide(step.run, "approve", approver="anybody", identity=EVE)
    party.decide(step.run, "approve", approver="anybody")
    assert isinstance(decode_reply(party.handle(encode(Begin(step)))), Reply)


def test_a_refusal_is_told_with_its_note_and_stops_a_run_that_runs(number_schema: Schema) -> None:
    federation, party, _ = waiting(number_schema)
    step = last_begin(federation).step
    party.decide(step.run, "refuse", approver="bob", identity=BOB, note="ask for person level")
    error = refused(party, step)
    assert isinstance(error, PolicyError)
    assert "refused by a person at bank-01" in str(error)
    assert "ask for person level" in str(error)
    with pytest.raises(ParameterError, match="no longer waits"):
        party.decide(step.run, "approve", approver="alice", identity=ALICE)
    second = last_begin(federation).step
    party.decide(second.run, "approve", approver="alice", identity=ALICE)
    assert isinstance(decode_reply(party.handle(encode(Begin(second)))), Reply)
    with pytest.raises(ParameterError, match="no longer waits"):
        party.decide(second.run, "approve", approver="bob", identity=BOB)
    party.decide(second.run, "refuse", approver="bob", identity=BOB)
    assert isinstance(refused(party, second), PolicyError)
    assert party.jobs.get(second.run).released == 0  # type: ignore[union-attr]
    assert nothing_charged(federation)


def approved(schema: Schema, policy: Policy = BY_HAND) -> tuple[Federation, Party, Step]:
    federation, party, _ = waiting(schema, policy)
    step = last_begin(federation).step
    party.decide(step.run, "approve", approver="alice", identity=ALICE)
    return federation, party, step


@pytest.mark.parametrize(
    "change",
    [
        {"detector": {"name": "ECOD", "parameters": {"bins": 16}}},
        {"privacy": "dp"},
        {"step": "fit2"},
        {"federation": "other"},
    ],
    ids=str,
)
def test_an_approval_is_for_exactly_what_was_shown(change: dict[str, Any], number_schema: Schema) -> None:
    from blindsight.federation._steps import terms_of

    federation, party, step = approved(number_schema)
    if change.get("privacy") == "dp":
        change = {"privacy": terms_of(dp())}
    other = msgspec.structs.replace(step, **change)
    error = refused(party, other)
    assert isinstance(error, ReleaseError), error
    assert "bound to another request" in str(error) or "waits for another first step" in str(error)
    assert isinstance(decode_reply(party.handle(encode(Begin(step)))), Reply), "what was shown goes on"
    assert nothing_charged(federation)


def test_a_replayed_approval_is_refused(number_schema: Schema) -> None:
    """By another run, by the same sum under another name, and when the job is done."""
    federation, party, step = approved(number_schema)
    assert isinstance(decode_reply(party.handle(encode(Begin(step)))), Reply)
    assert isinstance(decode_reply(party.handle(encode(Begin(step)))), Reply), "the same request again is a retry"
    again = msgspec.structs.replace(step, step="fit-again")
    error = refused(party, again)
    assert isinstance(error, ReleaseError)
    assert "released under this approval before" in str(error)
    # the record of one job's approval put under another job, by somebody who can write the store but has no key
    other = last_begin(federation).step
    jobs = party.jobs
    one, two = jobs.get(step.run), jobs.get(other.run)
    assert one is not None
    assert two is not None
    forged = [
        one.decisions[0],
        msgspec.structs.replace(
            one.decisions[0], said=msgspec.structs.replace(one.decisions[0].said, job=two.id, digest=two.digest)
        ),
        msgspec.structs.replace(one.decisions[0], public_key=EVE.public.raw.hex()),
        msgspec.structs.replace(one.decisions[0], signature="zz"),
    ]
    jobs._keep(msgspec.structs.replace(two, decisions=forged))
    error = refused(party, other)
    assert isinstance(error, PendingError)
    assert "0 of 1 approvals" in str(error)
    jobs._keep(msgspec.structs.replace(one, state="done"))
    late = msgspec.structs.replace(step, step="fit-later", part="fit")
    assert "is done" in str(refused(party, late))


def test_an_approval_and_a_job_expire(number_schema: Schema) -> None:
    clock = [datetime(2026, 5, 4, 12, 0, tzinfo=UTC)]
    federation, party, _ = waiting(number_schema, replace(BY_HAND, approval_hours=2.0))
    party._own.now = lambda: clock[0]
    step = last_begin(federation).step
    clock[0] += timedelta(hours=1)
    party.decide(step.run, "approve", approver="alice", identity=ALICE)
    clock[0] += timedelta(hours=2)  # the job's own time is over, and the approval's
    error = refused(party, step)
    assert isinstance(error, PolicyError)
    assert "has expired" in str(error)
    second = last_begin(federation).step
    clock[0] += timedelta(hours=3)
    with pytest.raises(ParameterError, match=r"no longer waits.*expired"):
        party.decide(second.run, "approve", approver="alice", identity=ALICE)
    third = last_begin(federation).step
    party.decide(third.run, "approve", approver="alice", identity=ALICE)
    assert isinstance(decode_reply(party.handle(encode(Begin(third)))), Reply)
    clock[0] += timedelta(days=9)  # used in time: what runs goes on
    threshold = msgspec.structs.replace(third, step="more", part="fit")
    assert "released under this approval" in str(refused(party, threshold))


def test_an_approver_who_is_struck_from_the_policy_no_longer_counts(number_schema: Schema) -> None:
    _, party, step = approved(number_schema)
    party.use_policy(replace(BY_HAND, approvers={"bob": BOB.public.raw.hex()}))
    assert isinstance(refused(party, step), PendingError)
    party.decide(step.run, "approve", approver="bob", identity=BOB)
    assert isinstance(decode_reply(party.handle(encode(Begin(step)))), Reply)


def test_a_policy_tightened_in_the_middle_holds_for_the_next_sum(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, EXACT, approval_timeout_s=0.0)
    party = federation.parties["bank-01"]

    def tighten(record: Any) -> None:
        party.use_policy(BY_HAND)

    with pytest.raises(PendingError, match="bank-01"):
        federation.fit(ECOD(bins=8), privacy=None, on_step=tighten)
    (job,) = party.jobs.all()
    assert (job.state, job.rule, job.released) == ("waits", "by-hand", 1)


def test_what_the_policy_forbids_never_waits(number_schema: Schema) -> None:
    """A person is not asked about what no person there may allow."""
    federation = embedded(tables(3), number_schema, replace(BY_HAND, allow_exact_sums=False, maximum_epsilon=0.1))
    for privacy in (None, dp(5.0)):
        with pytest.raises(BlindsightError) as caught:
            federation.fit(ECOD(bins=8), privacy=privacy)
        assert not isinstance(caught.value, PendingError)
    closed = replace(BY_HAND, hours=Hours(start="00:00", end="00:01", days=("mon",)))
    for party in federation.parties.values():
        party.use_policy(closed)
        party._own.now = lambda: datetime(2026, 5, 5, 12, tzinfo=UTC)
    with pytest.raises(PolicyError, match="no new sum at this time"):
        federation.fit(ECOD(bins=8), privacy=None)
    assert all(party.jobs.all() == [] for party in federation.parties.values())
    assert nothing_charged(federation)


def test_jobs_fill_no_disk(number_schema: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "MAX_WAITING", 3)
    federation, party, job = waiting(number_schema)
    last_begin(federation)
    last_begin(federation)
    with pytest.raises(PolicyError, match=r"Too many jobs wait.*jobs list"):
        federation.fit(ECOD(bins=8), privacy=None)
    party.decide(job, "refuse", approver="bob", identity=BOB)
    last_begin(federation)


def test_a_party_that_restarts_has_its_jobs(number_schema: Schema, tmp_path: Path) -> None:
    home = tmp_path / "home"
    federation = embedded(tables(3), number_schema, BY_HAND, home=home, approval_timeout_s=0.0)
    step = last_begin(federation).step
    federation.parties["bank-01"].decide(step.run, "approve", approver="alice", identity=ALICE)
    again = embedded(tables(3), number_schema, BY_HAND, home=home, approval_timeout_s=0.0)
    assert isinstance(decode_reply(again.parties["bank-01"].handle(encode(Begin(step)))), Reply)
    assert charges(again) == dict.fromkeys(again.parties, 0)


def test_people_decide_while_the_parties_run_in_processes_of_their_own(number_schema: Schema, tmp_path: Path) -> None:
    paths = {}
    for name, table in tables(3).items():
        paths[name] = tmp_path / f"{name}.csv"
        table.write_csv(paths[name])
    policy = replace(EXACT, approval={"default": "by-hand"})
    with Federation.processes(
        paths, schema=number_schema, home=tmp_path / "home", policy=policy, approval_timeout_s=60.0
    ) as federation:
        seen = threading.Event()
        federation.progress = lambda step, phase: seen.set() if "waits for approval" in phase else None

        def people() -> None:
            assert seen.wait(60)
            for name in paths:
                party = open_party(tmp_path / "home" / name)
                (job,) = party.jobs.all()
                party.decide(job.id, "approve", approver="somebody")

        person = threading.Thread(target=people)
        person.start()
        federation.fit(ECOD(bins=8), privacy=None)
        person.join()
        # an owner edits the policy: it holds at once, and one that cannot be read lets nothing through
        (tmp_path / "home" / "bank-01" / "policy.toml").write_text("allow_exact_sums = false\n")
        with pytest.raises(PolicyError, match="bank-01: The policy does not allow exact sums"):
            federation.fit(ECOD(bins=8), privacy=None)
        (tmp_path / "home" / "bank-01" / "policy.toml").write_text("allow_exact_sums = perhaps\n")
        with pytest.raises(PolicyError, match="bank-01: This party's policy cannot be used, and lets nothing through"):
            federation.fit(ECOD(bins=8), privacy=None)
    for name in paths:
        party = open_party(tmp_path / "home" / name) if name != "bank-01" else None
        if party is not None and party._own.audit is not None:
            kinds = [line.kind for line in party._own.audit.lines()]
            assert kinds[:6] == ["waits", "approved", "began", "released", "signed", "began"]
