"""Every party in a process of its own that is given only its own file."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from blindsight import modelfile
from blindsight.data import Schema
from blindsight.detectors import ECOD, Mahalanobis
from blindsight.errors import ParameterError
from blindsight.federation import Federation, open_party

from ._drive import EXACT, dp, embedded, stacked, tables


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, number_schema: Schema) -> Iterator[tuple[Federation, dict, Path]]:
    """Four banks, two with CSV and two with Parquet files."""
    folder = tmp_path_factory.mktemp("processes")
    data, paths = tables(4, rows=40), {}
    for i, (name, table) in enumerate(data.items()):
        paths[name] = folder / f"{name}.{'csv' if i % 2 else 'parquet'}"
        table.write_csv(paths[name]) if i % 2 else table.write_parquet(paths[name])
    federation = Federation.processes(paths, schema=number_schema, home=folder / "home", policy=EXACT, timeout_s=60)
    yield federation, data, folder
    federation.close()


def test_the_model_is_the_embedded_one_bit_for_bit(running: tuple, number_schema: Schema) -> None:
    federation, data, _ = running
    assert federation.greet() == sorted(data)
    for detector in (ECOD(contamination=0.05), Mahalanobis()):
        model = federation.fit(detector, privacy=None)
        inside = embedded(data, number_schema).fit(detector, privacy=None)
        model.provenance_ = inside.provenance_ = model.certificate_ = inside.certificate_ = None
        assert modelfile.dumps(model) == modelfile.dumps(inside)


def test_each_process_is_given_its_own_file_alone(running: tuple) -> None:
    federation, data, folder = running
    for name in data:
        process = federation._channel.process_id(name)
        command = Path(f"/proc/{process}/cmdline").read_bytes().decode()
        others = [other for other in data if other != name]
        assert str(folder / "home" / name) in command
        assert not any(other in command for other in others)
        settings = (folder / "home" / name / "party.toml").read_text()
        assert name in settings
        assert not any(other in settings for other in others)
        opened = [os.readlink(f"/proc/{process}/fd/{fd}") for fd in os.listdir(f"/proc/{process}/fd")]
        assert any(str(folder / "home" / name) in path for path in opened), "its ledger is open"
        assert not any(other in path for path in opened for other in others)
        for private in ("keys", "ledger.db"):
            assert (folder / "home" / name / private).stat().st_mode & 0o077 == 0


def test_dp_in_processes_charges_every_party_once(running: tuple) -> None:
    federation, data, folder = running
    federation.describe(privacy=dp(0.5))
    for name in data:
        party = open_party(folder / "home" / name)
        events = [e.event for e in party.ledgers["record"].entries() if not e.event.exact]
        assert [event.query for event in events] == ["describe/histogram", "describe/moments"]
        assert 0.45 < party.ledgers["record"].spent() <= 0.5
        party.ledgers["record"].verify()


def test_a_killed_process_is_a_dropout(running: tuple, caplog: pytest.LogCaptureFixture) -> None:
    """Last in this file: one bank is gone afterwards. Really SIGKILLed in the middle of a run with noise."""
    federation, data, _ = running
    victim = federation._channel.process_id("bank-01")

    def kill(step: str, phase: str) -> None:
        if phase == "mask":
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                return

    federation.progress = kill
    with pytest.warns(UserWarning, match="usable records"):
        model = federation.fit(Mahalanobis(), privacy=dp(0.5))
    survivors = [name for name in data if name != "bank-01"]
    steps = federation.history[-1].steps
    assert [step.survivors for step in steps] == [survivors, survivors]
    assert steps[0].dropped == {"bank-01": "mask: did not answer"} or "did not answer" in steps[0].dropped["bank-01"]
    assert np.isfinite(model.decision_function(stacked(data))).all()
    federation.progress = None


def test_names_that_could_leave_the_folder_are_refused(number_schema: Schema, tmp_path: Path) -> None:
    data = {"../evil": "a.csv", "b": "b.csv", "c": "c.csv"}
    with pytest.raises(ParameterError, match=r"name cannot be used.*'\.\./evil'"):
        Federation.processes(data, schema=number_schema, home=tmp_path / "home")
    assert not list(tmp_path.iterdir())


def test_a_party_that_cannot_open_its_folder_is_absent(number_schema: Schema, tmp_path: Path) -> None:
    from blindsight.federation.worker import main

    assert main([str(tmp_path / "nowhere")]) == 2


def test_a_warning_about_records_loses_no_party(
    number_schema: Schema, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the environment makes errors of warnings, a party writes them into its own log all the same."""
    paths = {}
    for name, table in tables(3, rows=40).items():
        paths[name] = tmp_path / f"{name}.csv"
        table.with_columns(age=table["age"] + 100).write_csv(paths[name])
    monkeypatch.setenv("PYTHONWARNINGS", "error::UserWarning")
    with Federation.processes(paths, schema=number_schema, home=tmp_path / "home", policy=EXACT) as federation:
        federation.fit(ECOD(), privacy=None)
        assert federation.history[0].steps[0].survivors == sorted(paths)
    assert "Values lie outside the declared ranges" in (tmp_path / "home" / "bank-00" / "party.log").read_text()
