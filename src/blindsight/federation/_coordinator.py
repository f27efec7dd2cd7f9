"""Drive one private sum over a channel: five exchanges, whoever answers; one where masking was given up."""

from __future__ import annotations

import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from blindsight._text import printable
from blindsight.channels import Channel
from blindsight.detectors import Query, Total, UpdateQuery
from blindsight.errors import (
    BlindsightError,
    ParameterError,
    PendingError,
    ProtocolError,
    RefusedError,
    ReleaseError,
    SurvivorsError,
    WireError,
)
from blindsight.privacy import Event, noise_max_abs
from blindsight.securesum import Phase, PhasedServer, load_server, make_server

from ._heads import HeadRelay
from ._journal import SumJournal
from ._run import StepRecord
from ._steps import event_of, is_masked, spec_of
from ._wire import Begin, Continue, Ledgers, Refusal, Reply, Step, decode_reply, encode

__all__ = ["beside", "private_total"]

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 10.0
"""Before the same is asked again, where a person has yet to approve."""


def private_total(
    channel: Channel,
    step: Step,
    query: Query,
    *,
    timeout_s: float,
    only: frozenset[str] | None = None,
    progress: Callable[[str, str], None] | None = None,
    journal: SumJournal | None = None,
    approval_timeout_s: float = 0.0,
    recall: bool = False,
    ended: Sequence[str] = (),
) -> tuple[Total, StepRecord]:
    """Open the total of ``query`` over the parties that survive.

    Parameters
    ----------
    channel : Channel
    step : Step
        Sent to every participant, who rebuilds the query from it.
    query : Query
        Only its name, length, bounds and schedule are used here.
    timeout_s : float
        For each of the five exchanges.
    only : frozenset of str, optional
        Parties to ask; the others count as dropped out. For exact sums, which must all be over the same survivors.
    progress : callable (step id, phase), optional
    journal : SumJournal, optional
        Where this sum is written down phase by phase, and from where it goes on if it was begun before.
    approval_timeout_s : float
        How long to ask again where a person has yet to approve.
    recall : bool
        Whether to ask parties what they have seen of each other's ledgers, and tell each: once in a coordinator's life
        is enough to find a ledger that was rolled back meanwhile.
    ended : sequence of str
        Earlier runs that will not be gone on with, at most ``MAX_ENDED``: parties forget what they keep of their sums.

    Returns
    -------
    Total, StepRecord

    Raises
    ------
    RefusedError
        A party's policy or budget refused before anything was computed; or too few survive.
    PendingError
        Somebody has not approved within ``approval_timeout_s``; asking for the same step again is right.
    BlindsightError
        A party refused for another reason before anything was computed.

    Privacy
    -------
    With ``query.parties`` below 1 a random part of the parties is asked, at least the threshold. Each party's ledger
    is charged for the rounds that it takes part in, in full: no amplification by sampling is claimed, because the
    coordinator, from whom the noise protects, draws the sample and sees it, and so do the parties.
    """
    started = time.monotonic()
    sent, received = channel.traffic.sent_bytes, channel.traffic.received_bytes
    event = event_of(step, query)
    begin = Begin(step, recall and is_masked(query), list(ended))
    run = _Exchanges(channel, begin, query, timeout_s, progress, journal, approval_timeout_s)
    if is_masked(query):
        values, survivors, dropped = _masked(run, only)
    else:
        values, survivors, dropped = _in_the_clear(run, event)
    record = StepRecord(
        step=step.step,
        purpose=step.purpose,
        length=query.length,
        participants=[name for name, _ in step.participants],
        survivors=survivors,
        dropped=dropped,
        sent_bytes=channel.traffic.sent_bytes - sent,
        received_bytes=channel.traffic.received_bytes - received,
        seconds=time.monotonic() - started,
        event=event_json(event),
        asked=sorted(run.asked),
        notices=run.notices,
        sums=step.sums if is_masked(query) else "clear",
    )
    # every survivor's noise is in the total, those beyond the threshold included
    variance = event.local_variance * (len(survivors) if is_masked(query) else 1)
    return Total(values=values, noise_variance=variance, parties=tuple(survivors)), record


class _Exchanges:
    """What one sum's exchanges with the parties have in common."""

    def __init__(
        self,
        channel: Channel,
        begin: Begin,
        query: Query,
        timeout_s: float,
        progress: Callable[[str, str], None] | None,
        journal: SumJournal | None,
        approval_timeout_s: float,
    ) -> None:
        self.channel, self.query, self.timeout_s, self.progress = channel, query, timeout_s, progress
        self.step, self.begin = begin.step, encode(begin)
        self.journal = journal
        self.approval_timeout_s = approval_timeout_s
        self.asked: set[str] = set(journal.asked) if journal is not None else set()
        self.reasons: dict[str, str] = {}
        self.notices: dict[str, str] = {}
        names = [name for name, _ in self.step.participants]
        self.relay = HeadRelay(names, b"" if journal is None else journal.ledgers)

    def ask(
        self, requests: Mapping[str, bytes], phase: str, *, stop_at: type[BlindsightError] | None
    ) -> dict[str, bytes]:
        """One exchange: the bodies of those who answered properly; why the others did not is kept.

        A refusal of the kind ``stop_at`` ends the run; but where a person has yet to approve, the same is asked again.
        """
        if self.progress is not None:
            self.progress(self.step.step, phase)
        self.asked |= set(requests)
        if self.journal is not None:
            self.journal.ask(self.asked)
        bodies, waiting = self._ask_once(requests, stop_at)
        deadline, pause_s = time.monotonic() + self.approval_timeout_s, FIRST_PAUSE_S
        while waiting:
            names = ", ".join(sorted(waiting))
            if (left_s := deadline - time.monotonic()) <= 0:
                raise PendingError(
                    f"The run waits for approval at {names}",
                    got="; ".join(self.reasons[name] for name in sorted(waiting)),
                    rule=f"approval_timeout_s = {self.approval_timeout_s:g}",
                    fix="have it approved there, then run it again",
                )
            if self.progress is not None:
                self.progress(self.step.step, f"waits for approval at {names}")
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            more, waiting = self._ask_once({name: requests[name] for name in waiting}, stop_at)
            bodies |= more
        return bodies

    def _ask_once(
        self, requests: Mapping[str, bytes], stop_at: type[BlindsightError] | None
    ) -> tuple[dict[str, bytes], set[str]]:
        """The bodies of those who answered, and the names of those where a person has yet to approve."""
        bodies: dict[str, bytes] = {}
        waiting: set[str] = set()
        for name, data in self.channel.exchange(requests, self.timeout_s).items():
            if name not in requests:
                continue
            try:
                answer = decode_reply(data)
            except ProtocolError as error:
                self.reasons[name] = str(error)
                continue
            if isinstance(answer, Reply):
                bodies[name] = answer.body
                self.relay.take(name, answer.ledgers)
                if answer.notice and self.step.privacy is None and isinstance(self.query, UpdateQuery):
                    self.notices[name] = printable(answer.notice)
            elif isinstance(answer, Refusal):
                refusal = answer.error(name)
                # while a person makes up their mind the same comes again and again: told once
                known = isinstance(refusal, PendingError) and self.reasons.get(name) == str(refusal)
                log.log(logging.DEBUG if known else logging.WARNING, "%s", refusal)
                self.reasons[name] = str(refusal)
                if stop_at is not None and isinstance(refusal, PendingError):
                    waiting.add(name)
                elif stop_at is not None and isinstance(refusal, stop_at):
                    raise refusal
            else:
                self.reasons[name] = "answered with a greeting"
        return bodies, waiting

    def sample(self, least: int) -> tuple[list[str], list[str]]:
        """Whom to ask, and who may take the place of those who do not answer, in random order."""
        names = [name for name, _ in self.step.participants]
        part = self.query.parties if isinstance(self.query, UpdateQuery) else 1.0
        if part >= 1.0:
            return names, []
        secrets.SystemRandom().shuffle(names)
        size = max(least, math.ceil(part * len(names)))
        return sorted(names[:size]), names[size:]


def _masked(run: _Exchanges, only: frozenset[str] | None) -> tuple[Ints, list[str], dict[str, str]]:
    step, query, journal = run.step, run.query, run.journal
    spec = spec_of(step, query)
    kept = b"" if journal is None else journal.state
    server = load_server(kept, spec=spec) if kept else make_server(spec)
    while server.phase is not Phase.DONE:
        if server.phase is Phase.ADVERTISE:
            _advertise(run, server, only)
        else:
            requests = {
                name: encode(Continue(step.release_id, body, beside(run.relay, server.phase, name)))
                for name, body in server.requests().items()
            }
            if only is not None:
                requests = {name: request for name, request in requests.items() if name in only}
            # nothing is charged before the vectors are asked for: a ledger that is an old copy stops the run here
            stop_at = ReleaseError if server.phase is Phase.SHARE else None
            for name, body in run.ask(requests, server.phase.label, stop_at=stop_at).items():
                server.receive(name, body)
        absent = sorted((only or frozenset()) & set(server.waiting)) if server.phase <= Phase.MASK else []
        if absent:
            raise _with_reasons(
                SurvivorsError(
                    "This exact total would be over other parties than an earlier one",
                    got=f"{', '.join(absent)} did not answer ({server.phase.label})",
                    rule="exact totals over different sets of parties can be solved for single parties",
                    fix="run again when the same parties take part, or ask for differential privacy",
                ),
                run.reasons,
            )
        try:
            server.close_phase()
        except BlindsightError as error:
            raise _with_reasons(error, run.reasons) from error
        if journal is not None:
            journal.keep(server.dump(), run.relay.dump())
    dropped = {
        name: f"{gone.phase.label}: {run.reasons.get(name, gone.reason)}"
        for name, gone in server.dropped.items()
        if name in run.asked or _asks_all(query)
    }
    return server.result(), list(server.survivors), dropped


def beside(relay: HeadRelay, phase: Phase, name: str) -> Ledgers | None:
    """What a party is told of ledgers with the request of a phase."""
    match phase:
        case Phase.SHARE:
            return relay.recalled(name)
        case Phase.MASK:
            return relay.heads()
        case Phase.CONFIRM:
            return relay.signatures(name)
    return None


def _advertise(run: _Exchanges, server: PhasedServer, only: frozenset[str] | None) -> None:
    """The first exchange: nothing is computed or charged in it, and whoever refuses stops the run."""
    chosen, reserve = run.sample(server.spec.min_survivors)
    if only is not None:
        chosen = [name for name in chosen if name in only]
    while chosen:
        for name, body in run.ask(
            dict.fromkeys(chosen, run.begin), Phase.ADVERTISE.label, stop_at=BlindsightError
        ).items():
            server.receive(name, body)
        missing = len(set(chosen) & set(server.waiting))
        chosen, reserve = reserve[:missing], reserve[missing:]


def _asks_all(query: Query) -> bool:
    """Whether a party that was not asked is missing."""
    return not isinstance(query, UpdateQuery) or query.parties >= 1.0


def _in_the_clear(run: _Exchanges, event: Event) -> tuple[Ints, list[str], dict[str, str]]:
    """One exchange: every party's vector, checked against the bound that the query states and refused by name."""
    step, query = run.step, run.query
    least = max(step.threshold, 3)
    chosen, reserve = run.sample(least)
    rows: dict[str, Ints] = {}
    dropped: dict[str, str] = {}
    label = Phase.MASK.label
    while chosen:
        # a rule that says no stops the run; a party that could not compute is left out
        for name, body in run.ask(dict.fromkeys(chosen, run.begin), label, stop_at=RefusedError).items():
            try:
                rows[name] = _row(query, event, body)
            except WireError as error:
                run.reasons[name] = f"{name}: {error}"
                log.warning("%s is left out of %s: %s", name, query.name, error)
        missing = [name for name in chosen if name not in rows]
        dropped |= {name: f"{label}: {run.reasons.get(name, 'did not answer')}" for name in missing}
        chosen, reserve = reserve[: len(missing)], reserve[len(missing) :]
    if len(rows) < least:
        raise _with_reasons(
            SurvivorsError(
                "Too few parties remain", got=f"{len(rows)} of {len(step.participants)}", rule=f"at least {least}"
            ),
            run.reasons,
        )
    survivors = sorted(rows)
    return np.stack([rows[name] for name in survivors]), survivors, dropped


def _row(query: Query, event: Event, body: bytes) -> Ints:
    """Read one party's vector from untrusted bytes."""
    if len(body) != 8 * query.length:
        raise WireError("An update has another length", got=f"{len(body)} bytes", rule=f"{8 * query.length}")
    values = np.frombuffer(body, dtype="<i8").astype(np.int64)
    allowed = query.max_abs + (noise_max_abs(event.local_variance) if event.local_variance > 0 else 0)
    largest = max(int(values.max()), -int(values.min()))
    if largest > allowed:
        raise WireError("An update is beyond its bound", got=str(largest), rule=f"at most {allowed} in a coordinate")
    return values


def event_json(event: Event) -> dict[str, object]:
    """Plain values of a ledger event, with its guarantee in words."""
    value: dict[str, object] = json.loads(event.to_json())
    value["guarantee"] = event.guarantee
    return value


def _with_reasons(error: BlindsightError, reasons: dict[str, str]) -> BlindsightError:
    """Add what parties said to an error of the protocol, so that the first cause is in the message."""
    if not reasons or not isinstance(error, RefusedError | ParameterError | ProtocolError):
        return error
    told = "; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items()))
    got = f"{error.got}. Parties said: {told}" if error.got else f"Parties said: {told}"
    return type(error)(error.what, got=got, rule=error.rule, fix=error.fix)
