"""A real process, really killed at every point between charge and release: charged once, drawn once, ledger whole."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from blindsight.channels import Channel, ProcessChannel
from blindsight.detectors import ECOD, SumQuery, detector_to_json
from blindsight.federation import Party, Policy, open_party, provision
from blindsight.federation._coordinator import beside, private_total
from blindsight.federation._heads import HeadRelay
from blindsight.federation._steps import query_of, spec_of, terms_of
from blindsight.federation._wire import Begin, Continue, Refusal, Reply, Step, decode_reply, encode
from blindsight.privacy import DifferentialPrivacy
from blindsight.securesum import Phase, SumServer
from blindsight.testing._failpoints import POINTS
from sample_tables import NUMBER_SCHEMA, make_table

VICTIM = "bank-b"
NAMES = ("bank-a", VICTIM, "bank-c", "bank-d")
PRIVACY = DifferentialPrivacy(epsilon=1.0, delta=1e-6)


@dataclass
class Bench:
    """Four parties, of which the victim runs in a process of its own and is then reopened from its folder."""

    home: Path
    step: Step
    query: SumQuery
    others: dict[str, Party]
    process: ProcessChannel | None = None
    reopened: Party | None = None

    def start(self, *, at: str, how: str = "kill") -> None:
        """The victim's process, with a failpoint armed."""
        folder = str(self.home / VICTIM)
        module = ["blindsight.testing._failpoints", folder, "--at", at, "--how", how]
        self.process = ProcessChannel({VICTIM: [sys.executable, "-m", *module]})

    def reopen(self) -> Party:
        """The party as it comes back: from its folder alone."""
        self.reopened = open_party(self.home / VICTIM)
        return self.reopened

    def stop(self) -> int:
        assert self.process is not None
        child = self.process._processes[VICTIM]
        self.process.close()
        self.process = None
        return child.returncode

    def ask(self, requests: Mapping[str, bytes]) -> dict[str, bytes]:
        """One exchange with everybody; the victim is absent when it died."""
        answers = {name: self.others[name].handle(request) for name, request in requests.items() if name != VICTIM}
        if VICTIM in requests and self.process is not None:
            answers.update(self.process.exchange({VICTIM: requests[VICTIM]}, 30.0))
        elif VICTIM in requests and self.reopened is not None:
            answers[VICTIM] = self.reopened.handle(requests[VICTIM])
        return answers


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    data = {}
    for i, name in enumerate(NAMES):
        data[name] = tmp_path / f"{name}.csv"
        make_table(30 + i, 50 + i).write_csv(data[name])
    home = tmp_path / "home"
    participants = provision(home, data=data, evaluation={}, schema=NUMBER_SCHEMA, policy=Policy(), key_file=None)
    detector = ECOD(bins=8, schema=NUMBER_SCHEMA)
    step = Step(
        federation="test",
        run="run1",
        step="fit",
        purpose="fit",
        part="fit",
        dataset="training",
        participants=participants,
        threshold=3,
        schema_digest=NUMBER_SCHEMA.digest(),
        detector=detector_to_json(detector),
        model=None,
        privacy=terms_of(PRIVACY),
    )
    query = query_of(step, NUMBER_SCHEMA, allowed=frozenset({"ECOD"}))
    others = {name: open_party(home / name) for name in NAMES if name != VICTIM}
    made = Bench(home, step, query, others)
    yield made
    if made.process is not None:
        made.stop()


def requests_of(bench: Bench, server: SumServer, relay: HeadRelay) -> dict[str, bytes]:
    """What a coordinator sends for the open phase."""
    return {
        name: encode(Continue(bench.step.release_id, body, beside(relay, server.phase, name)))
        for name, body in server.requests().items()
    }


def run_with_restart(bench: Bench) -> tuple[np.ndarray, list[str], int]:
    """Drive a sum; when the victim dies, restart its process on the same folder and repeat the request."""
    server, relay = SumServer(spec_of(bench.step, bench.query)), HeadRelay(NAMES)
    restarts = 0
    while server.phase is not Phase.DONE:
        if server.phase is Phase.ADVERTISE:
            requests = dict.fromkeys(server.spec.names, encode(Begin(bench.step)))
        else:
            requests = requests_of(bench, server, relay)
        answers = bench.ask(requests)
        if VICTIM in requests and VICTIM not in answers:
            assert bench.stop() == -signal.SIGKILL
            restarts += 1
            answers[VICTIM] = bench.reopen().handle(requests[VICTIM])
        for name, data in answers.items():
            answer = decode_reply(data)
            assert isinstance(answer, Reply), answer
            assert server.receive(name, answer.body)
            relay.take(name, answer.ledgers)
        server.close_phase()
    return server.result(), list(server.survivors), restarts


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_restarted_the_sum_is_completed_and_charged_once(point: str, bench: Bench) -> None:
    bench.start(at=point)
    total, survivors, restarts = run_with_restart(bench)
    assert restarts == 1, "the failpoint was passed"
    assert survivors == list(NAMES)
    vectors = []
    for name in NAMES:
        party = open_party(bench.home / name) if name == VICTIM else bench.others[name]
        ledger = party.ledgers["record"]
        (entry,) = ledger.entries()
        assert entry.release_id == bench.step.release_id
        assert ledger.verify() == 2, "one charge and one output"
        output = ledger.output(entry.release_id)
        assert output is not None
        vectors.append(np.frombuffer(output, dtype="<i8"))
    # what every ledger says was released is what the total is made of: nobody drew twice
    assert np.array_equal(total, np.sum(vectors, axis=0))


@pytest.mark.parametrize("point", ["after-reserve", "after-draw", "after-record-output"])
def test_killed_for_good_the_run_goes_on_over_the_survivors(point: str, bench: Bench) -> None:
    bench.start(at=point)

    class Mixed(Channel):
        parties = NAMES

        def _exchange(self, requests: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes]:
            return bench.ask(requests)

    total, record = private_total(Mixed(), bench.step, bench.query, timeout_s=30)
    assert record.survivors == [name for name in NAMES if name != VICTIM]
    assert record.dropped == {VICTIM: "mask: did not answer"}
    outputs = [p.ledgers["record"].output(bench.step.release_id) for p in bench.others.values()]
    assert np.array_equal(total.values, np.sum([np.frombuffer(o or b"", dtype="<i8") for o in outputs], axis=0))
    assert bench.stop() == -signal.SIGKILL
    # spent although nothing of it was ever released: there are no refunds
    ledger = bench.reopen().ledgers["record"]
    assert [entry.release_id for entry in ledger.entries()] == [bench.step.release_id]
    assert ledger.spent() > 0
    ledger.verify()
    stored = ledger.output(bench.step.release_id)
    assert (stored is not None) == (point == "after-record-output")


def test_a_stored_output_is_what_every_retry_uses(bench: Bench) -> None:
    """Killed after the output was stored: whatever the retry answers unmasks to exactly that output."""
    bench.start(at="after-record-output")
    spec = spec_of(bench.step, bench.query)
    server, relay = SumServer(spec), HeadRelay(NAMES)
    requests = dict.fromkeys(spec.names, encode(Begin(bench.step)))
    for _ in range(2):
        for name, data in bench.ask(requests).items():
            answer = decode_reply(data)
            assert isinstance(answer, Reply)
            server.receive(name, answer.body)
            relay.take(name, answer.ledgers)
        server.close_phase()
        requests = requests_of(bench, server, relay)
    assert bench.process is not None
    assert bench.process.exchange({VICTIM: requests[VICTIM]}, 30.0) == {}
    bench.stop()
    ledger = bench.reopen().ledgers["record"]
    stored, head = ledger.output(bench.step.release_id), ledger.head()
    assert stored is not None
    replies = []
    for _ in range(2):
        replies.append(bench.reopen().handle(requests[VICTIM]))
    assert replies[0] == replies[1]
    assert isinstance(decode_reply(replies[0]), Reply)
    after = bench.reopen().ledgers["record"]
    assert after.output(bench.step.release_id) == stored
    assert after.head() == head, "a retry writes no line"


@pytest.mark.parametrize("point", ["before-reserve", "after-reserve", "after-record-output"])
def test_a_full_disk_refuses_says_what_is_safe_and_releases_nothing(
    point: str, bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.start(at=point, how="full-disk")
    server, relay = SumServer(spec_of(bench.step, bench.query)), HeadRelay(NAMES)
    requests = dict.fromkeys(server.spec.names, encode(Begin(bench.step)))
    refusals = []
    for _ in range(3):
        for name, data in bench.ask(requests).items():
            answer = decode_reply(data)
            if isinstance(answer, Refusal):
                refusals.append((name, answer))
            else:
                assert isinstance(answer, Reply)
                server.receive(name, answer.body)
                relay.take(name, answer.ledgers)
        if server.phase is Phase.MASK:
            break
        server.close_phase()
        requests = requests_of(bench, server, relay)
    assert [name for name, _ in refusals] == [VICTIM], "no masked vector left a party whose disk is full"
    assert refusals[0][1].kind == "StoreError"
    assert bench.stop() == 0, "the party's process lives on"
    told = capfd.readouterr().err
    assert "bank-b refuses: The store 'ledger.db' could not be written: the disk is full or failing" in told
    assert "nothing of this step was kept; all earlier entries are intact" in told
    assert "Fix: free some space and repeat the same step" in told
    ledger = bench.reopen().ledgers["record"]
    ledger.verify()
    assert len(ledger.entries()) == (0 if point == "before-reserve" else 1)
    # with space again the very same request succeeds, charged once in all
    answer = decode_reply(bench.reopen().handle(requests[VICTIM]))
    assert isinstance(answer, Reply)
    assert server.receive(VICTIM, answer.body)
    after = bench.reopen().ledgers["record"]
    assert len(after.entries()) == 1
    assert after.verify() == 2


def test_the_failpoints_module_is_only_for_tests() -> None:
    """No module of the library mentions it, so that no environment variable or flag can arm it."""
    source = Path(sys.modules["blindsight"].__file__ or "").parent
    users = [p for p in source.rglob("*.py") if "_failpoints" in p.read_text() and p.parent.name != "testing"]
    assert users == []
