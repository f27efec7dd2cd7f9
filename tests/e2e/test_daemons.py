"""A federation as people run it: kits, a process for every role, real TLS, and SIGKILL."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

import blindsight as bs
from blindsight import modelfile
from blindsight.cli import app
from blindsight.detectors import Detector
from blindsight.federation import Federation, Policy, open_party
from blindsight.federation.kits import ParticipantList
from blindsight.report import read_run
from blindsight.testing import NO_MOSQUITTO, Mosquitto
from sample_tables import NUMBER_SCHEMA, make_table

PLAIN = ["-m", "blindsight"]
NEEDS_MOSQUITTO = pytest.mark.skipif(NO_MOSQUITTO is not None, reason=str(NO_MOSQUITTO))
DIES_WHEN_CHARGED = """
import os, signal
from blindsight.cli import main
from blindsight.federation._audit import AuditLog
write = AuditLog.write
def dying(self, kind, **detail):
    write(self, kind, **detail)
    if kind == "released":
        os.kill(os.getpid(), signal.SIGKILL)
AuditLog.write = dying
main()
"""
DIES_AFTER_THE_VECTORS = """
import os, signal
from blindsight.cli import main
from blindsight.federation._journal import SumJournal
keep, kept = SumJournal.keep, []
def dying(self, state, ledgers):
    keep(self, state, ledgers)
    kept.append(state)
    if len(kept) == 3:  # advertise, share, mask
        os.kill(os.getpid(), signal.SIGKILL)
SumJournal.keep = dying
main()
"""
STOPS_AFTER_THE_VECTORS = """
import pathlib, sys, time
from blindsight.cli import main
from blindsight.federation._journal import SumJournal
keep, kept, stopped = SumJournal.keep, [], pathlib.Path(sys.argv[3]) / "stopped"
def slow(self, state, ledgers):
    keep(self, state, ledgers)
    kept.append(state)
    if len(kept) == 3:  # advertise, share, mask
        stopped.touch()
        while stopped.exists():
            time.sleep(0.02)
SumJournal.keep = slow
main()
"""
TIMEOUT_S = 120


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout


class Site:
    """Kits of parties that let exact sums through, at one free port of this machine."""

    def __init__(self, folder: Path, scheme: str, names: tuple[str, ...]) -> None:
        self.folder, self.names = folder, names
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"{scheme}://127.0.0.1:{free.getsockname()[1]}"
        NUMBER_SCHEMA.write(folder / "schema.toml")
        (folder / "federation.toml").write_text(
            f'name = "card-fraud"\nschema = "schema.toml"\n[coordinator]\naddresses = ["{self.url}"]\n'
            + "".join(f'[[parties]]\nname = "{name}"\n' for name in names)
        )
        run("init", folder / "federation.toml", "--output", folder / "kits")
        asker = ParticipantList.read(folder / "kits" / "coordinator").coordinator.certificate
        self.data = {name: make_table(60 + i, 70 + i) for i, name in enumerate(names)}
        for name in names:
            home = self.kit(name)
            run("party", "join", home, "--home", home)
            self.data[name].write_csv(home / "records.csv")
            (home / "policy.toml").write_text(f'allow_exact_sums = true\naskers = ["sha256:{asker}"]\n')

    def kit(self, name: str) -> Path:
        return self.folder / "kits" / name

    def party(self, name: str, how: list[str] = PLAIN, *more: str) -> subprocess.Popen[str]:
        return self._start(name, how, "party", "serve", self.kit(name), *more)

    def coordinator(self, how: list[str] = PLAIN, *more: str) -> subprocess.Popen[str]:
        command = ("coordinator", "fit", self.kit("coordinator"), "--exact", "--contamination", "0.05", *more)
        return self._start("coordinator", how, *command, "--output", self.folder / "fraud.blindsight")

    def _start(self, name: str, how: list[str], *arguments: object) -> subprocess.Popen[str]:
        with (self.folder / f"{name}.err").open("a") as errors:
            return subprocess.Popen(
                [sys.executable, *how, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=errors, text=True
            )

    def told(self, name: str) -> str:
        return (self.folder / f"{name}.err").read_text()

    @contextlib.contextmanager
    def serving(self, **other: list[str]) -> Iterator[dict[str, subprocess.Popen[str]]]:
        """Every party's process; ended by SIGTERM, cleanly."""
        running: dict[str, subprocess.Popen[str]] = {}
        try:
            for name in self.names:
                running[name] = self.party(name, other.get(name, PLAIN))
            yield running
        finally:
            for process in running.values():
                process.terminate()
            statuses = {name: process.wait(30) for name, process in running.items()}
        assert statuses == dict.fromkeys(self.names, 0)

    def check_model(self, detector: Detector | None = None, *, more: Sequence[str] = ()) -> None:
        """It is the embedded one bit for bit; every party was charged once for each of its sums."""
        model = bs.load(self.folder / "fraud.blindsight")
        policy = Policy(allow_exact_sums=True)
        inside = Federation.embedded(self.data, schema=NUMBER_SCHEMA, policy=policy).fit(
            detector or bs.ECOD(contamination=0.05), privacy=None
        )
        steps = list(inside.provenance_["survivors"])
        assert model.provenance_["survivors"] == {step: list(self.names) for step in steps}
        charged = [*(f"{model.provenance_['run']}/{step}" for step in steps), *more]
        model.provenance_ = inside.provenance_ = model.certificate_ = inside.certificate_ = None
        assert modelfile.dumps(model) == modelfile.dumps(inside)
        for name in self.names:
            ledger = open_party(self.kit(name)).ledgers["record"]
            ledger.verify()
            assert [entry.release_id for entry in ledger.entries()][-len(charged) :] == charged
            assert len(ledger.entries()) == len(self.rounds())

    def rounds(self) -> list[dict[str, object]]:
        lines = (self.kit("coordinator") / "rounds.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["what"] == "round"]


def test_https_with_a_coordinator_and_a_party_killed_in_the_middle(tmp_path: Path) -> None:
    site = Site(tmp_path, "https", ("bank-a", "bank-b", "bank-c", "bank-d"))
    with site.serving(**{"bank-d": ["-c", DIES_WHEN_CHARGED]}) as running:
        coordinator = site.coordinator(["-c", DIES_AFTER_THE_VECTORS])
        assert running["bank-d"].wait(TIMEOUT_S) == -signal.SIGKILL  # charged; its vector has not left
        running["bank-d"] = site.party("bank-d")
        assert coordinator.wait(TIMEOUT_S) == -signal.SIGKILL  # every vector is in; no total is open
        assert site.rounds() == []
        coordinator = site.coordinator()
        assert coordinator.wait(TIMEOUT_S) == 0, site.told("coordinator")
    assert "was interrupted: it goes on" in site.told("coordinator")
    site.check_model()
    assert [(line["step"], line["survivors"]) for line in site.rounds()] == [
        ("fit", list(site.names)),
        ("threshold", list(site.names)),
    ]
    assert "has reached its coordinator" in site.told("bank-a")
    assert 'released {"release"' in site.told("bank-a")
    assert "intact" in run("party", "audit", "verify", "--home", site.kit("bank-d"))
    report = tmp_path / "report.html"
    run("report", site.kit("coordinator"), "--output", report)
    assert "dialled the coordinator over mutual TLS" in report.read_text()


@pytest.mark.parametrize("scheme", ["https", "grpcs", pytest.param("mqtts", marks=NEEDS_MOSQUITTO)])
def test_two_detectors_one_after_the_other(scheme: str, tmp_path: Path) -> None:
    site = Site(tmp_path, scheme, ("bank-a", "bank-b", "bank-c", "bank-d"))
    training = bs.Training(rounds=2, learning_rate=0.2, clip_norm=10.0)
    port = int(site.url.rpartition(":")[2])
    broker = Mosquitto.of_kit(tmp_path / "kits" / "broker", port) if scheme == "mqtts" else contextlib.nullcontext()
    with broker, site.serving():
        assert site.coordinator().wait(TIMEOUT_S) == 0, site.told("coordinator")
        site.check_model()
        (tmp_path / "fraud.blindsight").unlink()  # a new fit replaces no model
        assert len(site.rounds()) == 2
        more = ("--detector", "autoencoder", "--set", "training.rounds=2")
        assert site.coordinator(PLAIN, *more).wait(TIMEOUT_S) == 0, site.told("coordinator")
        site.check_model(bs.AutoEncoder(contamination=0.05, training=training))


@NEEDS_MOSQUITTO
def test_mqtt_through_a_broker_that_is_killed_in_the_middle(tmp_path: Path) -> None:
    site = Site(tmp_path, "mqtts", ("bank-a", "bank-b", "bank-c"))
    port = int(site.url.rpartition(":")[2])
    fit = ("coordinator", "fit", site.kit("coordinator"), "--exact", "--output", tmp_path / "m.blindsight")
    done = CliRunner().invoke(app, [str(argument) for argument in (*fit, "--listen", "127.0.0.1:1")])
    assert (done.exit_code, "listens nowhere" in done.stderr) == (2, True)
    done = CliRunner().invoke(app, [str(argument) for argument in fit])
    assert (done.exit_code, "broker cannot be reached" in done.stderr) == (75, True)
    with Mosquitto.of_kit(tmp_path / "kits" / "broker", port) as broker, site.serving():
        for home in (site.kit("coordinator"), site.kit("bank-a")):
            assert "accepts our certificate" in run("preflight", "--home", home)
        coordinator = site.coordinator(["-c", STOPS_AFTER_THE_VECTORS])
        deadline = time.monotonic() + TIMEOUT_S
        while not (site.kit("coordinator") / "stopped").exists():
            assert coordinator.poll() is None, site.told("coordinator")
            assert time.monotonic() < deadline, site.told("coordinator")
            time.sleep(0.05)
        broker.kill()
        broker.start()
        (site.kit("coordinator") / "stopped").unlink()
        assert coordinator.wait(TIMEOUT_S) == 0, site.told("coordinator")
    site.check_model()
    assert len(site.rounds()) == 2
    assert "has reached its coordinator again" in site.told("bank-a")


def test_grpc_and_the_model_comes_back(tmp_path: Path) -> None:
    site = Site(tmp_path, "grpcs", ("bank-a", "bank-b", "bank-c"))
    model = tmp_path / "fraud.blindsight"
    deliver = ("coordinator", "deliver", site.kit("coordinator"), "--model", model, "--json")
    with site.serving():
        fitted = site.coordinator(PLAIN, "--deliver", "bank-a,bank-b")
        assert fitted.wait(TIMEOUT_S) == 0, site.told("coordinator")
        told = json.loads(run(*deliver, "--to", "all"))
        measured = json.loads(
            run("coordinator", "evaluate", site.kit("coordinator"), "--model", model, "--exact", "--json")
        )
        described = json.loads(run("coordinator", "describe", site.kit("coordinator"), "--exact", "--json"))
    assert told["delivered"] == dict.fromkeys(site.names, "kept as version 1")
    more = [f"{measured['run']}/evaluation", *(f"{described['run']}/describe/{x}" for x in ("histogram", "moments"))]
    site.check_model(more=more)
    assert len(site.rounds()) == 5
    everybody = pl.concat(site.data.values())
    age = next(column for column in described["columns"] if column["name"] == "age")
    assert age["count"] == everybody.height
    assert abs(age["mean"] - everybody["age"].mean()) < 0.2
    assert measured["anomalous"] == everybody["fraud"].sum()
    expected = roc_auc_score(everybody["fraud"], bs.load(model).decision_function(everybody))
    assert abs(measured["auroc"]["value"] - expected) < 0.02  # from a histogram of scores
    assert json.loads((site.kit("coordinator") / "evaluation.json").read_text()) == measured
    assert "60" in run("ledger", "figures", "--home", site.kit("bank-a"))
    for name in site.names:
        listed = json.loads(run("party", "models", "list", "--home", site.kit(name), "--json"))
        assert (listed["current"], len(listed["models"])) == (1, 1)
        assert Path(listed["models"][0]["file"]).read_bytes() == model.read_bytes()
    home = site.kit("bank-a")
    assert "is in use" in run("party", "models", "use", "1", "--home", home)
    assert "in_use=1" in run("party", "audit", "show", "--home", home)
    done = CliRunner().invoke(app, ["party", "models", "rollback", "--home", str(home)])
    assert (done.exit_code, "no older version" in done.stderr) == (2, True)


def test_exit_codes_before_anything_runs(tmp_path: Path) -> None:
    site = Site(tmp_path, "https", ("bank-a", "bank-b", "bank-c"))
    kit = site.kit("coordinator")

    def fails(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return done.exit_code, done.stderr

    fit = ("coordinator", "fit", kit, "--exact", "--output", tmp_path / "m.blindsight")
    before = signal.getsignal(signal.SIGTERM)
    code, told = fails(*fit, "--wait-s", "0.2")
    assert code == 75
    assert "no answer from bank-a, bank-b, bank-c" in told
    assert signal.getsignal(signal.SIGTERM) is before
    for more, words in (
        (("--quorum", "4"), "from 3 to 3"),
        (("--listen", "8443"), "HOST:PORT"),
        (("--url", "https://elsewhere:1"), site.url),
    ):
        code, told = fails(*fit, *more)
        assert (code, words in told) == (2, True), told
    code, told = fails("party", "serve", kit)
    assert (code, "no party's folder" in told) == (2, True)
    (kit / "tls.crt").write_bytes((site.kit("bank-a") / "tls.crt").read_bytes())
    code, told = fails(*fit)
    assert (code, "names another certificate for the coordinator" in told) == (2, True)
    with pytest.raises(FileNotFoundError):
        (tmp_path / "m.blindsight").stat()


def scraped(port: int) -> dict[str, float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30).text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    assert all(name.startswith("blindsight_party_") for name, _ in lines)
    return {name.removeprefix("blindsight_party_"): float(value) for name, value in lines}


def test_a_party_tells_its_own_operator_its_state(tmp_path: Path) -> None:
    site = Site(tmp_path, "https", ("bank-a", "bank-b", "bank-c"))
    home = site.kit("bank-a")
    with (home / "policy.toml").open("a") as policy:
        policy.write('[approval]\nECOD = "by-hand"\n')
    processes = [site.party("bank-a", PLAIN, "--metrics-port", "0"), site.party("bank-b"), site.party("bank-c")]

    def until(true: Callable[[dict[str, float]], object]) -> dict[str, float]:
        deadline = time.monotonic() + TIMEOUT_S
        while not true(found := scraped(port)):
            assert time.monotonic() < deadline, (found, site.told("bank-a"), site.told("coordinator"))
            time.sleep(0.05)
        return found

    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not (told := re.search(r"Metrics: http://127\.0\.0\.1:(\d+)/metrics", site.told("bank-a"))):
            assert time.monotonic() < deadline, site.told("bank-a")
            time.sleep(0.05)
        port = int(told[1])
        found = until(lambda found: 'connection_failures_total{error="UnavailableError"}' in found)
        assert found["connected"] == 0
        assert "seconds_since_contact" not in found
        states = ("waits", "running", "done", "refused", "expired")
        assert [found[f'jobs{{state="{state}"}}'] for state in states] == [0] * 5
        assert found['epsilon_left{unit="record"}'] == pytest.approx(10, abs=1e-6)
        assert found["list_serial"] == 1

        fit = ("coordinator", "fit", site.kit("coordinator"), "--detector", "ecod", "--epsilon", "2")
        more = ("--approval-s", "100", "--output", tmp_path / "m.blindsight")
        coordinator = site._start("coordinator", PLAIN, *fit, *more)
        processes.append(coordinator)
        found = until(lambda found: found.get('refusals_total{reason="PendingError"}'))
        assert found['jobs{state="waits"}'] == 1
        assert found["connected"] == 1
        assert found["sums_released"] == 0
        job = json.loads(run("jobs", "list", "--home", home, "--json"))["jobs"][0]["id"]
        run("jobs", "approve", job, "--home", home)
        assert coordinator.wait(TIMEOUT_S) == 0, site.told("coordinator")
        assert read_run(site.kit("coordinator")).model.alert_interval is not None, "what the noise leaves of 2% alerts"

        found = until(lambda found: found["connected"] == 0)  # the coordinator has ended
        assert found['jobs{state="done"}'] == 1
        assert found["sums_released"] == 2
        assert found['answers_total{answer="reply"}'] == 10, "five messages a sum"
        assert min(found['bytes_total{direction="sent"}'], found['bytes_total{direction="received"}']) > 1000
        party = open_party(home)
        assert found['epsilon_spent{unit="record"}'] == pytest.approx(party.ledgers["record"].spent())
        assert found['epsilon_left{unit="record"}'] == pytest.approx(party.ledgers["record"].remaining())
        assert 0 < found['epsilon_spent{unit="record"}'] <= 2
        assert found['epsilon_budget{unit="record"}'] == 10
        assert found["audit_lines"] == len((home / "audit.jsonl").read_text().splitlines())
        assert 0 <= found["seconds_since_contact"] < TIMEOUT_S
        assert found["state_readable"] == 1
    finally:
        for process in processes:
            process.terminate()
        statuses = [process.wait(30) for process in processes]
    assert statuses == [0, 0, 0, 0]
    with pytest.raises(httpx.ConnectError):
        scraped(port)
    done = CliRunner().invoke(app, ["party", "serve", str(home), "--metrics-port", "99999"])
    assert done.exit_code == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["party", "serve", str(home), "--metrics-port", number])
    assert (done.exit_code, "cannot be served" in done.stderr) == (75, True)
