"""What a model's certificate says: what was released, at what cost, and who has to be trusted for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from blindsight.privacy import (
    ACCOUNTING_ERROR,
    MIN_LOCAL_VARIANCE,
    DifferentialPrivacy,
    Event,
    epsilon_of,
    sampler_delta,
    shown_epsilon,
)
from blindsight.securesum import names_shared_key

from ._run import RunRecord, StepRecord

__all__ = ["certificate_of", "epsilon_by_party", "event_from_record"]

SHARED = (
    " The parties shared one key: the coordinator and any one of them together open every party's vector, and {noise}."
)
UNMASKED = "masking was given up: the coordinator reads every party's update of every round by itself"


def certificate_of(record: RunRecord, privacy: DifferentialPrivacy | None, parties: Sequence[str]) -> dict[str, Any]:
    """Plain values for ``certificate_``.

    Parameters
    ----------
    record : RunRecord
        The run, with every sum that it released.
    privacy : DifferentialPrivacy or None
        As asked for.
    parties : sequence of str
        The participant list.
    """
    events = [event_from_record(step.event) for step in record.steps]
    spent = None if privacy is None else max(epsilon_by_party(record.steps, parties, privacy.delta).values())
    value: dict[str, Any] = {
        "differential_privacy": privacy is not None,
        "epsilon_asked": None,
        "epsilon_spent": None,
        "delta": None,
        "unit": None,
        "max_records_per_person": None,
        "max_records_per_party": None,
        "neighbouring": events[0].neighbouring,
        "sampler_delta": None,
        "trust": record.trust,
        "statement": _statement(privacy, spent, record, events)
        + _shared_key(privacy, record)
        + _asked_and_spent(privacy, spent, events),
        "events": [step.event for step in record.steps],
    }
    if privacy is not None and spent is not None:
        value |= {
            "epsilon_asked": privacy.epsilon,
            "epsilon_spent": spent,
            "delta": privacy.delta,
            "unit": privacy.unit,
            "max_records_per_person": privacy.max_records_per_person,
            "max_records_per_party": privacy.max_records_per_party,
            "sampler_delta": sum(
                sampler_delta(
                    event.local_variance,
                    coordinates=event.coordinates,
                    parties=len(parties),
                    epsilon=_holds(privacy, spent),
                )
                for event in events
                if event.local_variance > 0
            ),
        }
    return value


def epsilon_by_party(steps: Sequence[StepRecord], parties: Sequence[str], delta: float) -> dict[str, float]:
    """What a run cost each party's units: the composition of the sums for which the party was asked.

    With client sampling these differ. A party that was asked and vanished counts as if it had been charged. The
    randomness of who was asked is not used: the coordinator draws it and sees it, and so do the parties.
    """
    asked: dict[tuple[int, ...], float] = {}
    result = {}
    for name in parties:
        mine = tuple(i for i, step in enumerate(steps) if name in (step.asked or step.participants))
        if mine not in asked:
            asked[mine] = epsilon_of([event_from_record(steps[i].event) for i in mine], delta)
        result[name] = asked[mine]
    return result


def event_from_record(value: Mapping[str, Any]) -> Event:
    """The ledger event of a step's record."""
    return Event.from_json(json.dumps({k: v for k, v in value.items() if k != "guarantee"}).encode())


def _holds(privacy: DifferentialPrivacy, spent: float) -> float:
    """The epsilon that the run keeps: the one asked for, or the one spent where the detector's sums took more of it.

    A third party's detector states for each of its sums which part of the budget it takes; every ledger is charged
    for the sum as executed, and nothing says that these parts add up to one.
    """
    return privacy.epsilon if spent <= privacy.epsilon * (1.0 + ACCOUNTING_ERROR) else spent


def _statement(
    privacy: DifferentialPrivacy | None, spent: float | None, record: RunRecord, events: Sequence[Event]
) -> str:
    if privacy is None or spent is None:
        return (
            "Exact sums, no differential privacy: the totals themselves are released, and a count of one says that "
            f"somebody is there. {record.trust}."
        )
    return (
        f"Adding or removing {_who(privacy)} changes the probability of anything released in this run by at most a "
        f"factor e^{shown_epsilon(spent)}, up to a probability of {privacy.delta:g}, "
        f"whoever sees {'the updates and totals' if UNMASKED in record.trust else 'the totals'}"
        f"{_as_long_as(privacy, events)}. "
        f"{_not_covered(privacy)}"
    )


def _shared_key(privacy: DifferentialPrivacy | None, record: RunRecord) -> str:
    """What the statement adds where sums were encrypted under a key that all parties hold."""
    if not names_shared_key(record.trust):
        return ""
    if privacy is None:
        noise = "no noise protects there"
    elif privacy.trust == "local":
        noise = "each party's own noise keeps epsilon even there"
    else:
        noise = "epsilon does not hold there"
    return SHARED.format(noise=noise)


def _asked_and_spent(privacy: DifferentialPrivacy | None, spent: float | None, events: Sequence[Event]) -> str:
    if privacy is None or spent is None:
        return ""
    purposes = ", ".join(dict.fromkeys(event.purpose for event in events))
    if _holds(privacy, spent) > privacy.epsilon:
        return (
            f" This run ({purposes}) spent {shown_epsilon(spent)}, more than the epsilon {privacy.epsilon:g} asked "
            "for: the sums of this detector together take more than their share of the budget."
        )
    text = f" Of the epsilon {privacy.epsilon:g} asked for, this run ({purposes}) spent {shown_epsilon(spent)}."
    if any(0 < event.local_variance <= MIN_LOCAL_VARIANCE for event in events):
        text += (
            f" It could not spend more: no party draws noise of a variance below {MIN_LOCAL_VARIANCE:g}, "
            "and this protects more than was asked for."
        )
    return text


def _who(privacy: DifferentialPrivacy) -> str:
    if privacy.unit == "record":
        return "one record"
    if privacy.unit == "person":
        return f"all records of one person at one party (at most {privacy.max_records_per_person} of them are used)"
    return (
        "all that one party adds (of its records at most "
        f"{privacy.max_records_per_party} are used in a sum over records; its updates are bounded as a whole)"
    )


def _as_long_as(privacy: DifferentialPrivacy, events: Sequence[Event]) -> str:
    parts = []
    if any(event.mechanism == "distributed-discrete-gaussian" for event in events):
        noise = (
            "every surviving party adds its noise and keeps it to itself; against a party, which knows its own noise, "
            "it does not hold"
            if privacy.colluders == 0
            else f"all but {privacy.colluders} of the surviving parties add their noise and keep it to themselves; "
            f"against whoever knows the noise of more than {privacy.colluders} of them it does not hold"
        )
        parts.append(f", as long as {noise}")
    if any(event.mechanism == "local-discrete-gaussian" for event in events):
        parts.append("; each party's own noise is enough, and neither the other parties nor the masking is trusted")
    if any(event.sampled for event in events):
        parts.append(
            "; in the rounds of training each party's own noise in its gradients (DP-SGD) is enough, "
            "and that noise is floating point"
        )
    return "".join(parts)


def _not_covered(privacy: DifferentialPrivacy) -> str:
    if privacy.unit == "party":
        return "That a party took part is public. It does not cover what parties have in common."
    return "It does not cover what records have in common, nor a person known to several parties beyond one of them."
