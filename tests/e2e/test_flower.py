"""A federation over Flower as people run it: over the app's own code alone, with SIGKILL; and over a real SuperLink."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import blindsight as bs
from blindsight.cli import app
from blindsight.detectors import Detector
from blindsight.testing import FakeFleet, FlowerFleet, flower_bin

from .test_daemons import DIES_AFTER_THE_VECTORS, DIES_WHEN_CHARGED, PLAIN, TIMEOUT_S, Site, run

COMMANDS = flower_bin()
NAMES = ("bank-a", "bank-b", "bank-c", "bank-d")
REAL_TIMEOUT_S = 400  # a minute or two, where nothing else runs
NETWORK = ("--detector", "autoencoder", "--set", "training.rounds=1")


def network() -> Detector:
    return bs.AutoEncoder(contamination=0.05, training=bs.Training(rounds=1, learning_rate=0.2, clip_norm=10.0))


def agents(site: Site) -> dict[str, Path]:
    return {name: site.kit(name) / "flower.sock" for name in NAMES}


def socket_of(site: Site) -> Path:
    return site.kit("coordinator") / "flower.sock"


@contextlib.contextmanager
def carried(site: Site) -> Iterator[None]:
    fleet = FakeFleet(socket_of(site))
    try:
        for agent in agents(site).values():
            fleet.add(agent)
        yield
    finally:
        fleet.close()


def test_killed(tmp_path: Path) -> None:
    """A coordinator and a party, in the middle. The name is short: the path of a socket may have 100 bytes."""
    site = Site(tmp_path, "flower", NAMES)
    with carried(site), site.serving(**{"bank-c": ["-c", DIES_WHEN_CHARGED]}) as running:
        coordinator = site.coordinator(["-c", DIES_AFTER_THE_VECTORS])
        assert running["bank-c"].wait(TIMEOUT_S) == -signal.SIGKILL  # charged; its vector has not left
        assert (site.kit("bank-c") / "flower.sock").is_socket(), "left behind, and taken over"
        running["bank-c"] = site.party("bank-c")
        assert coordinator.wait(TIMEOUT_S) == -signal.SIGKILL  # every vector is in; no total is open
        coordinator = site.coordinator()
        assert coordinator.wait(TIMEOUT_S) == 0, site.told("coordinator")
        site.check_model()
        (tmp_path / "fraud.blindsight").unlink()  # a new fit replaces no model
        assert site.coordinator(PLAIN, *NETWORK).wait(TIMEOUT_S) == 0, site.told("coordinator")
        site.check_model(network())
    assert "was interrupted: it goes on" in site.told("coordinator")
    assert "has reached its coordinator" in site.told("bank-a")
    report = tmp_path / "report.html"
    run("report", site.kit("coordinator"), "--output", report)
    assert "answered through Flower over mutual TLS" in report.read_text()
    assert not any(path.exists() for path in (socket_of(site), *agents(site).values())), (
        "who ends takes its socket away"
    )


def test_where_to_listen_is_said_in_the_way_of_the_address(tmp_path: Path) -> None:
    def fails(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 2, done.stderr
        return done.stderr

    for scheme, option in (("flower", ("--listen", "127.0.0.1:1")), ("https", ("--socket", tmp_path / "a.sock"))):
        (tmp_path / scheme).mkdir()
        site = Site(tmp_path / scheme, scheme, NAMES)
        fit = ("coordinator", "fit", site.kit("coordinator"), "--exact", "--output", tmp_path / "m.blindsight")
        assert "not for this address" in fails(*fit, *option)
    assert "flower://... alone" in fails("party", "serve", site.kit("bank-a"), "--socket", tmp_path / "a.sock")
    assert "does not exist yet" in fails("coordinator", "flower-app", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(COMMANDS is None, reason="Flower is not there: make flower, or set BLINDSIGHT_FLOWER")
def test_over_a_real_superlink(tmp_path: Path) -> None:
    """TLS, node keys, a SuperNode a party; the app as the command writes it. A network too if time is no matter."""
    assert COMMANDS is not None
    site = Site(tmp_path, "flower", NAMES)
    courier = tmp_path / "courier"
    assert CliRunner().invoke(app, ["coordinator", "flower-app", str(courier)]).exit_code == 0
    with site.serving(), FlowerFleet(COMMANDS, tmp_path / "flower", agents(site)) as fleet:
        fit(site, fleet, courier)
        site.check_model()
        assert len(site.rounds()) == 2
        if "BLINDSIGHT_LONG" in os.environ:
            (tmp_path / "fraud.blindsight").unlink()
            fit(site, fleet, courier, *NETWORK)
            site.check_model(network())


def fit(site: Site, fleet: FlowerFleet, courier: Path, *more: str) -> None:
    """One run of the coordinator, and of the app that carries for it."""
    coordinator = site.coordinator(PLAIN, *more)
    try:
        number = fleet.run(courier, socket=str(socket_of(site)), wait_s=60.0)
        assert coordinator.wait(REAL_TIMEOUT_S) == 0, site.told("coordinator")
    finally:
        coordinator.kill()
        coordinator.wait()
    deadline = time.monotonic() + 30
    while (status := fleet.status(number)) != "finished:completed":
        assert time.monotonic() < deadline, f"{status}\n{fleet.told('superlink')}"
        time.sleep(0.5)
