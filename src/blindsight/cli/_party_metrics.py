"""Prometheus metrics of a party's process, for its own operator; no value of a record, and nothing by person."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from blindsight.errors import BlindsightError

from ._metrics import MetricsPort, new_registry

if TYPE_CHECKING:
    from blindsight.channels import Contact
    from blindsight.federation import PartySite
    from blindsight.privacy import Ledger

__all__ = ["PartyMetrics"]

log = logging.getLogger(__name__)

FRESH_S = 1.0
"""How long what was collected is told again: to read the store walks all jobs, and holds up who asks for sums."""
STATES = ("waits", "running", "done", "refused", "expired")


class PartyMetrics(MetricsPort):
    """Counts what a party answers, and reads its state out of its store at each scrape; serves both.

    Parameters
    ----------
    site : PartySite
    contact : Contact
        That the party's end of the channel was given.
    port : int
        On 127.0.0.1; 0 chooses a free one.

    Raises
    ------
    MissingExtraError, UnavailableError
        As :class:`MetricsPort`.

    Privacy
    -------
    What is shown is in ledger, job list and audit log as well: numbers of messages, jobs and refusals, and epsilon. The
    party's own operator may see it. It is not noised, and is no release to anybody else: the port is loopback's.
    """

    def __init__(self, site: PartySite, contact: Contact, port: int) -> None:
        registry = new_registry()
        self._site, self._contact = site, contact
        self._answers: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._bytes = Counter(received=0, sent=0)
        self._accounts: dict[str, tuple[object, float, float]] = {}
        self._reading = threading.Lock()
        self._read: tuple[float, list[Any]] | None = None
        registry.register(self)  # any object with collect() will do
        super().__init__(registry, port)

    def handler(self, request: bytes) -> bytes:
        """As the site's; what is asked and answered is counted."""
        from blindsight.federation import glance

        self._bytes["received"] += len(request)
        answer = self._site.handler(request)
        self._bytes["sent"] += len(answer)
        what, kind = glance(answer)
        self._answers[what] += 1
        if what == "refusal":
            self._refusals[kind] += 1
        return answer

    def collect(self) -> Iterator[Any]:
        """What Prometheus asks for at each scrape, in a thread of its own."""
        with self._reading:
            if self._read is None or time.monotonic() - self._read[0] > FRESH_S:
                families = [*self._of_process(), *self._state()]
                self._read = (time.monotonic(), families)
            families = self._read[1]
        yield from families

    def _state(self) -> Iterator[Any]:
        readable = 1
        try:
            yield from list(self._of_store())
        except BlindsightError as error:  # the disk has failed, say: the rest is told all the same
            log.warning("the party's state cannot be read for its metrics: %s", error)
            readable = 0
        yield _gauge("state_readable", "0 where jobs, budget and audit log cannot be read, and are absent.", readable)

    def _of_process(self) -> Iterator[Any]:
        contact, seconds = self._contact, self._contact.seconds
        yield _gauge("connected", "Whether the coordinator, or a session with it, is there.", int(contact.connected))
        if seconds is not None:
            yield _gauge("seconds_since_contact", "Since something came from the coordinator.", seconds)
        yield _counter("connection_failures", "Connections that failed or ended, by error.", "error", contact.failures)
        yield _counter("answers", "Requests that were answered, by what the answer was.", "answer", self._answers)
        yield _counter("refusals", "Answers that were refusals, by kind of reason.", "reason", self._refusals)
        yield _counter("bytes", "Bytes of requests and answers, as they are inside TLS.", "direction", self._bytes)

    def _of_store(self) -> Iterator[Any]:
        jobs, now = self._site.party.jobs.all(), time.time()
        states = dict.fromkeys(STATES, 0)
        for job in jobs:
            states["expired" if job.state == "waits" and now >= job.expires else job.state] += 1
        yield _gauges("jobs", "Runs that were asked for, by state.", "state", states)
        released = sum(job.released for job in jobs)
        yield _gauge("sums_released", "Sums that this party's vector went into, of all jobs.", released)
        accounts = {unit: self._account(unit, ledger) for unit, ledger in self._site.party.ledgers.items()}
        for name, what, place in (
            ("epsilon_budget", "Budget of these records, by unit.", 0),
            ("epsilon_spent", "Epsilon of all releases with noise; exact sums are not in it.", 1),
            ("epsilon_left", "Largest epsilon of one more release.", 2),
        ):
            yield _gauges(name, what, "unit", {unit: account[place] for unit, account in accounts.items()})
        yield _gauge("audit_lines", "Lines of the audit log.", self._site.audit_lines)
        listing = self._site.party.listing
        if listing is not None:
            yield _gauge("list_serial", "Of the participant list that holds here.", listing.serial)

    def _account(self, unit: str, ledger: Ledger) -> tuple[float, float, float]:
        """Budget, spent and left; worked out again only where the ledger or its budget has changed."""
        budget = ledger.budget
        assert budget is not None  # a party's ledgers have one
        state = (ledger.head(), budget)
        if self._accounts.get(unit, (None,))[0] != state:
            self._accounts[unit] = (state, ledger.spent(), ledger.remaining())
        _, spent, left = self._accounts[unit]
        return budget.epsilon, spent, left


def _gauge(name: str, what: str, value: float) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"blindsight_party_{name}", what, value=value)


def _gauges(name: str, what: str, label: str, values: Mapping[str, float]) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"blindsight_party_{name}", what, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, what: str, label: str, values: Counter[str]) -> Any:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"blindsight_party_{name}", what, labels=[label])
    for key, value in list(values.items()):
        family.add_metric([key], value)
    return family
