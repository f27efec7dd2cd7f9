"""A run in MLflow: what its own client reads back from its own store."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import blindsight as bs
from blindsight.cli._rounds import Rounds
from blindsight.cli._run_mlflow import RUN_TAG, RunMlflow
from blindsight.errors import UnavailableError
from blindsight.federation import Federation, Policy
from sample_tables import NUMBER_SCHEMA, make_table

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # MLflow's own
]
mlflow = pytest.importorskip("mlflow", reason="MLflow is not there: the extra mlflow")


@pytest.fixture
def federation() -> Federation:
    data = {f"bank-{c}": make_table(60 + i, 70 + i) for i, c in enumerate("abc")}
    return Federation.embedded(data, schema=NUMBER_SCHEMA, policy=Policy(allow_exact_sums=True))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


def test_a_run_that_goes_on_is_one_run_there(federation: Federation, store: str, tmp_path: Path) -> None:
    model = federation.fit(bs.ECOD(), privacy=None)
    path = tmp_path / "fraud.blindsight"
    model.save(path)
    run = federation.history[-1]

    def listener() -> RunMlflow:
        return RunMlflow(store, experiment="card-fraud", run=lambda: run, parameters={"detector": "ECOD"})

    with listener() as first:
        first.step(run.steps[0], None)  # and its process is killed
    with (
        listener() as second,
        Rounds(tmp_path / "rounds.jsonl", run=lambda: run, delta=None, quiet=True, listeners=[second]) as rounds,
    ):
        rounds.waits(["bank-a"], [])
        for step in run.steps:
            rounds.done(step)
        rounds.ends("done", model=str(path))
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("card-fraud")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.data.tags[RUN_TAG], found.info.status) == (run.run, "FINISHED")
    assert found.data.params == {"detector": "ECOD"}
    history = client.get_metric_history(found.info.run_id, "received_bytes")
    assert [(one.step, one.value) for one in history] == [(i, s.received_bytes) for i, s in enumerate(run.steps)]
    assert found.data.metrics["survivors"] == 3
    assert "epsilon" not in found.data.metrics
    (artifact,) = client.list_artifacts(found.info.run_id)
    assert artifact.path == "fraud.blindsight"


def test_a_server_that_goes_does_not_end_the_run(
    federation: Federation, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    federation.fit(bs.ECOD(), privacy=None)
    run = federation.history[-1]
    with RunMlflow(store, experiment="x", run=lambda: run, parameters={}) as listener:
        folder = Path(store.removeprefix("file://"))
        folder.rename(folder.with_name("gone"))
        with caplog.at_level(logging.WARNING):
            for step in run.steps:
                listener.step(step, 0.5)
            listener.ends()
    assert len([one for one in caplog.records if "told no more" in one.message]) == 1


@pytest.mark.timeout(60)  # MLflow's own patience is minutes
@pytest.mark.parametrize("uri", ["nonsense://x", "http://127.0.0.1:1"])
def test_one_that_is_not_there_is_said_before_anybody_is_asked(uri: str) -> None:
    with pytest.raises(UnavailableError, match="tracking server cannot be used"):
        RunMlflow(uri, experiment="x", run=lambda: None, parameters={})  # type: ignore[arg-type,return-value]


def test_a_password_in_the_address_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "http://alice:s3cret@tracking.example:5000"

    def refuse(*_: object) -> None:
        raise OSError(f"API request to {uri}/api failed")

    monkeypatch.setattr(mlflow, "MlflowClient", refuse)
    with pytest.raises(UnavailableError) as told:
        RunMlflow(uri, experiment="card-fraud", run=lambda: None, parameters={})  # type: ignore[arg-type, return-value]
    assert "s3cret" not in str(told.value)
    assert "tracking.example" in str(told.value)
