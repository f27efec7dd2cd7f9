"""A coordinator that was written from the wire documents alone attacks an unmodified ``party serve`` over mutual TLS.

The parties beside the attacked one are puppets of the coordinator's own making, enrolled like any other: more of them
collude than any threshold tolerates. What still holds then is what the party itself refuses.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from blindsight.cli import app
from blindsight.detectors import ECOD
from blindsight.federation import open_audit, open_party
from blindsight.federation.kits import ParticipantList
from blindsight.keys import Sealer
from blindsight.privacy import Budget, Ledger
from blindsight.store import Store
from sample_tables import NUMBER_SCHEMA, make_table

from .hostile_coordinator import Desk, Kit, Party, Puppet, Step, Sum, Total, spec_digest
from .hostile_coordinator.messages import decode, enrolment_request, hello, proceed, sign_list
from .hostile_coordinator.puppet import PuppetInSum
from .hostile_coordinator.sums import ADVERTISE, CONFIRM, MASK, SHARE, UNMASK, encode

VICTIM = "bank-a"
PUPPETS = ("eve-b", "eve-c", "eve-d")
FEDERATION = "card-fraud"
ROWS = 60
NUMBERS = 3
BINS = 64
DP = {
    "epsilon": 0.5,
    "delta": 1e-6,
    "unit": "record",
    "max_records_per_person": None,
    "max_records_per_party": None,
    "shares": {"fit": 1.0},
    "colluders": 1,
    "trust": "federation",
}


def command(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def make_site(folder: Path, names: tuple[str, ...], puppets: tuple[Puppet, ...] = ()) -> int:
    """Kits of a federation whose coordinator has a free port of this machine, which is returned."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    NUMBER_SCHEMA.write(folder / "schema.toml")
    (folder / "federation.toml").write_text(
        f'name = "{FEDERATION}"\nschema = "schema.toml"\n[coordinator]\naddresses = ["https://127.0.0.1:{port}"]\n'
        + "".join(f'[[parties]]\nname = "{name}"\n' for name in (*names, *(puppet.name for puppet in puppets)))
    )
    requests: list[object] = []
    for puppet in puppets:
        path = folder / f"{puppet.name}.json"
        path.write_bytes(enrolment_request(FEDERATION, puppet.name, puppet.identity, puppet.tls_key))
        requests += ["--request", path]
    made = ["--make-keys", *requests] if puppets else []
    command("init", folder / "federation.toml", "--output", folder / "kits", *made)
    for i, name in enumerate(names):
        home = folder / "kits" / name
        command("party", "join", home, "--home", home)
        make_table(ROWS + i, 70 + i).write_csv(home / "records.csv")
    return port


def serve(home: Path) -> subprocess.Popen[bytes]:
    """A party's process, as its owner starts it."""
    with (home.parent / f"{home.name}.err").open("ab") as errors:
        return subprocess.Popen([sys.executable, "-m", "blindsight", "party", "serve", str(home)], stderr=errors)


def end(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.terminate()
    assert [process.wait(30) for process in processes] == [0] * len(processes)


class Stage:
    """The attacked party, the coordinator's desk, and its puppets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.puppets = tuple(Puppet(name) for name in PUPPETS)
        self.port = make_site(folder, (VICTIM,), self.puppets)
        self.home = folder / "kits" / VICTIM
        self.hidden = self.home / "records.csv.away"
        (self.home / "records.csv").rename(self.hidden)
        self.process = serve(self.home)
        self.desk = Desk(Kit(folder / "kits" / "coordinator"), self.port)
        self.desk.wait_for(VICTIM)
        greeting = decode(self.desk.ask(VICTIM, hello()))
        self.parties = [Party(VICTIM, greeting["public_key"]), *(puppet.party for puppet in self.puppets)]
        self.step = Step(
            fields={
                "federation": FEDERATION,
                "run": "run",
                "step": "fit",
                "purpose": "fit",
                "part": "fit",
                "dataset": "training",
                "participants": [[party.name, party.key] for party in self.parties],
                "threshold": 3,
                "schema_digest": greeting["schema_digest"],
                "detector": {"name": "ECOD", "parameters": {}},
                "model": None,
                "privacy": DP,
                "sums": "masked",
            }
        )
        self._run = 0

    def close(self) -> None:
        try:
            end(self.process)
        finally:
            self.desk.close()

    def new(self, **changes: Any) -> Step:
        """A step of a run that nobody has seen."""
        self._run += 1
        return self.step.but(**{"run": f"run-{self._run}", **changes})

    @contextlib.contextmanager
    def policy(self, text: str) -> Iterator[None]:
        """The owner edits its policy while the party runs."""
        before = (self.home / "policy.toml").read_bytes()
        (self.home / "policy.toml").write_text(text)
        try:
            yield
        finally:
            (self.home / "policy.toml").write_bytes(before)

    @contextlib.contextmanager
    def records(self) -> Iterator[None]:
        """The records are there; otherwise nothing that reads them works."""
        self.hidden.rename(self.home / "records.csv")
        try:
            yield
        finally:
            (self.home / "records.csv").rename(self.hidden)

    def ask(self, body: bytes) -> dict[str, Any]:
        return decode(self.desk.ask(VICTIM, body))

    def charges(self) -> list[str]:
        """Release ids in the party's ledgers, whose chains hold."""
        found = []
        with Store(self.home / "ledger.db", Sealer.from_key_file(self.home / "keys" / "home.key")) as store:
            for unit in ("record", "person"):
                ledger = Ledger(store, Budget(epsilon=10.0, delta=1e-6, unit=unit), name=f"ledger.{unit}")
                ledger.verify()
                found += [entry.release_id for entry in ledger.entries()]
        return found

    def refused(self, body: bytes, kind: str, words: str, *, audited: bool = True) -> dict[str, Any]:
        """The party says no, clearly, to the coordinator and in both logs; nothing is charged."""
        charges, lines = self.charges(), len(open_audit(self.home).lines())
        told, logged = self.told(), self.logged()
        answer = self.ask(body)
        assert answer["type"] == "refusal", answer
        said = " ".join(str(answer[key]) for key in ("what", "got", "rule", "fix") if answer.get(key))
        assert answer["kind"] == kind, answer
        assert words in said, answer
        assert answer["rule"] or answer["fix"], answer  # what to do about it
        assert self.charges() == charges
        if audited:
            new = open_audit(self.home).lines()[lines:]
            assert [line.kind for line in new if line.kind not in ("policy", "list", "began")] == ["refused"], new
            assert new[-1].detail["error"] == kind
            assert new[-1].detail["what"] == answer["what"]
            assert "refused {" in self.told()[len(told) :]
            assert answer["what"] in self.logged()[len(logged) :]
        return answer

    def told(self) -> str:
        return (self.home.parent / f"{VICTIM}.err").read_text()

    def logged(self) -> str:
        return (self.home / "party.log").read_text()

    def begin(self, step: Step) -> Run:
        """Begin a sum in earnest: the party's advertisement is in it."""
        answer = self.ask(step.begin())
        assert answer["type"] == "reply", answer
        return Run(self, step, answer["body"])


class Run:
    """A sum that the attacked party has begun, with the puppets' parts in it."""

    def __init__(self, stage: Stage, step: Step, advertisement: bytes) -> None:
        self.stage, self.step = stage, step
        self.release = f"{step.fields['run']}/{step.fields['step']}"
        self.sum = Sum(stage.parties, threshold=3, spec=decode_spec(advertisement))
        self.sum.take(ADVERTISE, VICTIM, advertisement)
        self.puppets = [puppet.join(self.sum) for puppet in stage.puppets]

    def send(self, body: bytes) -> bytes:
        """A request in the order of things."""
        answer = self.stage.ask(proceed(self.release, body))
        assert answer["type"] == "reply", answer
        return bytes(answer["body"])

    def honest(self, phase: int) -> bytes:
        """The next request, as an honest coordinator sends it; its answer is taken."""
        request = self.sum.request(phase, VICTIM)
        answer = self.send(request)
        self.sum.take(phase, VICTIM, answer)
        return request

    def until(self, phase: int) -> Run:
        """Go on, honestly, up to and without this phase."""
        values = np.zeros(NUMBERS * BINS, dtype=np.int64)
        acts: list[Callable[[PuppetInSum], object]] = [
            PuppetInSum.advertise,
            PuppetInSum.share,
            lambda puppet: puppet.mask(values),
            PuppetInSum.confirm,
            PuppetInSum.unmask,
        ]
        for now in range(phase):
            if now > ADVERTISE:
                self.honest(now)
            for puppet in self.puppets:
                acts[now](puppet)
        return self

    def refused(self, body: bytes, kind: str, words: str) -> None:
        self.stage.refused(proceed(self.release, body), kind, words)


def decode_spec(frame: bytes) -> bytes:
    spec: bytes = msgspec.msgpack.decode(frame)[2]
    return spec


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("attacked"))
    try:
        yield made
    finally:
        made.close()


# -- what it is made of, and that it would work -----------------------------------------------------------------------


def test_it_imports_nothing_of_blindsight() -> None:
    code = "import sys, hostile_coordinator; print(sorted(m for m in sys.modules if m.partition('.')[0] == 'blindsight'))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_three_real_parties_and_the_right_total(tmp_path: Path) -> None:
    """Playing by the rules it opens what the parties' counts add up to: the documents say all that it takes."""
    names = ("bank-a", "bank-b", "bank-c")
    port = make_site(tmp_path, names)
    for name in names:
        (tmp_path / "kits" / name / "policy.toml").write_text("allow_exact_sums = true\n")
    processes = [serve(tmp_path / "kits" / name) for name in names]
    try:
        with Desk(Kit(tmp_path / "kits" / "coordinator"), port) as desk:
            desk.wait_for(*names)
            greetings = {n: decode(a) for n, a in desk.ask_all(dict.fromkeys(names, hello())).items()}
            parties = [Party(name, greetings[name]["public_key"]) for name in names]
            assert {p["name"]: p["public_key"] for p in desk.kit.listing["parties"]} == {
                party.name: party.key.hex() for party in parties
            }
            step = Step(
                fields={
                    "federation": FEDERATION,
                    "run": "honest",
                    "step": "fit",
                    "purpose": "fit",
                    "part": "fit",
                    "dataset": "training",
                    "participants": [[party.name, party.key] for party in parties],
                    "threshold": 3,
                    "schema_digest": greetings["bank-a"]["schema_digest"],
                    "detector": {"name": "ECOD", "parameters": {}},
                    "model": None,
                    "privacy": None,
                    "sums": "masked",
                }
            )
            spec = spec_digest(
                FEDERATION,
                "honest",
                f"fit#{step.digest[:32]}",
                parties,
                length=NUMBERS * BINS,
                bits=64,
                threshold=3,
                max_abs=(2**63 - 1) // 3,
            )
            this = Sum(parties, threshold=3, spec=spec)
            for phase in range(5):
                if phase == ADVERTISE:
                    requests = dict.fromkeys(names, step.begin())
                else:
                    requests = {name: proceed("honest/fit", this.request(phase, name)) for name in names}
                for name, answer in desk.ask_all(requests).items():
                    this.take(phase, name, decode(answer)["body"])
            total = this.open()
    finally:
        end(*processes)
    import polars as pl

    central = ECOD(schema=NUMBER_SCHEMA).fit(pl.concat([make_table(ROWS + i, 70 + i) for i in range(3)]))
    assert total.survivors == names
    assert np.array_equal(total.values, central.totals_)


def test_puppets_that_keep_the_rules_are_parties_like_any_other(stage: Stage) -> None:
    """With differential privacy, and one of them gone after sharing: the attacks below fail at what they attack."""
    with stage.records():
        run = stage.begin(stage.new()).until(MASK)
        run.honest(MASK)
        for puppet in run.puppets[:2]:
            puppet.mask(np.zeros(NUMBERS * BINS, dtype=np.int64))
        for phase, act in ((CONFIRM, PuppetInSum.confirm), (UNMASK, PuppetInSum.unmask)):
            run.honest(phase)
            for puppet in run.puppets[:2]:
                act(puppet)
    total: Total = run.sum.open()
    assert total.survivors == (VICTIM, "eve-b", "eve-c")
    assert abs(int(total.values.sum()) - NUMBERS * ROWS) < 1000  # noise, but not the 2^63 of a mask left on
    assert stage.charges().count(run.release) == 1


# -- what a step may not ask ------------------------------------------------------------------------------------------


def other_day() -> str:
    """Never today, nor tomorrow where midnight comes while this runs."""
    return ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(datetime.now(UTC) + timedelta(days=3)).weekday()]


def robust(detector: str) -> dict[str, Any]:
    return {"name": detector, "parameters": {"training": {"aggregation": "median"}}}


FORBIDDEN: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "a column too many": ('columns = ["age", "amount"]\n', {}, "PolicyError", "balance"),
    "too little noise": ("minimum_noise = 1000.0\n", {}, "PolicyError", "minimum_noise"),
    "too few counted as telling their noise": ("", {"privacy": {**DP, "colluders": 0}}, "PolicyError", "colluders"),
    "two survivors": ("", {"threshold": 2}, "PolicyError", "threshold"),
    "fewer survivors than the policy's": ("minimum_survivors = 4\n", {}, "PolicyError", "survivors"),
    "exact sums": ("", {"privacy": None}, "PolicyError", "exact"),
    "a detector not on the list": ('detectors = ["HBOS"]\n', {}, "PolicyError", "ECOD"),
    "a detector of nobody": ("", {"detector": {"name": "Evil", "parameters": {}}}, "PolicyError", "Evil"),
    "a parameter beyond its limit": ("[limits.ECOD]\nbins = { most = 32 }\n", {}, "PolicyError", "bins"),
    "outside the hours": (f'[hours]\ndays = ["{other_day()}"]\n', {}, "PolicyError", "time"),
    "updates in the clear": ("", {"detector": robust("AutoEncoder")}, "PolicyError", "clear"),
    "votes": ("", {"detector": {"name": "VotingForest", "parameters": {}}, "privacy": None}, "PolicyError", "VotingF"),
    "a shared key": ("", {"sums": "he"}, "PolicyError", "key"),
    "another purpose": ('purposes = ["threshold"]\n', {}, "PolicyError", "fit"),
    "another unit": ("", {"privacy": {**DP, "unit": "party"}}, "PolicyError", "party"),
    "persons without a person column": ("", {"privacy": {**DP, "unit": "person"}}, "SchemaError", "person"),
    "too much at once": ("maximum_epsilon_per_run = 0.4\n", {}, "PolicyError", "epsilon"),
    "more than the budget": ("maximum_epsilon = 0.2\n", {}, "BudgetError", "budget"),
    "shares of more than everything": (
        "",
        {"privacy": {**DP, "shares": {"fit": 1.0, "threshold": 1.0}}},
        "ParameterError",
        "shares",
    ),
    "another asker": ('askers = ["somebody-else"]\n', {}, "PolicyError", "asker"),
    "a policy that cannot be read": ("minimum_noise = ", {}, "PolicyError", "lets nothing through"),
    "another schema": ("", {"schema_digest": "0" * 64}, "SchemaError", "schema"),
    "another federation": ("", {"federation": "somebody-elses"}, "AuthenticationError", "federation"),
    "the wrong records": ("", {"dataset": "evaluation"}, "PolicyError", "records"),
    "a sum that the detector does not ask": ("", {"part": "round/1"}, "WireError", "another sum"),
}


@pytest.mark.parametrize("attack", FORBIDDEN)
def test_what_the_policy_forbids_is_refused_before_a_record_is_read(attack: str, stage: Stage) -> None:
    """The records are not even there."""
    policy, changes, kind, words = FORBIDDEN[attack]
    with stage.policy(policy):
        answer = stage.refused(stage.new(**changes).begin(), kind, words)
    assert "records.csv" not in str(answer)


def test_the_same_step_unchanged_is_what_the_policy_allows(stage: Stage) -> None:
    """So each refusal above is about what was changed; without its records the party cannot begin."""
    answer = stage.ask(stage.new().begin())
    assert (answer["type"], answer["kind"]) == ("refusal", "DataError"), answer
    with stage.records():
        stage.begin(stage.new())
