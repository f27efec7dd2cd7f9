"""A coordinator that is killed anywhere goes on with the same run: same survivors, same total, nobody charged twice."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import blindsight as bs
from blindsight.channels import Channel, MemoryChannel
from blindsight.detectors import ECOD
from blindsight.errors import DataError, ParameterError, RefusedError, ReleaseError, StoreError, SurvivorsError
from blindsight.federation import Federation, Journal, Party, Policy, open_party, provision
from blindsight.federation._journal import SumJournal
from blindsight.privacy import DifferentialPrivacy
from blindsight.store import Store
from sample_tables import NUMBER_SCHEMA, make_table

NAMES = ("bank-a", "bank-b", "bank-c", "bank-d")
PRIVACY = DifferentialPrivacy(epsilon=1.0, delta=1e-6)
POLICY = Policy(allow_exact_sums=True)
PHASES_OF_A_SUM = 5


class Killed(BaseException):
    """No error of ours: like SIGKILL, nothing of the library handles it."""


class Bench:
    """Parties with folders of their own, and a coordinator that comes and goes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        data = {}
        for i, name in enumerate(NAMES):
            data[name] = folder / f"{name}.csv"
            make_table(60 + i, 50 + i).write_csv(data[name])
        self.participants = provision(
            folder / "home", data=data, evaluation={}, schema=NUMBER_SCHEMA, policy=POLICY, key_file=None
        )
        self.parties: dict[str, Party] = {}
        self.reopen()
        self.away: set[str] = set()
        self.store = Store(folder / "coordinator.db")

    def reopen(self) -> None:
        """Every party from its folder alone, as after a restart."""
        self.parties = {name: open_party(self.folder / "home" / name) for name in NAMES}

    def federation(self, **options: Any) -> Federation:
        """A coordinator that knows what is in its journal, and nothing else."""

        def handler(name: str) -> Any:
            def answer(request: bytes) -> bytes:
                if name in self.away:
                    raise ConnectionError(name)
                return self.parties[name].handle(request)

            return answer

        channel: Channel = MemoryChannel({name: handler(name) for name in NAMES})
        options = {"journal": Journal(self.store), **options}
        return Federation(channel, participants=self.participants, schema=NUMBER_SCHEMA, **options)

    def charges(self) -> list[list[str]]:
        """Release ids in every party's ledger, which verifies."""
        found = []
        for name in NAMES:
            ledger = self.parties[name].ledgers["record"]
            ledger.verify()
            found.append([entry.release_id for entry in ledger.entries()])
        return found

    def output_sum(self, release: str, names: tuple[str, ...] = NAMES) -> np.ndarray:
        """What the ledgers say was put into a release."""
        outputs = [self.parties[name].ledgers["record"].output(release) for name in names]
        return np.sum([np.frombuffer(output or b"", dtype="<i8") for output in outputs], axis=0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int, *, before: bool) -> None:
    """Die at the n-th call, before it or after it has returned."""
    original, calls = getattr(owner, name), [0]

    def wrapped(*arguments: Any, **options: Any) -> Any:
        now = calls[0] == number
        calls[0] += 1
        if now and before:
            raise Killed
        result = original(*arguments, **options)
        if now:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, wrapped)


KEEPS = [(SumJournal, "keep", i, before) for i in range(2 * PHASES_OF_A_SUM) for before in (True, False)]
ASKS = [(Channel, "exchange", i, False) for i in range(2 * PHASES_OF_A_SUM)]
ENDS = [(SumJournal, "finish", i, before) for i in range(2) for before in (True, False)]
RUNS = [(Journal, "begin", 0, False), (Journal, "end", 0, True)]
POINTS = [pytest.param(*p, id=f"{p[1]}-{p[2]}-{'before' if p[3] else 'after'}") for p in KEEPS + ASKS + ENDS + RUNS]


@pytest.mark.parametrize(("owner", "name", "number", "before"), POINTS)
def test_it_resumes_with_the_same_result_charged_once(
    owner: Any, name: str, number: int, before: bool, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as armed:
        kill_at(armed, owner, name, number, before=before)
        with pytest.raises(Killed):
            bench.federation().fit(ECOD(bins=8), privacy=PRIVACY)
    bench.reopen()
    again = bench.federation()
    (header,) = again.unfinished()
    model = again.resume(header.run)
    assert isinstance(model, ECOD)
    releases = [f"{header.run}/fit", f"{header.run}/threshold"]
    assert bench.charges() == [releases] * len(NAMES)
    assert np.array_equal(model.totals_, bench.output_sum(releases[0]))
    assert np.array_equal(model.score_histogram_.counts, bench.output_sum(releases[1]))
    assert [step.survivors for step in again.history[-1].steps] == [list(NAMES)] * 2
    assert again.unfinished() == []
    with pytest.raises(ParameterError, match="cannot be resumed"):
        again.resume(header.run)


def test_a_model_is_delivered_before_the_journal_lets_go_of_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the last sum, before or after its model was put away: the model is there, and nobody pays twice."""
    delivered: list[Any] = []

    def full_disk(_model: Any) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as armed:
        kill_at(armed, Journal, "end", 0, before=True)
        with pytest.raises(Killed):
            bench.federation().fit(ECOD(bins=8), privacy=PRIVACY, deliver=delivered.append)
    again = bench.federation()
    (header,) = again.unfinished()
    with pytest.raises(StoreError, match="disk is full"):
        again.resume(header.run, deliver=full_disk)
    again.resume(header.run, deliver=delivered.append)
    first, second = delivered
    assert modelfile_state(first) == modelfile_state(second)
    assert bench.charges() == [[f"{header.run}/fit", f"{header.run}/threshold"]] * len(NAMES)
    assert again.unfinished() == []


def test_the_survivor_set_is_the_one_that_was_signed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A party that was away while vectors came in is back when the coordinator is: it stays out of this release."""
    with monkeypatch.context() as armed:
        kill_at(armed, SumJournal, "keep", 3, before=False)  # survivors are fixed, and have signed
        bench.away = {"bank-d"}
        with pytest.raises(Killed):
            bench.federation(threshold=3).fit(ECOD(bins=8), privacy=PRIVACY)
    bench.away = set()
    bench.reopen()
    again = bench.federation(threshold=3)
    (header,) = again.unfinished()
    model = again.resume(header.run)
    assert again.history[-1].steps[0].survivors == list(NAMES[:3])
    assert isinstance(model, ECOD)
    assert np.array_equal(model.totals_, bench.output_sum(f"{header.run}/fit", NAMES[:3]))


def test_a_party_that_went_for_good_before_masking_is_left_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as armed:
        kill_at(armed, SumJournal, "keep", 1, before=False)
        with pytest.raises(Killed):
            bench.federation(threshold=3).fit(ECOD(bins=8), privacy=PRIVACY)
    bench.away = {"bank-b"}
    again = bench.federation(threshold=3)
    model = again.resume(again.unfinished()[0].run)
    left = tuple(name for name in NAMES if name != "bank-b")
    assert again.history[-1].steps[0].survivors == list(left)
    assert isinstance(model, ECOD)
    assert np.array_equal(model.totals_, bench.output_sum(f"{again.history[-1].run}/fit", left))


def test_exact_sums_go_on_over_the_same_parties(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule that exact totals are over one survivor set outlives the coordinator."""
    bench.away = {"bank-d"}
    with monkeypatch.context() as armed:
        kill_at(armed, SumJournal, "finish", 0, before=False)
        with pytest.raises(Killed):
            bench.federation(threshold=3).fit(ECOD(bins=8), privacy=None)
    bench.away = set()
    again = bench.federation(threshold=3)
    assert again.exact_survivors == frozenset(NAMES[:3])
    model = again.resume(again.unfinished()[0].run)
    records = pl.concat([make_table(60 + i, 50 + i) for i in range(3)])
    central = ECOD(bins=8, schema=NUMBER_SCHEMA).fit(records)
    assert isinstance(model, ECOD)
    assert modelfile_state(model) == modelfile_state(central)


def modelfile_state(model: Any) -> Any:
    state = model.dump()
    return state.values, {name: array.tolist() for name, array in state.arrays.items()}


def test_evaluation_description_and_selection_are_resumed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bench.federation().fit(ECOD(bins=8), privacy=None)
    calls = {
        "evaluate": lambda f: f.evaluate(model, privacy=None),
        "describe": lambda f: f.describe(privacy=None),
        "select": lambda f: f.select_features(2, privacy=None),
    }
    for kind, call in calls.items():
        with monkeypatch.context() as armed:
            kill_at(armed, SumJournal, "keep", 2, before=False)
            with pytest.raises(Killed):
                call(bench.federation())
        again = bench.federation()
        (header,) = again.unfinished()
        assert header.kind == kind
        assert repr(again.resume(header.run)) == repr(call(bench.federation()))


@pytest.mark.parametrize("dies", [False, True], ids=["ends", "dies"])
@pytest.mark.parametrize("number", [0, 3, 4, 5, 9])
def test_a_second_coordinator_takes_the_run_over_and_the_first_leaves_it_alone(
    number: int, dies: bool, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is only slow: while it waits in an exchange, another on the same journal resumes its run."""
    original, calls = Channel.exchange, [0]

    def exchange(self: Channel, *arguments: Any, **options: Any) -> Any:
        now = calls[0]
        calls[0] += 1
        if now == number:
            with Store(bench.folder / "coordinator.db") as store:
                second = bench.federation(journal=Journal(store))
                (header,) = second.unfinished()
                with pytest.raises(Killed) if dies else contextlib.nullcontext():
                    second.resume(header.run)
        elif dies and now == number + 1:  # the second's first exchange
            raise Killed
        return original(self, *arguments, **options)

    first = bench.federation()
    with monkeypatch.context() as armed:
        armed.setattr(Channel, "exchange", exchange)
        with pytest.raises(StoreError, match="taken over by another coordinator"):
            first.fit(ECOD(bins=8), privacy=PRIVACY)
    assert first.journal is not None
    (header,) = first.journal.headers()
    assert header.outcome == ("open" if dies else "done")
    if dies:
        bench.federation().resume(header.run)
    assert bench.charges() == [[f"{header.run}/fit", f"{header.run}/threshold"]] * len(NAMES)


def test_an_older_journal_lacks_a_total_that_parties_give_no_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a backup, or an asynchronous replica: the run ends, and says why; nobody is charged again."""
    with monkeypatch.context() as armed:
        kill_at(armed, Channel, "exchange", 4, before=False)  # the last answers have come, and are not written down
        with pytest.raises(Killed):
            bench.federation().fit(ECOD(bins=8), privacy=PRIVACY)
    older = bench.folder / "older.db"
    with (
        contextlib.closing(sqlite3.connect(bench.folder / "coordinator.db")) as present,
        contextlib.closing(sqlite3.connect(older)) as copy,
    ):
        present.backup(copy)
    (header,) = bench.federation().unfinished()
    with monkeypatch.context() as armed:
        kill_at(armed, SumJournal, "keep", 1, before=True)  # it has the total, and has begun the next sum
        with pytest.raises(Killed):
            bench.federation().resume(header.run)
    charged = bench.charges()
    with Store(older) as store:
        restored = bench.federation(journal=Journal(store))
        with pytest.raises(RefusedError, match=f"Release {header.run}/fit is over at this party"):
            restored.resume(header.run)
        assert [header.outcome for header in Journal(store).headers()] == ["failed"]
    assert bench.charges() == charged


def test_a_run_that_was_refused_has_ended(bench: Bench) -> None:
    bench.away = set(NAMES[:2])
    federation = bench.federation()
    with pytest.raises(SurvivorsError):
        federation.fit(ECOD(bins=8), privacy=PRIVACY)
    assert federation.unfinished() == []
    assert federation.journal is not None
    (header,) = federation.journal.headers()
    assert header.outcome == "failed"
    assert "Too few parties" in header.error
    with pytest.raises(ParameterError, match="cannot be resumed"):
        federation.resume(header.run)
    with pytest.raises(ParameterError, match="no such run"):
        federation.resume("f" * 16)


def test_it_is_not_resumed_in_another_federation_or_form(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as armed:
        kill_at(armed, SumJournal, "keep", 0, before=False)
        with pytest.raises(Killed):
            bench.federation().fit(ECOD(bins=8), privacy=PRIVACY)
    other = bench.federation(name="another")
    assert other.unfinished() == []
    (header,) = bench.federation().unfinished()
    with pytest.raises(ParameterError, match="another federation"):
        other.resume(header.run)
    again = bench.federation()
    with monkeypatch.context() as changed:  # as if another version of the library asked for something else
        changed.setattr("blindsight.federation._requests.step_digest", lambda step: "0" * 64)
        with pytest.raises(ReleaseError, match="another form"):
            again.resume(header.run)


def test_rounds_with_a_server_optimiser_end_where_they_would_have(tmp_path: Path, monkeypatch: Any) -> None:
    """An autoencoder by rounds of FedAdam: killed in its third round it ends in the same weights, bit for bit."""
    pytest.importorskip("opacus", reason="deep detectors need the extra 'deep'")
    from blindsight.detectors import AutoEncoder, Training

    models = []
    detector = AutoEncoder(hidden=(2,), training=Training(rounds=4, server="fedadam"))
    for kill in (False, True):
        folder = tmp_path / str(kill)
        folder.mkdir()
        bench = Bench(folder)
        if not kill:
            models.append(bench.federation().fit(detector, privacy=None))
            continue
        with monkeypatch.context() as armed:
            kill_at(armed, SumJournal, "keep", 4 + 3 * PHASES_OF_A_SUM, before=False)
            with pytest.raises(Killed):
                bench.federation().fit(detector, privacy=None)
        again = bench.federation()
        models.append(again.resume(again.unfinished()[0].run))
    one, other = (modelfile_state(model) for model in models)
    assert one == other


SCRIPT = """
import os, signal, sys
from pathlib import Path
from blindsight.federation import Federation
from blindsight.federation._journal import SumJournal
from blindsight.data import Schema
from blindsight.detectors import ECOD
from blindsight.privacy import DifferentialPrivacy

home, number = Path(sys.argv[1]), int(sys.argv[2])
calls, original = [0], SumJournal.keep

def keep(self, *state):
    original(self, *state)
    if calls[0] == number:
        os.kill(os.getpid(), signal.SIGKILL)
    calls[0] += 1

SumJournal.keep = keep
data = {path.stem: path for path in sorted(home.parent.glob("bank-*.csv"))}
with Federation.processes(data, schema=Schema.read(home.parent / "schema.toml"), home=home) as federation:
    waiting = federation.unfinished()
    if waiting:
        model = federation.resume(waiting[0].run)
    else:
        model = federation.fit(ECOD(bins=8), privacy=DifferentialPrivacy(epsilon=1.0, delta=1e-6))
    model.save(home.parent / "model.blindsight")
"""


def test_the_process_is_really_killed_and_started_again(tmp_path: Path) -> None:
    """SIGKILL: with it its parties' processes go. The same command goes on where it was."""
    for i, name in enumerate(NAMES):
        make_table(60 + i, 50 + i).write_csv(tmp_path / f"{name}.csv")
    NUMBER_SCHEMA.write(tmp_path / "schema.toml")
    home = tmp_path / "home"

    def run(number: int) -> int:
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(home), str(number)]
        return subprocess.run(command, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode

    assert run(PHASES_OF_A_SUM + 2) == -signal.SIGKILL  # one sum is done, the other's vectors are in
    assert run(100) == 0
    model = bs.load(tmp_path / "model.blindsight")
    assert isinstance(model, ECOD)
    total = 0
    for name in NAMES:
        ledger = open_party(home / name).ledgers["record"]
        ledger.verify()
        fit, threshold = ledger.entries()
        assert [fit.release_id, threshold.release_id] == [
            f"{model.provenance_['run']}/{s}" for s in ("fit", "threshold")
        ]
        total = total + np.frombuffer(ledger.output(fit.release_id) or b"", dtype="<i8")
    assert np.array_equal(model.totals_, total)


def test_what_is_wrong_with_records_is_not_in_the_journal(tmp_path: Path) -> None:
    """Parties of the same process tell their caller the value; the coordinator's disk does not keep it."""
    tables = {name: make_table(60 + i, 50 + i) for i, name in enumerate(NAMES)}
    column = NUMBER_SCHEMA.features[0].name
    tables["bank-b"] = tables["bank-b"].with_columns(pl.lit("secret-4711").alias(column))
    with Store(tmp_path / "coordinator.db") as store:
        federation = Federation.embedded(tables, schema=NUMBER_SCHEMA, policy=POLICY, journal=Journal(store))
        with pytest.raises(DataError, match="secret-4711"):
            federation.fit(ECOD(bins=8), privacy=None)
        (header,) = Journal(store).headers()
        assert (header.outcome, header.error) == ("failed", "DataError")
    assert b"secret-4711" not in (tmp_path / "coordinator.db").read_bytes()
