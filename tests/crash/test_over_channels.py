"""Chaos over real TLS: every role killed at every point, cut networks, full disks, certificates that end.

Each time the run ends with the right sum over the right survivors, or says what to do; and every ledger's chain holds,
with each release charged once.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blindsight as bs
from blindsight.errors import SchemaError, StoreError, UnavailableError
from blindsight.federation import Federation, open_audit, open_coordinator, open_party, open_site, wait_for_parties
from blindsight.keys import _authority, read_certificate_file
from blindsight.testing import ChaosRelay
from blindsight.testing._failpoints import POINTS
from e2e.test_daemons import Site, run

from . import _forked

NAMES = ("bank-a", "bank-b", "bank-c", "bank-d")
DP = bs.DifferentialPrivacy(epsilon=1.0, delta=1e-6)
pytestmark = pytest.mark.filterwarnings("ignore:The federation has about")  # so few records are too few, rightly
TIMEOUT_S = 150.0
"""For what takes a few seconds where nothing else runs."""
PHASES = ("advertise", "share", "mask", "confirm", "unmask")
IN_ORDER = (
    "after-persist-advertise",
    "after-persist-share",
    "before-reserve",
    "after-reserve",
    "after-draw",
    "after-record-output",
    "before-persist-mask",
    "after-persist-mask",
    "after-persist-confirm",
    "after-persist-unmask",
)
"""As one sum passes them."""


class Roles:
    """Kits, and the processes that run on them."""

    def __init__(self, folder: Path, scheme: str = "https", names: tuple[str, ...] = NAMES) -> None:
        self.site = Site(folder, scheme, names)
        self.port = int(self.site.url.rpartition(":")[2])
        self.names = names
        self.parties: dict[str, _forked.Process] = {}

    def serve(self, name: str, at: str | None = None, how: str = "kill") -> None:
        errors = self.site.folder / f"{name}.err"
        self.parties[name] = _forked.start(_forked.serve, self.site.kit(name), errors, at, how)

    def coordinate(
        self, at: tuple[str, bool] | None = None, *, full: bool = False, deadline_s: float = 60.0
    ) -> _forked.Process:
        kit = self.site.kit("coordinator")
        arguments = ["--epsilon", "1", "--contamination", "0.05", "--deadline-s", str(deadline_s), "--wait-s", "60"]
        return _forked.start(
            _forked.coordinate,
            self.site.folder / "coordinator.err",
            [str(kit), *arguments, "--output", str(self.site.folder / "fraud.blindsight")],
            at,
            str(kit) if full else None,
        )

    @contextlib.contextmanager
    def serving(self, **other: Any) -> Iterator[None]:
        """Every party's process; ended by SIGTERM, cleanly."""
        try:
            for name in self.names:
                self.serve(name, **other.get(name, {}))
            yield
        finally:
            for process in self.parties.values():
                process.terminate()
            for process in self.parties.values():
                process.join(30)
        assert {name: process.exitcode for name, process in self.parties.items()} == dict.fromkeys(self.parties, 0)

    def told(self, name: str) -> str:
        return self.site.told(name) if (self.site.folder / f"{name}.err").exists() else ""

    @contextlib.contextmanager
    def federation(self, *, deadline_s: float = 60.0, threshold: int | None = None) -> Iterator[Federation]:
        """A coordinator in this process, over the same sockets, which a test can look into between phases."""
        with open_coordinator(self.site.kit("coordinator")) as site:
            made = Federation(
                site.channel,
                participants=site.listing.participants,
                schema=site.schema,
                name=site.listing.federation,
                timeout_s=deadline_s,
                journal=site.journal,
                threshold=threshold,
            )
            wait(lambda: set(made.greet(1.0)) == set(self.parties), "every party is connected")
            yield made

    def charges(self, name: str) -> list[str]:
        """Release ids in a party's ledger, whose chain holds, as does its audit log's."""
        party = open_party(self.site.kit(name))
        ledger = party.ledgers["record"]
        ledger.verify()
        open_audit(self.site.kit(name)).verify()
        return [entry.release_id for entry in ledger.entries()]

    def check(
        self, model: Any, survivors: dict[str, tuple[str, ...]], spent: dict[str, list[str]] | None = None
    ) -> None:
        """The model is made of what the survivors' ledgers say they released, and each was charged once."""
        assert model.provenance_["survivors"] == {step: list(names) for step, names in survivors.items()}
        sums = {"fit": model.totals_, "threshold": model.score_histogram_.counts}
        for step, total in sums.items():
            outputs = [self.output(name, f"{model.provenance_['run']}/{step}") for name in survivors[step]]
            assert np.array_equal(total, np.sum(outputs, axis=0)), step
        for name in self.names:
            steps = (spent or {}).get(name, [step for step in sums if name in survivors[step]])
            assert self.charges(name) == [f"{model.provenance_['run']}/{step}" for step in steps], name

    def output(self, name: str, release: str) -> np.ndarray:
        stored = open_party(self.site.kit(name)).ledgers["record"].output(release)
        assert stored is not None
        return np.frombuffer(stored, dtype="<i8")

    def model(self) -> Any:
        return bs.load(self.site.folder / "fraud.blindsight")


def wait(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def everybody(names: tuple[str, ...] = NAMES) -> dict[str, tuple[str, ...]]:
    return {"fit": names, "threshold": names}


# -- SIGKILL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_every_party_is_killed_at_every_point_of_a_sum(scheme: str, tmp_path: Path) -> None:
    """All four, each at the ten points of one and the same sum, one after the other."""
    assert sorted(IN_ORDER) == sorted(POINTS)
    roles = Roles(tmp_path, scheme)
    left = {name: list(IN_ORDER) for name in NAMES}
    roles.parties = {}
    for name in NAMES:
        roles.serve(name, left[name].pop(0))
    coordinator = roles.coordinate()
    try:
        until = time.monotonic() + TIMEOUT_S
        while coordinator.exitcode is None:
            assert time.monotonic() < until, (left, roles.told("coordinator"))
            multiprocessing.connection.wait([coordinator.sentinel, *(p.sentinel for p in roles.parties.values())], 1.0)
            for name, process in list(roles.parties.items()):
                if process.exitcode is not None:
                    assert process.exitcode == -signal.SIGKILL, roles.told(name)
                    roles.serve(name, left[name].pop(0) if left[name] else None)
    finally:
        coordinator.kill()
        coordinator.join()
        for process in roles.parties.values():
            process.terminate()
            process.join(30)
    assert coordinator.exitcode == 0, roles.told("coordinator")
    assert left == {name: [] for name in NAMES}, "every point was passed"
    roles.check(roles.model(), everybody())


A_PHASE = [("exchange", False), ("keep", True), ("keep", False)]
A_SUM = A_PHASE * 5 + [("finish", True), ("finish", False)]
A_RUN = [("begin", False), *A_SUM, *A_SUM, ("end", True)]


@pytest.mark.parametrize(
    ("scheme", "points"), [("https", A_RUN), ("grpcs", [("keep", False)] * 5 + [("finish", True)])]
)
def test_the_coordinator_is_killed_at_every_point_of_a_run(
    scheme: str, points: list[tuple[str, bool]], tmp_path: Path
) -> None:
    """The same command again and again; each process dies at its first call of what is named, the last at none."""
    roles = Roles(tmp_path, scheme)
    with roles.serving():
        for at in points:
            coordinator = roles.coordinate(at)
            coordinator.join(TIMEOUT_S)
            assert coordinator.exitcode == -signal.SIGKILL, (at, roles.told("coordinator"))
        coordinator = roles.coordinate()
        coordinator.join(TIMEOUT_S)
        assert coordinator.exitcode == 0, roles.told("coordinator")
        again = roles.coordinate()  # nothing is unfinished: it would be charged anew, and replace the model
        again.join(TIMEOUT_S)
        assert again.exitcode == 2, roles.told("coordinator")
        assert "file at --output already" in roles.told("coordinator")
    roles.check(roles.model(), everybody())


# -- networks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def relayed(tmp_path: Path) -> Iterator[tuple[Roles, ChaosRelay]]:
    """The last party dials through a relay; all of them run."""
    roles = Roles(tmp_path)
    with ChaosRelay("127.0.0.1", roles.port) as relay:
        file = roles.site.kit("bank-d") / "party.toml"
        lines = [line for line in file.read_text().splitlines() if not line.startswith("coordinator")]
        file.write_text("\n".join(lines) + f'\ncoordinator = ["https://127.0.0.1:{relay.port}"]\n')
        with roles.serving():
            yield roles, relay


def test_a_partition_in_each_phase_that_heals_in_time_and_too_late(relayed: tuple[Roles, ChaosRelay]) -> None:
    """In time: as if nothing had been. Too late: what had come in before counts, and the next sum is whole again."""
    roles, relay = relayed
    patient, hasty = 60.0, 4.0
    charges: dict[str, list[str]] = {name: [] for name in NAMES}
    with roles.federation(deadline_s=patient) as federation:
        for phase in PHASES:
            for deadline_s in (patient, hasty):
                federation._timeout_s = deadline_s
                healing: list[threading.Timer] = []

                def cut(step: str, now: str, *, at: str = phase, timers: list[threading.Timer] = healing) -> None:
                    if (step, now) == ("fit", at):
                        relay.partition()
                        if federation._timeout_s == patient:
                            timers.append(threading.Timer(0.3, relay.heal))
                            timers[0].start()
                    elif step == "threshold":
                        relay.heal()

                federation.progress = cut
                model = federation.fit(bs.ECOD(contamination=0.05), privacy=DP)
                for timer in healing:
                    timer.join()
                survivors = everybody()
                if deadline_s == hasty and phase in PHASES[:3]:
                    survivors["fit"] = NAMES[:3]
                release = f"{model.provenance_['run']}/fit"
                # what was asked in time and heard too late is computed, charged, and not wanted any more
                heard = survivors["fit"] + (("bank-d",) if release in roles.charges("bank-d") else ())
                assert set(heard) == set(survivors["fit"]) or phase == "mask"
                for name in NAMES:
                    charges[name] += [release] * (name in heard) + [f"{model.provenance_['run']}/threshold"]
                    assert roles.charges(name) == charges[name], (phase, deadline_s, name)
                assert model.provenance_["survivors"] == {step: list(names) for step, names in survivors.items()}
                for step, total in (("fit", model.totals_), ("threshold", model.score_histogram_.counts)):
                    release = f"{model.provenance_['run']}/{step}"
                    outputs = [roles.output(name, release) for name in survivors[step]]
                    assert np.array_equal(total, np.sum(outputs, axis=0)), (phase, deadline_s, step)


def test_messages_that_come_twice_late_and_out_of_order(tmp_path: Path) -> None:
    """One party's courier posts everything again: under its own id, under old ones, and under ids of nobody."""
    import ssl

    import httpx

    roles = Roles(tmp_path, names=NAMES[:3])
    party, kit = open_site(roles.site.kit("bank-c")), roles.site.kit("bank-c")
    context = ssl.create_default_context(cafile=party.authority)
    context.load_cert_chain(party.certificate, party.private_key)
    over, failures, posts = threading.Event(), [], [0]

    def courier() -> None:
        seen: list[tuple[str, bytes]] = []
        with httpx.Client(base_url=roles.site.url, verify=context, trust_env=False, timeout=30) as client:
            while not over.is_set():
                try:
                    letter = client.post("/v1/poll", headers={"prefer": "wait=1"})
                except httpx.TransportError:
                    time.sleep(0.05)
                    continue
                if letter.status_code != 200:
                    continue
                number, answer = letter.headers["x-blindsight-id"], party.handler(letter.content)
                again = party.handler(letter.content)
                seen.append((number, answer))
                for there, body in [*reversed(seen[:-1]), ("0" * 32, answer), (number, again), (number, seen[0][1])]:
                    posts[0] += 1
                    status = client.post(f"/v1/answers/{there}", content=body).status_code
                    if status != 204 or again != answer:
                        failures.append((there, status))

    thread = threading.Thread(target=courier)
    roles.names = NAMES[:2]  # what the others run as
    with roles.serving():
        thread.start()
        try:
            roles.parties["bank-c"] = roles.parties["bank-b"]  # only its name is asked for
            with roles.federation() as federation:
                model = federation.fit(bs.ECOD(contamination=0.05), privacy=DP)
        finally:
            over.set()
            thread.join()
            del roles.parties["bank-c"]
    roles.names = NAMES[:3]
    assert failures == []
    assert posts[0] > 50
    assert "refused" not in {line.kind for line in open_audit(kit).lines()}
    roles.check(model, everybody(NAMES[:3]))


# -- full disks -------------------------------------------------------------------------------------------------------


def test_a_full_disk_at_a_party_is_named_and_the_next_run_takes_it_in(tmp_path: Path) -> None:
    """It is left out of the sum in which its disk is full; the next one, which it cannot begin, stops the run."""
    roles = Roles(tmp_path)
    with roles.serving(**{"bank-d": {"at": "after-reserve", "how": "full-disk"}}), roles.federation() as federation:
        with pytest.raises(StoreError, match=r"bank-d: The store .* the disk is full.*free some space"):
            federation.fit(bs.ECOD(contamination=0.05), privacy=DP)
        (first,) = federation.history[-1].steps
        assert first.survivors == list(NAMES[:3])
        assert "StoreError" in first.dropped["bank-d"]
        assert "disk is full" in (roles.site.kit("bank-d") / "party.log").read_text()
        roles.parties["bank-d"].terminate()
        roles.parties["bank-d"].join(30)
        assert roles.parties["bank-d"].exitcode == 0
        roles.serve("bank-d")
        wait(lambda: set(federation.greet(1.0)) == set(NAMES), "it is back")
        model = federation.fit(bs.ECOD(contamination=0.05), privacy=DP)
    assert model.provenance_["survivors"] == {step: list(NAMES) for step in ("fit", "threshold")}
    runs = [f"{federation.history[0].run}/fit", *(f"{model.provenance_['run']}/{s}" for s in ("fit", "threshold"))]
    assert [roles.charges(name) for name in NAMES] == [runs] * 4, "there are no refunds"


def test_a_full_disk_at_the_coordinator_and_the_same_command_again(tmp_path: Path) -> None:
    roles = Roles(tmp_path)
    with roles.serving():
        coordinator = roles.coordinate(("keep", True), full=True)
        coordinator.join(TIMEOUT_S)
        assert coordinator.exitcode == 75, roles.told("coordinator")
        assert "the disk is full" in roles.told("coordinator")
        assert "free some space and repeat" in roles.told("coordinator")
        coordinator = roles.coordinate()
        coordinator.join(TIMEOUT_S)
        assert coordinator.exitcode == 0, roles.told("coordinator")
    roles.check(roles.model(), everybody())


# -- who may come -----------------------------------------------------------------------------------------------------


def test_a_certificate_that_ends_in_the_middle_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has it is left out of the sum from then on, and is named where it is waited for."""
    build, seconds = _authority._builder, 12.0

    def short(subject: Any, issuer: Any, key: Any, days: float) -> Any:
        return build(subject, issuer, key, seconds / 86_400 if "bank-d" in subject.rfc4514_string() else days)

    monkeypatch.setattr(_authority, "_builder", short)
    roles = Roles(tmp_path)
    ends = read_certificate_file(roles.site.kit("bank-d") / "tls.crt").not_valid_after_utc.timestamp()
    with roles.serving(), roles.federation(deadline_s=6.0) as federation:
        assert time.time() < ends, "this machine is too slow for this test"

        def outlive(step: str, phase: str) -> None:
            if (step, phase) == ("fit", "mask"):
                time.sleep(max(0.0, ends - time.time()) + 1.1)  # certificates count in whole seconds

        federation.progress = outlive
        model = federation.fit(bs.ECOD(contamination=0.05), privacy=DP)
        with pytest.raises(UnavailableError, match="no answer from bank-d"):
            wait_for_parties(federation, quorum=4, wait_s=1.0)
        wait(lambda: "cannot reach its coordinator" in roles.told("bank-d"), "it says so")
    assert "refuses this certificate" in roles.told("bank-d")
    assert "expired" in roles.told("bank-d")
    roles.check(model, everybody(NAMES[:3]), {"bank-d": []})


def test_a_party_that_was_taken_off_the_list_and_one_with_another_schema(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roles = Roles(tmp_path)
    kits = tmp_path / "kits"
    with roles.serving():
        run("init", "revoke", "bank-d", "--kits", kits)
        new = kits / "authority" / "lists" / "participants-2.json"
        for name in NAMES[:3]:
            run("party", "accept", new, "--home", roles.site.kit(name))
        (roles.site.kit("coordinator") / "participants.signed.json").write_bytes(new.read_bytes())
        revoked = roles.parties.pop("bank-d")
        try:
            with roles.federation() as federation:
                model = federation.fit(bs.ECOD(contamination=0.05), privacy=DP)
                wait(lambda: "refuses this certificate" in roles.told("bank-d"), "it is told")
        finally:
            roles.parties["bank-d"] = revoked
    assert "on no list" in caplog.text
    roles.names = NAMES[:3]
    roles.check(model, everybody(NAMES[:3]))
    assert roles.charges("bank-d") == []
    schema = roles.site.kit("bank-c") / "schema.toml"
    schema.write_text(schema.read_text().replace("120", "121"))
    with roles.serving(), pytest.raises(SchemaError, match="bank-c"), roles.federation():
        raise AssertionError("it was let in")
    assert [roles.charges(name) for name in NAMES[:3]] == [roles.charges("bank-a")] * 3
    assert len(roles.charges("bank-a")) == 2


# -- one process a folder ---------------------------------------------------------------------------------------------


def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    """The second says which one is there, and ends; death of the first, even by SIGKILL, lets go of the folder."""
    roles = Roles(tmp_path, names=NAMES[:3])
    home, errors = roles.site.kit("bank-a"), tmp_path / "second.err"
    roles.names = ("bank-a",)
    with roles.serving():
        first = roles.parties["bank-a"]
        wait(lambda: "dials" in roles.told("bank-a"), "it runs")
        second = _forked.start(_forked.serve, home, errors)
        second.join(TIMEOUT_S)
        assert second.exitcode == 2
        assert f"Another process serves this folder.\n  got:  process {first.pid}\n" in errors.read_text()
        assert "end it first" in errors.read_text()
        assert first.is_alive()
        first.kill()
        first.join(30)
        roles.serve("bank-a")
        wait(lambda: roles.told("bank-a").count("cannot reach") == 2, "another has taken its place")
    with open_coordinator(roles.site.kit("coordinator")):
        other = roles.coordinate()
        other.join(TIMEOUT_S)
        assert other.exitcode == 2
        assert "Another process serves this folder" in roles.told("coordinator")
