"""A coordinator's run in MLflow: what was asked for, and a point a sum; no value of a record."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from blindsight.errors import MissingExtraError, UnavailableError

if TYPE_CHECKING:
    from blindsight.federation import RunRecord, StepRecord

__all__ = ["RunMlflow"]

log = logging.getLogger(__name__)

RUN_TAG = "blindsight.run"
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class RunMlflow:
    """Logs sums to a tracking server; a context manager, which marks the run as failed where the block does.

    A run that goes on after its coordinator was killed goes on in MLflow too. A server that cannot be reached any more
    is said once in the log, and the run goes on without it.

    Parameters
    ----------
    uri : str
        Of the tracking server.
    experiment : str
        The federation's name.
    run : callable () -> RunRecord
        The run that goes on now.
    parameters : dict of str to str
        What was asked for.

    Raises
    ------
    MissingExtraError
        MLflow is not installed.
    UnavailableError
        The server does not answer now.
    """

    def __init__(self, uri: str, *, experiment: str, run: Callable[[], RunRecord], parameters: dict[str, str]) -> None:
        for name, value in PATIENCE.items():  # MLflow tries for minutes otherwise, while all parties wait
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise MissingExtraError("--mlflow needs MLflow", fix="pip install mlflow-skinny") from error
        self._run, self._parameters = run, parameters
        self._id: str | None = None
        self._known: set[int] = set()
        self._failed = False
        try:
            self._client: Any = MlflowClient(uri)
            found = self._client.get_experiment_by_name(experiment)
            self._experiment = found.experiment_id if found else self._client.create_experiment(experiment)
        except Exception as error:  # MLflow's own, requests', urllib3's
            raise UnavailableError(
                "MLflow's tracking server cannot be used",
                got=f"{_unsigned(uri)[:100]}: {_unsigned(str(error))[:200]}",
                fix="leave --mlflow out",
            ) from error

    def waits(self, present: list[str]) -> None:
        """Nothing yet."""

    def step(self, step: StepRecord, epsilon: float | None) -> None:
        """A sum is open; ``epsilon`` is of the run so far."""
        number = next(i for i, one in enumerate(self._run().steps) if one.step == step.step)
        points = {
            "seconds": step.seconds,
            "survivors": len(step.survivors),
            "dropouts": len(step.dropped),
            "sent_bytes": step.sent_bytes,
            "received_bytes": step.received_bytes,
            "loss": step.loss,
            "epsilon": epsilon,
        }
        self._tell(lambda: self._log(number, {k: float(v) for k, v in points.items() if v is not None}))

    def ends(self, **detail: Any) -> None:
        """The run is done; its model, where there is one, becomes an artifact."""

        def end() -> None:
            if "model" in detail and os.path.exists(detail["model"]):
                self._client.log_artifact(self._started(), detail["model"])
            self._client.set_terminated(self._started(), "FINISHED")

        self._tell(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._id is not None:
            self._tell(lambda: self._client.set_terminated(self._started(), "FAILED"))

    def _log(self, number: int, points: dict[str, float]) -> None:
        import time

        from mlflow.entities import Metric

        run = self._started()
        if number not in self._known:
            self._known.add(number)
            now = int(time.time() * 1000)
            self._client.log_batch(run, metrics=[Metric(k, v, now, number) for k, v in points.items()])

    def _started(self) -> str:
        """Id of the run there: of one that an earlier process has begun, or of a new one."""
        if self._id is None:
            name = self._run().run
            found = self._client.search_runs([self._experiment], f"tags.`{RUN_TAG}` = '{name}'", max_results=1)
            if found:
                self._id = found[0].info.run_id
                history = self._client.get_metric_history(self._id, "seconds")
                self._known = {point.step for point in history}
            else:
                tags = {RUN_TAG: name, "mlflow.runName": name}
                self._id = self._client.create_run(self._experiment, tags=tags).info.run_id
                for key, value in self._parameters.items():
                    self._client.log_param(self._id, key, value[:500])
        assert self._id is not None
        return self._id

    def _tell(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # a run is not ended by who watches it
            self._failed = True
            log.warning("MLflow is told no more of this run: %s", _unsigned(str(error))[:300])


def _unsigned(text: str) -> str:
    """Text whose URLs name neither user nor password."""
    return re.sub(r"://[^/\s]*@", "://", text)
