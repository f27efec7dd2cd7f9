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
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from blindsight.cli import app
from blindsight.detectors import ECOD
from blindsight.federation import open_audit, open_party
from blindsight.federation.kits import ParticipantList
from blindsight.keys import Sealer
from blindsight.privacy import Budget, Ledger
from blindsight.store import Store
from sample_tables import NUMBER_SCHEMA, make_table

from .hostile_coordinator import Desk, Kit, Party, Puppet, Relay, Step, Sum, Total, spec_digest
from .hostile_coordinator.heads import countersigned, position, stated
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
        self._run = self._refusals = 0

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
        answer = decode(self.desk.ask(VICTIM, body))
        self._refusals += answer["type"] == "refusal"
        return answer

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
        if self._refusals >= 50:  # of more than 60 a minute, a process writes down the number alone
            end(self.process)
            self.process, self._refusals = serve(self.home), 0
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

    def begin(self, step: Step, ended: Sequence[str] = ()) -> Run:
        """Begin a sum in earnest: the party's advertisement is in it."""
        answer = self.ask(step.begin(ended=ended))
        assert answer["type"] == "reply", answer
        return Run(self, step, answer["body"])


class Run:
    """A sum that the attacked party has begun, with the puppets' parts in it."""

    def __init__(self, stage: Stage, step: Step, advertisement: bytes) -> None:
        self.stage, self.step = stage, step
        self.release = f"{step.fields['run']}/{step.fields['step']}"
        self.sum = Sum(stage.parties, threshold=3, spec=decode_spec(advertisement))
        self.sum.take(ADVERTISE, VICTIM, advertisement)
        self.relay = Relay()
        self.puppets = [puppet.join(self.sum, self.release, self.relay) for puppet in stage.puppets]

    def send(self, body: bytes, ledgers: object = None) -> bytes:
        """A request in the order of things."""
        answer = self.stage.ask(proceed(self.release, body, ledgers))
        assert answer["type"] == "reply", answer
        self.relay.take(VICTIM, answer.get("ledgers"))
        return bytes(answer["body"])

    def beside(self, phase: int) -> dict[str, dict[str, bytes]]:
        """What an honest coordinator says of ledgers with the request of a phase."""
        return self.relay.beside(phase, VICTIM)

    def honest(self, phase: int) -> bytes:
        """The next request, as an honest coordinator sends it; its answer is taken."""
        request = self.sum.request(phase, VICTIM)
        answer = self.send(request, self.beside(phase))
        self.sum.take(phase, VICTIM, answer)
        return request

    def until(self, phase: int) -> Run:
        """Go on, honestly, up to and without this phase."""
        for now in range(phase):
            if now > ADVERTISE:
                self.honest(now)
            self.act(now)
        return self

    def act(self, phase: int) -> None:
        """The puppets' part in a phase; their vectors are zeros."""
        for puppet in self.puppets:
            if phase == MASK:
                puppet.mask(np.zeros(NUMBERS * BINS, dtype=np.int64))
            else:
                {
                    ADVERTISE: puppet.advertise,
                    SHARE: puppet.share,
                    CONFIRM: puppet.confirm,
                    UNMASK: puppet.unmask,
                }[phase]()

    def refused(self, body: bytes, kind: str, words: str, ledgers: object = None) -> dict[str, Any]:
        return self.stage.refused(proceed(self.release, body, ledgers), kind, words)


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
    code = (
        "import sys, hostile_coordinator; print(sorted(m for m in sys.modules if m.partition('.')[0] == 'blindsight'))"
    )
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
            relays: list[Relay] = []
            for run in ("honest", "again"):
                step = Step(
                    fields={
                        "federation": FEDERATION,
                        "run": run,
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
                    run,
                    f"fit#{step.digest[:32]}",
                    parties,
                    length=NUMBERS * BINS,
                    bits=64,
                    threshold=3,
                    max_abs=(2**63 - 1) // 3,
                )
                this = Sum(parties, threshold=3, spec=spec)
                relay = Relay()
                for phase in range(5):
                    if phase == ADVERTISE:
                        requests = dict.fromkeys(names, step.begin(recall=True))
                    else:
                        requests = {
                            name: proceed(f"{run}/fit", this.request(phase, name), relay.beside(phase, name))
                            for name in names
                        }
                    for name, answer in desk.ask_all(requests).items():
                        message = decode(answer)
                        this.take(phase, name, message["body"])
                        relay.take(name, message.get("ledgers"))
                relays.append(relay)
                total = this.open()
    finally:
        end(*processes)
    import polars as pl

    central = ECOD(schema=NUMBER_SCHEMA).fit(pl.concat([make_table(ROWS + i, 70 + i) for i in range(3)]))
    assert total.survivors == names
    assert np.array_equal(total.values, central.totals_)
    keys = {party.name: party.key for party in parties}
    first, second = relays
    assert first.recalled == {}  # nobody had seen anything
    assert second.recalled == {whose: dict.fromkeys(set(names) - {whose}, first.heads[whose]) for whose in names}
    for relay in relays:
        assert sorted(relay.heads) == sorted(relay.signatures) == sorted(names)
        for whose, statement in relay.heads.items():
            assert bytes.fromhex(stated(statement)["public_key"]) == keys[whose]
            for witness, signature in relay.signatures[whose].items():
                Ed25519PublicKey.from_public_bytes(keys[witness]).verify(signature, countersigned(statement, witness))
            assert sorted(relay.signatures[whose]) == sorted(set(names) - {whose})


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


# -- who takes part ---------------------------------------------------------------------------------------------------


def participants(stage: Stage, change: str) -> list[list[Any]]:
    """The list, tampered with."""
    parties = [[party.name, party.key] for party in stage.parties]
    match change:
        case "keys of two swapped":
            parties[1][1], parties[2][1] = parties[2][1], parties[1][1]
        case "one more of its own":
            parties.append(["eve-e", Puppet("eve-e").party.key])
        case "one left out":
            parties.pop()
        case "another key for a peer":
            parties[1][1] = Puppet("eve-b").party.key
        case "another key for the party itself":
            parties[0][1] = Puppet(VICTIM).party.key
        case "another order":
            parties.reverse()
    return parties


LISTS = (
    "keys of two swapped",
    "one more of its own",
    "one left out",
    "another key for a peer",
    "another key for the party itself",
    "another order",
)


@pytest.mark.parametrize("change", LISTS)
def test_participants_are_the_partys_to_know(change: str, stage: Stage) -> None:
    step = stage.new(participants=participants(stage, change))
    stage.refused(step.begin(), "AuthenticationError", "participants")


def test_lists_that_are_forged_unsigned_or_older_change_nothing(stage: Stage, tmp_path: Path) -> None:
    """Given to the party's operator, or put into its folder under the running process."""
    path = stage.home / "participants.signed.json"
    accepted = path.read_bytes()
    content = json.loads(accepted)["signed"]
    eve = stage.puppets[0].identity
    more = {**content, "serial": 2, "coordinator": {**content["coordinator"], "contact": "Eve"}}
    forged = {
        "signed by a stranger": sign_list(more, eve),
        "by a key of its own": sign_list({**more, "federation_key": stage.puppets[0].party.key.hex()}, eve),
        "unsigned": msgspec.json.encode(more) + b"\n",
        "its signature left as it was": accepted.replace(b'"serial":1', b'"serial":2'),
        "not canonical": accepted.replace(b'{"signature":', b'{ "signature":'),
    }
    for name, data in forged.items():
        there = tmp_path / f"{name}.json"
        there.write_bytes(data)
        done = CliRunner().invoke(app, ["party", "accept", str(there), "--home", str(stage.home)])
        assert done.exit_code != 0, name
        assert "Traceback" not in done.stderr, name
        assert done.stderr.strip(), name
        assert path.read_bytes() == accepted
        path.write_bytes(data)
        try:
            new = [[party.name, party.key] for party in (*stage.parties, Puppet("eve-e").party)]
            stage.refused(stage.new(participants=new).begin(), "AuthenticationError", "participants")
        finally:
            path.write_bytes(accepted)


def test_an_older_list_is_not_taken_back(tmp_path: Path) -> None:
    make_site(tmp_path, (VICTIM, "bank-b", "bank-c", "bank-d"))
    kits, home = tmp_path / "kits", tmp_path / "kits" / VICTIM
    old = (home / "participants.signed.json").read_bytes()
    command("init", "revoke", "bank-c", "--kits", kits)
    command("party", "accept", kits / "authority" / "lists" / "participants-2.json", "--home", home)
    (tmp_path / "old.json").write_bytes(old)
    done = CliRunner().invoke(app, ["party", "accept", str(tmp_path / "old.json"), "--home", str(home)])
    assert done.exit_code != 0
    assert "serial" in done.stderr or "older" in done.stderr
    assert [party.name for party in ParticipantList.read(home).parties] == [VICTIM, "bank-b", "bank-d"]


# -- in the middle of a sum -------------------------------------------------------------------------------------------


def test_a_second_survivor_set_for_the_same_sum(stage: Stage) -> None:
    """Every other party would sign it; totals over both subtract to a party's vector."""
    with stage.records():
        run = stage.begin(stage.new()).until(CONFIRM)
        run.refused(run.sum.confirm([VICTIM, "eve-b"]), "SurvivorsError", "survived")  # two
        run.refused(run.sum.confirm(PUPPETS), "WireError", "survivor set")  # without it
        run.refused(run.sum.confirm([VICTIM, "eve-b", "eve-b2", "eve-c"]), "WireError", "")  # strangers
        run.honest(CONFIRM)
        run.refused(run.sum.confirm([VICTIM, "eve-b", "eve-c"]), "ReleaseError", "another")
        run.refused(run.sum.confirm([VICTIM, "eve-b"]), "ReleaseError", "another")
    assert stage.charges().count(run.release) == 1


def test_both_kinds_of_share_for_one_peer(stage: Stage) -> None:
    """All puppets sign that eve-d survived, and that it did not: with both shares its vector would be open."""
    with stage.records():
        run = stage.begin(stage.new()).until(UNMASK)
        without = [VICTIM, "eve-b", "eve-c"]
        others = {puppet.name: puppet.confirm(without, keep=False) for puppet in run.puppets}
        honest = dict(run.sum.frames[CONFIRM])
        mixed = {**others, VICTIM: honest[VICTIM]}
        del mixed["eve-d"]
        run.refused(run.sum.unmask(mixed), "AuthenticationError", "another survivor set")
        run.refused(run.sum.unmask({k: honest[k] for k in (VICTIM, "eve-b")}), "SurvivorsError", "confirmed")
        twisted = {**honest, "eve-b": honest["eve-c"]}  # one's signature under another's name
        run.refused(run.sum.unmask(twisted), "AuthenticationError", "eve-b")
        request = run.honest(UNMASK)
        keys, seeds = msgspec.msgpack.decode(msgspec.msgpack.decode(run.sum.frames[UNMASK][VICTIM])[3])
        assert (sorted(keys), sorted(seeds)) == ([], [VICTIM, *PUPPETS])
        assert run.send(request) == run.sum.frames[UNMASK][VICTIM]  # the same again, and nothing else
        run.refused(run.sum.unmask(mixed), "ReleaseError", "another")
        run.refused(run.sum.unmask({k: honest[k] for k in (VICTIM, "eve-b", "eve-c")}), "ReleaseError", "another")
        run.refused(run.sum.confirm(without), "ReleaseError", "another")
    assert stage.charges().count(run.release) == 1


def test_the_same_requests_again_in_any_order(stage: Stage) -> None:
    """Duplicated, late and out of order: the same bytes, and nothing is charged anew."""
    with stage.records():
        run = stage.begin(stage.new()).until(SHARE)
        bodies = [run.step.begin()]
        for phase in range(SHARE, UNMASK + 1):
            beside = run.beside(phase)
            bodies.append(proceed(run.release, run.honest(phase), beside))
            run.act(phase)
        charges = stage.charges()
        for phase in (4, 2, 2, 0, 3, 1, 4, 0):
            assert stage.ask(bodies[phase])["body"] == run.sum.frames[phase][VICTIM], phase
    assert stage.charges() == charges
    assert charges.count(run.release) == 1
    assert run.sum.open().survivors == (VICTIM, *PUPPETS)


def test_a_sum_that_is_over(stage: Stage) -> None:
    """Everything above once more, after the run has gone on or ended, to the process that took part and to the next."""
    with stage.records():
        run, other = (stage.begin(stage.new()).until(UNMASK) for _ in range(2))
        without = [VICTIM, "eve-b", "eve-c"]
        mixed = {puppet.name: puppet.confirm(without, keep=False) for puppet in run.puppets[:2]}
        requests = [run.sum.request(phase, VICTIM) for phase in range(SHARE, UNMASK)]
        last = run.honest(UNMASK)
        assert run.send(last) == run.sum.frames[UNMASK][VICTIM], "other runs have begun since: this one may go on"
        stage.begin(run.step.but(step="again"))  # the next step of its run
        stage.begin(stage.new(), ended=[other.step.fields["run"], "never-begun"])
    signed = {**run.sum.frames[CONFIRM], **mixed}
    again = [*requests, last, run.sum.confirm(without), run.sum.unmask({name: signed[name] for name in without})]
    for restarted in (False, True):
        if restarted:
            end(stage.process)
            stage.process, stage._refusals = serve(stage.home), 0
        for body in again:
            run.refused(body, "ReleaseError", "is over at this party")
        stage.refused(run.step.begin(), "ReleaseError", "is over at this party")
        stage.refused(run.step.but(privacy=None).begin(), "ReleaseError", "is over at this party")
        other.refused(other.sum.request(UNMASK, VICTIM), "ReleaseError", "is over at this party")
    assert [stage.charges().count(one.release) for one in (run, other)] == [1, 1]
    with Store(stage.home / "ledger.db", Sealer.from_key_file(stage.home / "keys" / "home.key")) as store:
        assert not {run.release, other.release} & set(store.table("clients").keys())


def test_advertisements_and_shares_of_others_and_of_other_runs(stage: Stage) -> None:
    """The records are away: none of this gets as far as them."""
    with stage.records():
        old = stage.begin(stage.new()).until(SHARE)
        run = stage.begin(stage.new()).until(SHARE)
    frames = dict(run.sum.frames[ADVERTISE])

    def share(**changed: bytes) -> bytes:
        return run.sum._request(SHARE, {**frames, **changed})

    stale = old.sum.frames[ADVERTISE]
    refusals = [
        (share(**{"eve-b": stale["eve-b"]}), "WireError", "another sum"),  # of another run
        (share(**{VICTIM: stale[VICTIM]}), "AuthenticationError", VICTIM),  # its own, of another run
        (share(**{"eve-b": frames["eve-c"]}), "AuthenticationError", "eve-b"),  # under another's name
        (share(**{"eve-b": stage.puppets[1].frame(ADVERTISE, run.sum.spec, bytes(96))}), "", "eve-b"),
        (run.sum._request(SHARE, {k: frames[k] for k in (VICTIM, "eve-b")}), "SurvivorsError", "advertised"),
        (old.sum.request(SHARE, VICTIM), "WireError", ""),  # another run's whole request
        (run.sum._request(SHARE, {**frames, "eve-e": frames["eve-b"]}), "", "eve-e"),
        (run.sum._request(UNMASK, frames), "", ""),
        (run.sum._request(MASK, {}), "ProtocolError", "out of turn"),
        (encode(["blindsight/securesum/2", SHARE, run.sum.spec, frames]), "WireError", ""),
        (encode(["blindsight/securesum/1", 7, run.sum.spec, frames]), "WireError", ""),
        (frames["eve-b"], "WireError", ""),  # a message where a request belongs
    ]
    for body, kind, words in refusals:
        answer = stage.ask(proceed(run.release, body))
        assert answer["type"] == "refusal", answer
        stage.refused(proceed(run.release, body), kind or answer["kind"], words)
        assert answer["kind"] in ("WireError", "AuthenticationError", "SurvivorsError", "ProtocolError"), answer
    run.honest(SHARE)
    for puppet in run.puppets:
        puppet.share()
    items = {n: decode_items(run.sum.frames[SHARE][n])[VICTIM] for n in PUPPETS}
    swapped = {**items, "eve-b": items["eve-c"]}
    elsewhere = {**items, "eve-b": decode_items(run.sum.frames[SHARE]["eve-b"])["eve-c"]}
    for inbox in (swapped, elsewhere, {**items, "eve-b": items["eve-b"][:-1]}):
        kind = "AuthenticationError" if len(inbox["eve-b"]) == 158 else "WireError"
        run.refused(run.sum._request(MASK, inbox), kind, "eve-b", run.beside(MASK))
    run.refused(run.sum._request(MASK, {"eve-b": items["eve-b"]}), "SurvivorsError", "shared", run.beside(MASK))
    assert run.release not in stage.charges()


def decode_items(frame: bytes) -> dict[str, bytes]:
    items: dict[str, bytes] = msgspec.msgpack.decode(msgspec.msgpack.decode(frame)[3])[2]
    return items


def test_a_run_id_is_used_once(stage: Stage) -> None:
    with stage.records():
        run = stage.begin(stage.new())
    changed = run.step.but(privacy={**DP, "epsilon": 0.25})
    stage.refused(changed.begin(), "ReleaseError", "already bound")
    stage.refused(run.step.but(detector={"name": "ECOD", "parameters": {"bins": 32}}).begin(), "ReleaseError", "bound")
    stage.refused(run.step.but(step="again", privacy={**DP, "epsilon": 0.25}).begin(), "ReleaseError", "bound")
    stage.refused(proceed("never/begun", run.sum.request(SHARE, VICTIM)), "ReleaseError", "never begun")
    assert run.release not in stage.charges()


def test_a_budget_that_is_spent(stage: Stage) -> None:
    """What was begun goes on; another sum is refused at its first message."""
    with stage.records():
        run = stage.begin(stage.new()).until(MASK)
        request = run.honest(MASK)
    spent = open_party(stage.home).ledgers["record"].spent()
    with stage.policy(f"maximum_epsilon = {spent + 1e-3}\n"):
        stage.refused(stage.new().begin(), "BudgetError", "budget")
        assert run.send(request, run.beside(MASK)) == run.sum.frames[MASK][VICTIM]
    assert stage.charges().count(run.release) == 1


def test_an_approval_is_for_one_run_and_one_sum(stage: Stage) -> None:
    """A person approves once; the coordinator asks for more under it."""
    with stage.records(), stage.policy('[approval]\ndefault = "by-hand"\n'):
        step = stage.new()
        assert stage.ask(step.begin())["kind"] == "PendingError"
        changed = step.but(privacy={**DP, "epsilon": 0.75})
        for other in (
            changed,
            step.but(detector={"name": "ECOD", "parameters": {"bins": 8}}),
            step.but(threshold=4),
            step.but(step="other"),
        ):
            stage.refused(other.begin(), "ReleaseError", step.fields["run"])
        command("jobs", "approve", step.fields["run"], "--home", stage.home)
        stage.refused(changed.begin(), "ReleaseError", step.fields["run"])  # another content under what was approved
        run = stage.begin(step).until(UNMASK)
        run.honest(UNMASK)
        stage.refused(step.but(step="again").begin(), "ReleaseError", "")  # the same sum under another name
        stage.refused(changed.but(step="again").begin(), "ReleaseError", "")
        later = stage.new()
        assert stage.ask(later.begin())["kind"] == "PendingError"  # another run is another job
        command("jobs", "refuse", later.fields["run"], "--home", stage.home, "--note", "no more")
        stage.refused(later.begin(), "PolicyError", "no more")
    assert [name for name in stage.charges() if name.startswith((step.fields["run"] + "/", later.fields["run"]))] == [
        run.release
    ]


# -- heads of ledgers -------------------------------------------------------------------------------------------------


def show(run: Run, kind: str, words: str, **heads: bytes | None) -> dict[str, Any]:
    """The request for the vector as it should be, but for some of the statements beside it."""
    shown = {name: data for name, data in {**run.relay.heads, **heads}.items() if data is not None}
    return run.refused(run.sum.request(MASK, VICTIM), kind, words, {"heads": shown})


def test_heads_that_are_withheld_replayed_or_forged(stage: Stage) -> None:
    """Nothing is charged and nothing countersigned, nor is anybody said to have an old ledger."""
    with stage.records():
        old = stage.begin(stage.new()).until(MASK)
        run = stage.begin(stage.new()).until(MASK)
        mask = run.sum.request(MASK, VICTIM)
        for nothing in (None, {"heads": {}}, {"signatures": {}}, {"recalled": run.relay.heads}):
            run.refused(mask, "WireError", "no heads", nothing)
        eve, other = run.puppets[0], run.puppets[1]
        genuine = run.relay.heads["eve-b"]
        more = {**eve.puppet.ledgers, "record": position(7, "7" * 64)}
        refusals = [
            show(run, "WireError", "another sum", **{"eve-b": old.relay.heads["eve-b"]}),  # another sum's
            show(run, "WireError", "another sum", **{"eve-b": eve.state(release=old.release)}),
            show(run, "WireError", "another sum", **{"eve-b": eve.state(request="0" * 64)}),
            show(run, "AuthenticationError", "its key", **{"eve-b": run.relay.heads["eve-c"]}),  # under another's name
            show(run, "AuthenticationError", "its key", **{"eve-b": other.state(party="eve-b")}),  # by another's key
            show(run, "AuthenticationError", "its key", **{"eve-b": eve.state(party="eve-c")}),
            show(run, "AuthenticationError", "its key", **{"eve-e": eve.state(party="eve-e")}),  # by nobody in the sum
            show(  # by one key, naming another
                run,
                "AuthenticationError",
                "does not hold",
                **{"eve-b": eve.state(public_key=other.puppet.party.key.hex())},
            ),
            show(  # its count changed after it was signed
                run, "AuthenticationError", "does not hold", **{"eve-b": genuine.replace(b'"count":0', b'"count":9', 1)}
            ),
            show(run, "WireError", "canonical", **{"eve-b": genuine.replace(b":", b": ", 1)}),
            show(run, "WireError", "malformed", **{"eve-b": b""}),
            show(
                run, "WireError", "malformed", **{"eve-b": eve.state(ledgers={"record": position()})}
            ),  # two units less
            show(run, "WireError", "malformed", **{"eve-b": eve.state(ledgers={**more, "person": position(-1)})}),
            show(run, "WireError", "malformed", **{"eve-b": eve.state(ledgers={**more, "person": position(1.5)})}),
            show(run, "WireError", "malformed", **{"eve-b": eve.state(ledgers={**more, "person": position(2**53)})}),
            show(run, "WireError", "malformed", **{"eve-b": eve.state(ledgers={**more, "person": position(1, "z")})}),
        ]
        assert not any("old copy" in str(answer) for answer in refusals)
        run.honest(MASK)  # what was refused has left no trace: the sum goes on
        run.act(MASK)
        wrong = {**run.beside(CONFIRM)["signatures"], "eve-b": bytes(64)}
        confirm = run.sum.request(CONFIRM, VICTIM)
        run.refused(confirm, "AuthenticationError", "signature", {"signatures": wrong})
        wrong = {"eve-e": run.beside(CONFIRM)["signatures"]["eve-b"]}
        run.refused(confirm, "AuthenticationError", "nobody in this sum", {"signatures": wrong})
        run.honest(CONFIRM)
    assert stage.charges().count(run.release) == 1
    assert stage.charges().count(old.release) == 0


def test_an_old_copy_of_a_puppets_ledger(stage: Stage) -> None:
    """What was seen of it in one sum is held against it in the next, before anything is charged."""
    puppet = stage.puppets[0]
    puppet.ledgers["record"] = position(6, "6" * 64)
    with stage.records():
        stage.begin(stage.new()).until(MASK).honest(MASK)
        run = stage.begin(stage.new()).until(MASK)
        eve = run.puppets[0]
        olds = {
            "record: 5 lines, 6 seen before": position(5, "5" * 64),
            "record: 0 lines, 6 seen before": position(),
            "record: other lines than the 6 seen before": position(6, "7" * 64),
        }
        for words, old in olds.items():
            statement = eve.state(ledgers={**puppet.ledgers, "record": old})
            answer = show(run, "ReleaseError", f"eve-b, per {words}", **{"eve-b": statement})
            assert answer["what"] == "The ledger of another party is an old copy"
        puppet.ledgers["record"] = position(3, "3" * 64, written_off=1)  # a loss that was written off is no old copy
        run.relay.heads["eve-b"] = eve.state()
        run.honest(MASK)
        again = stage.begin(stage.new()).until(MASK)
        taken_back = again.puppets[0].state(ledgers={**puppet.ledgers, "record": position(9, "9" * 64)})
        show(again, "ReleaseError", "0 losses written off, 1 seen before", **{"eve-b": taken_back})
    assert stage.charges().count(run.release) == 1
    assert stage.charges().count(again.release) == 0


def test_one_ledger_shows_one_head_in_a_sum(stage: Stage) -> None:
    """Otherwise the party would countersign two stories of one ledger; not after the sum has ended, either."""
    with stage.records():
        run = stage.begin(stage.new()).until(MASK)
        mask, honest = run.sum.request(MASK, VICTIM), run.beside(MASK)
        run.honest(MASK)
        count = run.puppets[0].puppet.ledgers["record"]["count"]
        signed = run.relay.signatures["eve-b"][VICTIM]
        two = [
            run.puppets[0].state(ledgers={**run.puppets[0].puppet.ledgers, "record": position(n, "a" * 64, 1)})
            for n in (count, count + 1)
        ]
        for statement in two:
            show(run, "ReleaseError", "another head", **{"eve-b": statement})
        for phase in (CONFIRM, UNMASK):
            run.act(phase - 1)
            run.honest(phase)
        for statement in two:
            show(run, "ReleaseError", "another head", **{"eve-b": statement})
        assert run.send(mask, honest) == run.sum.frames[MASK][VICTIM]
        confirm, beside = run.sum.request(CONFIRM, VICTIM), run.beside(CONFIRM)
        later = stage.begin(stage.new()).until(UNMASK)
        run.send(confirm, beside)  # the same again is answered, but replaces nothing newer
    newest = open_party(stage.home).heads.countersigned()
    assert newest is not None
    assert newest[0].release == later.release
    assert run.relay.signatures["eve-b"][VICTIM] == signed
    assert stage.charges().count(run.release) == 1


def test_a_survivor_whose_ledger_was_not_shown(stage: Stage) -> None:
    """It is in no set that the party signs, whoever else signs it; the others' total still opens."""
    with stage.records():
        run = stage.begin(stage.new()).until(MASK)
        hidden = run.relay.heads.pop("eve-d")
        run.honest(MASK)
        run.act(MASK)
        for survivors in ([VICTIM, *PUPPETS], [VICTIM, "eve-b", "eve-d"]):
            run.refused(run.sum.confirm(survivors), "ReleaseError", "eve-d", run.beside(CONFIRM))
        with_late = {"heads": {**run.relay.heads, "eve-d": run.puppets[2].state(request="0" * 64)}}
        run.refused(run.sum.request(MASK, VICTIM), "WireError", "another sum", with_late)
        del run.sum.frames[MASK]["eve-d"]
        run.honest(CONFIRM)
        show(run, "ReleaseError", "after", **{"eve-d": hidden})
        for puppet in run.puppets[:2]:
            puppet.confirm()
        run.honest(UNMASK)
        for puppet in run.puppets[:2]:
            puppet.unmask()
    assert run.sum.open().survivors == (VICTIM, "eve-b", "eve-c")
    signed = [line.detail["survivors"] for line in open_audit(stage.home).lines() if line.kind == "signed"]
    assert signed[-1] == [VICTIM, "eve-b", "eve-c"]


def test_ledgers_that_are_no_ledgers(stage: Stage) -> None:
    """Refused by the parser; recollections that are no statements by the party's own key are passed over."""
    with stage.records():
        run = stage.begin(stage.new()).until(SHARE)
        good, eve = run.puppets[0].state(), run.puppets[0]
        crowd = {f"eve-{i}": good for i in range(1025)}
        deep = msgspec.Raw(b"\x91" * 5000 + b"\xc0")
        malformed: list[object] = [
            {"heads": crowd},
            {"recalled": crowd},
            {"signatures": dict.fromkeys(crowd, bytes(64))},
            {"heads": {"eve-b": bytes(5 * 1024)}},
            {"recalled": {"eve-b": bytes(5 * 1024)}},
            {"signatures": {"eve-b": bytes(63)}},
            {"signatures": {"eve-b": bytes(65)}},
            {"heads": {"eve-b": good.decode()}},
            {"heads": {"eve-b": None}},
            {"heads": {"eve-b": {"count": 1}}},
            {"heads": {"": good}},
            {"heads": {"e" * 65: good}},
            {"heads": {7: good}},
            {"heads": [good]},
            {"heads": None},
            {"heads": deep},
            {"tails": {"eve-b": good}},
            [{}, {}, {}],
            b"ledgers",
        ]
        share = run.sum.request(SHARE, VICTIM)
        for ledgers in malformed:
            run.refused(share, "WireError", "malformed", ledgers)
        run.refused(share, "WireError", "before this party's own", {"heads": {"eve-b": good}})  # too early
        own = eve.state(party=VICTIM)
        made_up = {"eve-b": own, "eve-c": good, "eve-d": b"", "eve-e": bytes(4096), "nobody": b"\x80\x04"}
        run.sum.take(SHARE, VICTIM, run.send(share, {"recalled": made_up}))
        run.act(SHARE)
        run.honest(MASK)
    assert stage.charges().count(run.release) == 1


# -- what is no message -----------------------------------------------------------------------------------------------

MALFORMED: dict[str, dict[str, Any]] = {
    "epsilon is not a number": {"privacy": {**DP, "epsilon": float("nan")}},
    "epsilon without end": {"privacy": {**DP, "epsilon": float("inf")}},
    "epsilon below zero": {"privacy": {**DP, "epsilon": -1.0}},
    "epsilon as text": {"privacy": {**DP, "epsilon": "1"}},
    "delta of nothing": {"privacy": {**DP, "delta": 0.0}},
    "delta is not a number": {"privacy": {**DP, "delta": float("nan")}},
    "colluders below zero": {"privacy": {**DP, "colluders": -1}},
    "a share that is not a number": {"privacy": {**DP, "shares": {"fit": float("nan")}}},
    "a share below zero": {"privacy": {**DP, "shares": {"fit": -0.5}}},
    "more colluders than parties": {"privacy": {**DP, "colluders": 200}},
    "a unit of nobody": {"privacy": {**DP, "unit": "planet"}},
    "privacy with a field too many": {"privacy": {**DP, "noise": 0.0}},
    "a threshold below zero": {"threshold": -3},
    "a threshold of true": {"threshold": True},
    "a threshold and a half": {"threshold": 3.5},
    "a threshold above all": {"threshold": 5},
    "a field too many": {"vector": b"\0" * 8},
    "a name too long": {"federation": "x" * 65},
    "a run that is a path": {"run": "../../etc/passwd\0"},
    "a part too long": {"part": "x" * 10_000},
    "a detector that is a list": {"detector": ["ECOD"]},
    "a parameter that is not a number": {"detector": {"name": "ECOD", "parameters": {"bins": float("nan")}}},
    "a parameter below zero": {"detector": {"name": "ECOD", "parameters": {"bins": -5}}},
    "a parameter beyond memory": {"detector": {"name": "ECOD", "parameters": {"bins": 2**62}}},
    "a parameter of nobody": {"detector": {"name": "ECOD", "parameters": {"path": "/etc/passwd"}}},
    "a model that is none": {"model": b"\x80\x04evil"},
    "a model too long": {"model": bytes((1 << 25) + 1)},
    "participants without end": {"participants": [["x", bytes(32)]] * 300},
    "a key too short": {"participants": [["x", bytes(31)]] * 3},
    "a digest of nothing": {"schema_digest": "zz"},
}


def bodies(step: Step) -> dict[str, bytes]:
    deep: Any = {}
    for _ in range(3000):
        deep = [deep]
    whole = step.begin()
    return {
        "nothing": b"",
        "zeros": bytes(1000),
        "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
        "no map": encode([1, 2, 3]),
        "another type": encode({"type": "run_code", "code": "1"}),
        "no type": encode({"step": step.fields}),
        "bytes after it": whole + b"\0",
        "half of it": whole[: len(whole) // 2],
        "nested without end": encode({"type": "begin", "step": {**step.fields, "detector": {"name": "ECOD"}}})
        + b"\x91" * 5000,
        "an array that lies about its length": b"\xdd\xff\xff\xff\xff",
        "a release id too long": proceed("x" * 10_000, b""),
        "a body that is text": encode({"type": "continue", "release_id": "run/fit", "body": 7}),
    }


def test_what_is_no_message_is_refused_and_ends_nobody(tmp_path: Path) -> None:
    """Every one by the parser or a rule, none by an exception; a letter that lies about its length is not read."""
    stage = Stage(tmp_path)
    try:
        messages = {name: stage.new(**changes).begin() for name, changes in MALFORMED.items()} | bodies(stage.new())
        for name, body in messages.items():
            answer = stage.ask(body)
            assert answer["type"] == "refusal", (name, answer)
            assert answer["kind"] in (
                "WireError",
                "ParameterError",
                "PolicyError",
                "FormatError",
                "AuthenticationError",
            ), (
                name,
                answer,
            )
            assert answer["rule"] or answer["fix"], (name, answer)
        lines = [line for line in open_audit(stage.home).lines() if line.kind == "refused"]
        assert len(lines) == len(messages) <= 60
        assert "Traceback" not in stage.logged()
        stage.desk.lie_about_length = 1 << 40
        with pytest.raises(TimeoutError):
            stage.desk.ask(VICTIM, hello(), timeout_s=3)
        stage.desk.lie_about_length = None
        assert "longer" in stage.told() or "too long" in stage.told(), stage.told()
        assert stage.ask(hello())["type"] == "greeting"
        assert stage.charges() == []
        assert stage.process.poll() is None
    finally:
        stage.close()


# -- somebody else in the coordinator's place -------------------------------------------------------------------------


def test_another_certificate_of_the_same_authority_is_no_coordinator(stage: Stage) -> None:
    """A puppet's own, which the federation's authority signed: nothing is sent to it."""
    stage.desk.close()
    folder = stage.folder / "kits" / "eve-b"
    key = stage.folder / "eve-b.key"
    key.write_bytes(stage.puppets[0].tls_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "tls.crt", key)
    context.load_verify_locations(folder / "authority.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    with Desk(stage.desk.kit, stage.port, context=context) as impostor:
        until = time.monotonic() + 20
        while not impostor.strangers and time.monotonic() < until:
            time.sleep(0.05)
        assert impostor.strangers
        assert impostor.polls == []
    stage.desk = Desk(stage.desk.kit, stage.port)
    stage.desk.wait_for(VICTIM)
    assert stage.ask(hello())["type"] == "greeting"
