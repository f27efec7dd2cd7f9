"""A federation over a real Flower: SuperLink, SuperNodes, TLS, node keys; and our own processes beside them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blindsight.cli import app
from blindsight.testing import FlowerFleet, flower_bin

from .test_daemons import Site

COMMANDS = flower_bin()
NAMES = ("bank-a", "bank-b", "bank-c")


@pytest.mark.slow
@pytest.mark.skipif(COMMANDS is None, reason="Flower is not there: make .venv/flower, or set BLINDSIGHT_FLOWER")
def test_kits_over_flower(tmp_path: Path) -> None:
    assert COMMANDS is not None
    site = Site(tmp_path, "flower", NAMES)
    courier = tmp_path / "courier"
    assert CliRunner().invoke(app, ["coordinator", "flower-app", str(courier)]).exit_code == 0
    coordinator = site.coordinator()
    agents = {name: site.kit(name) / "flower.sock" for name in NAMES}
    with site.serving(), FlowerFleet(COMMANDS, tmp_path / "flower", agents) as fleet:
        run = fleet.run(courier, socket=str(site.kit("coordinator") / "flower.sock"), wait_s=60.0)
        try:
            assert coordinator.wait(180) == 0, site.told("coordinator")
        finally:
            coordinator.kill()
            coordinator.wait()
        deadline = time.monotonic() + 30
        while (status := fleet.status(run)) != "finished:completed":
            assert time.monotonic() < deadline, f"{status}\n{fleet.told('superlink')}"
            time.sleep(0.5)
    site.check_model()
    assert len(site.rounds()) == 2
    assert "has reached its coordinator" in site.told("bank-a")
