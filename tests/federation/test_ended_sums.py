"""When a party forgets a sum: no sooner than nobody can need it, and then for good, on disk and in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from blindsight.channels import MemoryChannel
from blindsight.data import Schema
from blindsight.detectors import ECOD
from blindsight.errors import BlindsightError, PolicyError, ReleaseError, StoreError, SurvivorsError
from blindsight.federation import Journal, Party, Policy
from blindsight.federation._journal import SumJournal
from blindsight.federation._rules import Asker
from blindsight.federation._sums import OPEN_DAYS, Sums
from blindsight.federation._wire import Begin, Continue, Hello, Refusal, Reply, decode_reply, encode
from blindsight.privacy import NoiseSource
from blindsight.securesum import Phase
from blindsight.store import Store
from blindsight.testing import FaultyChannel

from ._drive import charges, dp, embedded, faulty, tables

pytestmark = pytest.mark.filterwarnings("ignore::blindsight.errors.BlindsightWarning")
OPEN = Policy(allow_exact_sums=True, allow_shared_key_sums=True, maximum_epsilon=500.0)
VICTIM = "bank-01"
PER_SUM = ("clients", "heads", "notices", "sums.opened")
"""Tables of which nothing stays but what the newest sum needs."""


def kept(store: Store, table: str) -> dict[str, int]:
    """Bytes by key."""
    return {key: len(store.table(table).get(key) or b"") for key in store.table(table).keys("")}


def refusal(party: Party, request: bytes) -> BlindsightError:
    answer = decode_reply(party.handle(request))
    assert isinstance(answer, Refusal), answer
    return answer.error(party.name)


def reopened(party: Party) -> Party:
    """The same party as after a restart: what is in its store, and nothing else."""
    new = Party(
        name=party.name,
        data=party._own.sources["training"],
        schema=party.schema,
        identity=party._own.identity,
        policy=party.policy,
        store=party._own.store,
    )
    new.pin(party._participants.current())
    return new


@pytest.mark.parametrize("sums", ["masked", "he"])
def test_what_a_party_keeps_does_not_grow_with_the_sums_that_are_over(
    sums: str, number_schema: Schema, tmp_path: Path
) -> None:
    federation = embedded(tables(3, rows=10), number_schema, OPEN, home=tmp_path, sums=sums)
    store = federation.parties[VICTIM]._own.store
    seen = []
    for _ in range(3):
        federation.fit(ECOD(bins=8), privacy=dp(1.0))
        seen.append({table: sum(kept(store, table).values()) for table in PER_SUM})
        assert list(kept(store, "clients")) == [f"{federation.history[-1].run}/threshold"]
    for table, size in seen[0].items():
        assert seen[2][table] <= size + 64, (table, seen)  # a ledger's count may have a digit more
    over = kept(store, "sums.over")
    finished = {f"{record.run}/{step.step}" for record in federation.history for step in record.steps}
    assert set(over) == finished - set(kept(store, "clients"))
    assert max(over.values()) <= 16, "the run's id, and nothing of the sum"
    left = {f"{record.run}/threshold" for record in federation.history}
    assert set(kept(store, "steps")) == left, "what a delivered model is held against"


def requests(channel: FaultyChannel) -> list[bytes]:
    """What a party was asked in the first sum, phase by phase."""
    return [exchange[VICTIM] for exchange in channel.requests[:5]]


def test_a_sum_is_answered_again_until_its_run_goes_on_and_never_after(number_schema: Schema, tmp_path: Path) -> None:
    """Each kind of replay of a sum that is over, to a party that has it in memory and to one that has started again."""
    federation = embedded(tables(4, rows=10), number_schema, OPEN, home=tmp_path)
    federation._recalls = False  # what a party knows of the others' ledgers grows within a sum
    party = federation.parties[VICTIM]
    asked: list[tuple[bytes, bytes]] = []
    differing: list[int] = []

    def repeating(request: bytes) -> bytes:
        """Every request of the sum so far once more, in the order of things."""
        asked.append((request, party.handle(request)))
        if len(asked) <= 5:
            differing.extend(i for i, (again, answer) in enumerate(asked) if party.handle(again) != answer)
        return asked[-1][1]

    handlers = {name: other.handle for name, other in federation.parties.items()}
    federation._channel = MemoryChannel({**handlers, VICTIM: repeating})
    federation.fit(ECOD(bins=8), privacy=dp(1.0))
    assert (len(asked), differing) == (10, [])

    first = [request for request, _ in asked[:5]]
    step = msgspec.msgpack.decode(first[0], type=Begin).step
    confirm = msgspec.msgpack.decode(first[3], type=Continue)
    _, _, spec, names = msgspec.msgpack.decode(confirm.body)
    fewer = dict.fromkeys(list(names)[:3], b"")
    other_set = encode(Continue(confirm.release_id, msgspec.msgpack.encode(["blindsight/securesum/1", 3, spec, fewer])))
    unmask = msgspec.msgpack.decode(first[4], type=Continue)
    version, phase, _, signed = msgspec.msgpack.decode(unmask.body)
    fewer_signed = dict(list(signed.items())[:3])
    other_shares = encode(Continue(unmask.release_id, msgspec.msgpack.encode([version, phase, spec, fewer_signed])))
    changed = encode(Begin(msgspec.structs.replace(step, threshold=4)))
    before = charges(federation)
    for one in (party, reopened(party)):
        for request in (*first, other_set, other_shares, changed):
            error = refusal(one, request)
            assert isinstance(error, ReleaseError), error
            assert f"Release {step.release_id} is over at this party" in str(error)
            assert "start a new run" in str(error)
        assert step.release_id not in one._answers._clients
    assert charges(federation) == before
    # the run's last sum has no step after it: a coordinator that was killed may still ask
    for one in (party, reopened(party)):
        assert [one.handle(request) for request, _ in asked[5:]] == [answer for _, answer in asked[5:]]


def test_a_key_that_was_never_asked_for_goes_with_its_run(number_schema: Schema, tmp_path: Path) -> None:
    """A BFV sum ends without the last answer: the shared key stays until the coordinator has written that down."""
    data = tables(4, rows=10)
    with Store(tmp_path / "coordinator.db") as journal:
        federation = embedded(data, number_schema, OPEN, sums="he", journal=Journal(journal))
        plain = federation._channel
        faulty(federation, silent_from=dict.fromkeys(data, 4))
        with pytest.raises(SurvivorsError):
            federation.fit(ECOD(bins=8), privacy=dp(1.0))
        party = federation.parties[VICTIM]
        release = f"{federation.history[0].run}/fit"
        client = reopened(party)._answers._resume(release)[2]
        assert client.phase is Phase.UNMASK
        assert client._state.key
        federation._channel = plain
        federation.describe(privacy=dp(1.0))
        assert release in kept(party._own.store, "sums.over")
        assert release not in kept(party._own.store, "clients")
        assert release not in party._answers._clients


def test_a_run_that_is_left_and_taken_up_again_finds_its_sum(number_schema: Schema, tmp_path: Path) -> None:
    """Killed between the last answer and its journal; another run is done; then the first goes on, charged once."""

    class Killed(BaseException):
        pass

    with Store(tmp_path / "coordinator.db") as store:
        federation = embedded(tables(4, rows=10), number_schema, OPEN, journal=Journal(store))
        finish, left = SumJournal.finish, [2]

        def die(self: SumJournal, *arguments: object) -> None:
            left[0] -= 1
            if not left[0]:
                raise Killed
            finish(self, *arguments)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as armed:
            armed.setattr(SumJournal, "finish", die)
            with pytest.raises(Killed):
                federation.fit(ECOD(bins=8), privacy=dp(1.0))
        (header,) = federation.unfinished()
        federation.fit(ECOD(bins=16), privacy=dp(1.0))
        model = federation.resume(header.run)
        assert isinstance(model, ECOD)
        assert set(charges(federation).values()) == {4}
        outputs = [p.ledgers["record"].output(f"{header.run}/threshold") for p in federation.parties.values()]
        total = np.sum([np.frombuffer(output or b"", dtype="<i8") for output in outputs], axis=0)
        assert np.array_equal(model.score_histogram_.counts, total)


@pytest.mark.parametrize("phase", range(5))
def test_a_run_inside_another_does_not_end_it(phase: int, number_schema: Schema) -> None:
    """Without a journal: what has begun and is not over is gone on with."""
    federation = embedded(tables(4, rows=10), number_schema, OPEN)
    told: list[tuple[str, str]] = []

    def progress(*what: str) -> None:
        told.append(what)
        if len(told) == 1 + phase:
            federation.describe(privacy=dp(1.0))

    federation.progress = progress
    federation.fit(ECOD(bins=8), privacy=dp(1.0))
    fit, inner = (record.run for record in federation.history)
    party = federation.parties[VICTIM]
    assert set(kept(party._own.store, "clients")) == {f"{fit}/threshold", f"{inner}/describe/moments"}
    federation.describe(privacy=dp(1.0))
    assert {f"{fit}/threshold", f"{inner}/describe/moments"} <= set(kept(party._own.store, "sums.over"))


def test_delivering_the_model_ends_the_last_sum(number_schema: Schema, tmp_path: Path) -> None:
    federation = embedded(tables(3, rows=10), number_schema, OPEN, home=tmp_path)
    model = federation.fit(ECOD(bins=8), privacy=dp(1.0), send_to=[VICTIM])
    run = federation.history[-1].run
    sizes = {name: len(kept(party._own.store, "clients")) for name, party in federation.parties.items()}
    assert sizes == {"bank-00": 1, VICTIM: 0, "bank-02": 1}
    assert f"{run}/threshold" in kept(federation.parties[VICTIM]._own.store, "sums.over")
    assert set(federation.send_model(model).values()) == {"kept as version 1"}, "checked against the last step still"
    assert {len(kept(party._own.store, "clients")) for party in federation.parties.values()} == {0}


def test_a_person_who_refuses_a_job_ends_its_sums_with_the_same_stroke(number_schema: Schema) -> None:
    federation = embedded(tables(3, rows=10), number_schema, OPEN)
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 3))
    with pytest.raises(SurvivorsError):
        federation.fit(ECOD(bins=8), privacy=dp(1.0))
    party = federation.parties[VICTIM]
    run = federation.history[0].run
    assert list(kept(party._own.store, "clients")) == [f"{run}/fit"]
    desk = reopened(party)  # 'blindsight jobs', beside the process that serves
    desk.decide(run, "refuse", approver="whoever", note="not any more")
    assert kept(party._own.store, "clients") == {}
    assert list(kept(party._own.store, "sums.over")) == [f"{run}/fit"]
    assert list(party._answers._clients) == [f"{run}/fit"]
    party.handle(encode(Hello()))  # whatever comes next, of whatever sum
    assert party._answers._clients == {}
    for one in (party, reopened(party)):
        for request in requests(channel)[:3]:
            error = refusal(one, request)
            assert isinstance(error, PolicyError)
            assert "not any more" in str(error)
        assert one._answers._clients == {}


class Interrupting(NoiseSource):
    """Noise during which something else happens."""

    is_secure = True

    def __init__(self) -> None:
        self.first: Callable[[], object] | None = None
        self._secure = NoiseSource.secure()

    def uint64(self, size: int) -> npt.NDArray[np.uint64]:
        if self.first is not None:
            do, self.first = self.first, None
            do()
        return self._secure.uint64(size)


def test_what_another_process_has_ended_is_not_brought_back(number_schema: Schema) -> None:
    """A person refuses while the vector is being made: it is charged, and does not leave."""
    federation = embedded(tables(4, rows=10), number_schema, OPEN)
    party = federation.parties[VICTIM]
    source = party._own.noise_source = Interrupting()
    source.first = lambda: reopened(party).decide(federation.history[0].run, "refuse", approver="whoever")
    with pytest.raises(PolicyError, match="refused by a person at bank-01"):
        federation.fit(ECOD(bins=8), privacy=dp(1.0))
    (fit,) = federation.history[0].steps
    assert fit.survivors == ["bank-00", "bank-02", "bank-03"]
    assert "is over at this party" in fit.dropped[VICTIM]
    assert charges(federation)[VICTIM] == 1
    assert kept(party._own.store, "clients") == {}
    assert party._answers._clients == {}


def test_a_coordinator_ends_its_own_runs_alone(number_schema: Schema) -> None:
    federation = embedded(tables(3, rows=10), number_schema, OPEN)
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 3))
    with pytest.raises(SurvivorsError):
        federation.fit(ECOD(bins=8), privacy=dp(1.0))
    party, (begin, share, *_) = federation.parties[VICTIM], requests(channel)
    step = msgspec.msgpack.decode(begin, type=Begin).step
    stranger, another = Asker(name="somebody-else"), msgspec.structs.replace(step, run="another")
    same_run = msgspec.structs.replace(step, step="second")
    for request in (Begin(another, ended=[step.run, "unheard-of"]), Begin(same_run, ended=[step.run])):
        assert isinstance(decode_reply(party.handle(encode(request), stranger)), Reply)
    assert party.handle(share) == channel.answers[1][VICTIM]
    own = Begin(msgspec.structs.replace(step, run="its-own"), ended=["another", "unheard-of", step.run])
    assert isinstance(decode_reply(party.handle(encode(own))), Reply)
    assert "is over" in str(refusal(party, share))
    assert set(kept(party._own.store, "sums.opened")) == {"another/fit", "its-own/fit"}
    # naming the very run that begins ends nothing of it that is under way
    assert isinstance(decode_reply(party.handle(encode(Begin(own.step, ended=["its-own"])))), Reply)


def left_open(number_schema: Schema, began: datetime) -> tuple[Party, bytes, bytes]:
    """A party in a sum that nobody goes on with, begun at this time; a request of it, and its answer."""
    federation = embedded(tables(3, rows=10), number_schema, OPEN)
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 3))
    party = federation.parties[VICTIM]
    party._own.now = lambda: began
    with pytest.raises(SurvivorsError):
        federation.fit(ECOD(bins=8), privacy=dp(1.0))
    return party, requests(channel)[1], channel.answers[1][VICTIM]


BEGAN = datetime(2026, 5, 1, tzinfo=UTC)


def test_a_sum_that_nobody_ends_is_forgotten_after_a_month(number_schema: Schema) -> None:
    party, share, answer = left_open(number_schema, BEGAN)
    after = {"days": OPEN_DAYS, "seconds": 1}
    for late in ({"days": OPEN_DAYS}, after, {**after, "hours": 23}):
        party._own.now = lambda late=late: BEGAN + timedelta(**late)
        party.end_old_sums()
        assert party.handle(share) == answer
    party._own.now = lambda: BEGAN + timedelta(**after, hours=24)
    party.end_old_sums()
    assert "is over" in str(refusal(party, share))
    assert kept(party._own.store, "clients") == {}


def test_a_clock_that_jumps_ends_no_sum(number_schema: Schema) -> None:
    """Forward and back, seen each time by the process that runs and by one that has started again."""
    party, share, answer = left_open(number_schema, BEGAN)
    far = 20_000
    for days in (far, far + 0.9, 1, far, 2, far, OPEN_DAYS + 1, OPEN_DAYS + 1.9):
        party._own.now = lambda days=days: BEGAN + timedelta(days=days)
        party.end_old_sums()
        assert party.handle(share) == answer
        assert reopened(party).handle(share) == answer
    party._own.now = lambda: BEGAN + timedelta(days=OPEN_DAYS + 2)
    party.end_old_sums()
    assert "is over" in str(refusal(party, share))


def test_a_disk_that_is_full_while_a_sum_ends_leaves_it_as_it_was(
    number_schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = embedded(tables(3, rows=10), number_schema, OPEN)
    federation._recalls = False
    channel = faulty(federation)
    original = Sums.end_runs

    def full(self: Sums, runs: Iterable[str], **options: Any) -> None:
        original(self, runs, **options)
        if len(channel.requests) == 5:  # the second sum begins, and the first is marked in the same transaction
            raise StoreError("the disk is full")

    monkeypatch.setattr(Sums, "end_runs", full)
    with pytest.raises(StoreError):
        federation.fit(ECOD(bins=8), privacy=dp(1.0))
    for party in federation.parties.values():
        assert kept(party._own.store, "sums.over") == {}
    party = federation.parties[VICTIM]
    for one in (party, reopened(party)):
        assert [one.handle(request) for request in requests(channel)] == [a[VICTIM] for a in channel.answers[:5]]
