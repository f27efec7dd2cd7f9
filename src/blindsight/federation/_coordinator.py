"""Drive one private sum over a channel: five exchanges, whoever answers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

from blindsight.channels import Channel
from blindsight.detectors import SumQuery, Total
from blindsight.errors import BlindsightError, ParameterError, ProtocolError, RefusedError, SurvivorsError
from blindsight.privacy import Event
from blindsight.securesum import Phase, SumServer

from ._run import StepRecord
from ._steps import event_of, spec_of
from ._wire import Begin, Continue, Refusal, Reply, Step, decode_reply, encode

__all__ = ["private_total"]

log = logging.getLogger(__name__)


def private_total(
    channel: Channel,
    step: Step,
    query: SumQuery,
    *,
    timeout_s: float,
    only: frozenset[str] | None = None,
    progress: Callable[[str, str], None] | None = None,
) -> tuple[Total, StepRecord]:
    """Open the total of ``query`` over the parties that survive.

    Parameters
    ----------
    channel : Channel
    step : Step
        Sent to every participant, who rebuilds the query from it.
    query : SumQuery
        Only its name, length and sensitivity are used here.
    timeout_s : float
        For each of the five exchanges.
    only : frozenset of str, optional
        Parties to ask; the others count as dropped out. For exact sums, which must all be over the same survivors.
    progress : callable (step id, phase), optional

    Returns
    -------
    Total, StepRecord

    Raises
    ------
    RefusedError
        A party's policy or budget refused before anything was computed; or too few survive.
    BlindsightError
        A party refused for another reason before anything was computed.
    """
    started = time.monotonic()
    sent, received = channel.traffic.sent_bytes, channel.traffic.received_bytes
    spec = spec_of(step, query)
    event = event_of(step, query)
    server = SumServer(spec)
    reasons: dict[str, str] = {}
    while server.phase is not Phase.DONE:
        phase = server.phase
        if progress is not None:
            progress(step.step, phase.label)
        if phase is Phase.ADVERTISE:
            requests = dict.fromkeys(spec.names, encode(Begin(step)))
        else:
            requests = {name: encode(Continue(step.release_id, body)) for name, body in server.requests().items()}
        if only is not None:
            requests = {name: request for name, request in requests.items() if name in only}
        for name, data in channel.exchange(requests, timeout_s).items():
            if name not in requests:
                continue
            try:
                answer = decode_reply(data)
            except ProtocolError as error:
                reasons[name] = str(error)
                continue
            if isinstance(answer, Reply):
                server.receive(name, answer.body)
            elif isinstance(answer, Refusal):
                refusal = answer.error(name)
                log.warning("%s", refusal)
                reasons[name] = str(refusal)
                if phase is Phase.ADVERTISE:
                    # nothing has been computed or charged yet: the whole run can stop here
                    raise refusal
            else:
                reasons[name] = "answered with a greeting"
        absent = sorted((only or frozenset()) & set(server.waiting)) if phase <= Phase.MASK else []
        if absent:
            raise _with_reasons(
                SurvivorsError(
                    "This exact total would be over other parties than an earlier one",
                    got=f"{', '.join(absent)} did not answer ({phase.label})",
                    rule="exact totals over different sets of parties can be solved for single parties",
                    fix="run again when the same parties take part, or ask for differential privacy",
                ),
                reasons,
            )
        try:
            server.close_phase()
        except BlindsightError as error:
            raise _with_reasons(error, reasons) from error
    survivors = list(server.survivors)
    # every survivor's noise is in the total, those beyond the threshold included
    variance = event.local_variance * len(survivors)
    record = StepRecord(
        step=step.step,
        purpose=step.purpose,
        length=query.length,
        participants=list(spec.names),
        survivors=survivors,
        dropped={
            name: f"{gone.phase.label}: {reasons.get(name, gone.reason)}" for name, gone in server.dropped.items()
        },
        sent_bytes=channel.traffic.sent_bytes - sent,
        received_bytes=channel.traffic.received_bytes - received,
        seconds=time.monotonic() - started,
        event=event_json(event),
    )
    return Total(values=server.result(), noise_variance=variance), record


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
