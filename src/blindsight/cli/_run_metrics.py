"""Prometheus metrics of a coordinator's run, on a port of their own; no value of a record, and nothing by person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._metrics import MetricsPort, new_registry

if TYPE_CHECKING:
    from blindsight.federation import StepRecord

__all__ = ["RunMetrics"]


class RunMetrics(MetricsPort):
    """Counts sums; a context manager that serves ``/metrics`` while it is open.

    Parameters
    ----------
    port : int
        0 chooses a free one.

    Raises
    ------
    MissingExtraError
        ``prometheus-client`` is not installed.
    UnavailableError
        The port cannot be listened on.
    """

    def __init__(self, port: int) -> None:
        registry = new_registry()

        from prometheus_client import Counter, Gauge

        named: dict[str, Any] = {"namespace": "blindsight", "subsystem": "run", "registry": registry}
        self._sums = Counter("sums", "Sums that are open, by purpose.", ["purpose"], **named)
        self._seconds = Counter("sum_seconds", "Wall time of these sums.", **named)
        self._bytes = Counter("bytes", "Bytes at the coordinator, all parties together.", ["direction"], **named)
        self._dropped = Counter("dropouts", "Parties that dropped out of a sum.", ["party"], **named)
        self._survivors = Gauge("survivors", "Parties in the newest sum.", **named)
        self._connected = Gauge("parties_connected", "Parties that have answered before the run.", **named)
        self._epsilon = Gauge("epsilon", "Epsilon spent so far in this run; absent for exact sums.", ["unit"], **named)
        self._done = Gauge("done", "1 once the run is done.", **named)
        super().__init__(registry, port)

    def waits(self, present: list[str]) -> None:
        """Parties came or went before the run."""
        self._connected.set(len(present))

    def step(self, step: StepRecord, epsilon: float | None) -> None:
        """A sum is open; ``epsilon`` is of the run so far."""
        self._sums.labels(step.purpose).inc()
        self._seconds.inc(step.seconds)
        self._bytes.labels("sent").inc(step.sent_bytes)
        self._bytes.labels("received").inc(step.received_bytes)
        self._survivors.set(len(step.survivors))
        for name in step.dropped:
            self._dropped.labels(name).inc()
        if epsilon is not None:
            self._epsilon.labels(str(step.event.get("unit"))).set(epsilon)

    def ends(self, **detail: Any) -> None:
        """The run is done."""
        del detail
        self._done.set(1)
