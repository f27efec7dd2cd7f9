"""Counts for Prometheus, over all workers of one machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DIRECTORY", "Metrics"]

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Where the workers of one machine put their counts; set before prometheus_client is imported."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters, by names that the operator or this code has given: routes, models, accounts."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        r = self._registry = CollectorRegistry()
        paid = ["model", "account"]
        self._requests = Counter("blindsight_requests", "Requests", ["method", "route", "status"], registry=r)
        self._seconds = Histogram(
            "blindsight_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=r
        )
        self._received = Counter("blindsight_received_bytes", "Bytes of request bodies", ["route"], registry=r)
        self._sent = Counter("blindsight_sent_bytes", "Bytes of answers", ["route"], registry=r)
        self._in_flight = Gauge("blindsight_in_flight", "Requests under way", multiprocess_mode="livesum", registry=r)
        self._bits = Counter("blindsight_bits_released", "Bits charged", paid, registry=r)
        self._rows = Counter("blindsight_rows_answered", "Records charged", paid, registry=r)
        self._replayed = Counter(
            "blindsight_answers_replayed", "Answers sent again under their key", ["model"], registry=r
        )
        self._refused = Counter("blindsight_refused", "Requests refused", ["kind"], registry=r)
        self._compute = Histogram(
            "blindsight_score_seconds", "Computation alone", ["model"], buckets=SECONDS, registry=r
        )
        self._links = Gauge(
            "blindsight_comparison_links", "Comparison links open", multiprocess_mode="livesum", registry=r
        )
        self._comparison = Histogram(
            "blindsight_comparison_seconds", "Comparisons", ["model", "outcome"], buckets=SECONDS, registry=r
        )
        self._verdicts = Counter("blindsight_verdicts", "Records compared", ["model"], registry=r)
        self._shadow = Histogram(
            "blindsight_shadow_seconds", "The second model's", ["model"], buckets=SECONDS, registry=r
        )

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Around a request."""
        self._in_flight.inc()
        try:
            yield
        finally:
            self._in_flight.dec()

    @contextmanager
    def linked(self) -> Iterator[None]:
        """Around a comparison link."""
        self._links.inc()
        try:
            yield
        finally:
            self._links.dec()

    def compared(self, model: str, outcome: str, seconds: float, rows: int) -> None:
        """A comparison was carried out, refused, or broke off."""
        self._comparison.labels(model, outcome).observe(seconds)
        self._verdicts.labels(model).inc(rows)

    def request(self, method: str, route: str, status: int, seconds: float, received: int, sent: int) -> None:
        """A request is over."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        self._received.labels(route).inc(received)
        self._sent.labels(route).inc(sent)

    def charged(self, model: str, account: str, bits: int, rows: int) -> None:
        """A request was charged."""
        self._bits.labels(model, account).inc(bits)
        self._rows.labels(model, account).inc(rows)

    def computed(self, model: str, seconds: float) -> None:
        """An answer was computed."""
        self._compute.labels(model).observe(seconds)

    def shadowed(self, model: str, seconds: float) -> None:
        """The second model was computed beside."""
        self._shadow.labels(model).observe(seconds)

    def replayed(self, model: str) -> None:
        """A stored answer was sent again."""
        self._replayed.labels(model).inc()

    def refused(self, kind: str) -> None:
        """A request was refused."""
        self._refused.labels(kind).inc()

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

        folder = os.environ.get(DIRECTORY)
        if not folder:
            return bytes(generate_latest(self._registry))
        for pid in _dead(Path(folder)):  # killed in the middle of requests: these are under way no more
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return bytes(generate_latest(registry))


def _dead(folder: Path) -> set[int]:
    """Process ids that left gauges behind and are no more."""
    dead = set()
    for file in folder.glob("gauge_live*_*.db"):
        match = re.fullmatch(r"gauge_live[a-z]*_(\d+)\.db", file.name)
        if match:
            try:
                os.kill(int(match[1]), 0)  # signal 0: only asks
            except ProcessLookupError:
                dead.add(int(match[1]))
            except PermissionError:
                pass  # somebody's: that number was given again
    return dead
