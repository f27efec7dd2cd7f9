"""What a party asks of a model that is delivered to it, before it keeps a byte of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from blindsight import modelfile
from blindsight.data import Schema
from blindsight.detectors import Detector, detector_from_json, detector_to_json
from blindsight.errors import PolicyError, ReleaseError, SchemaError, WireError
from blindsight.privacy import ACCOUNTING_ERROR, LedgerEntry, epsilon_of
from blindsight.store import Store

from ._certificate import event_from_record
from ._jobs import Job
from ._policy import Policy
from ._shelf import Took
from ._wire import Deliver, Step

__all__ = ["check_delivered", "content_digest", "keep_survivors"]

SURVIVORS = "survivors"
THRESHOLD = "threshold"


def keep_survivors(store: Store, release_id: str, survivors: tuple[str, ...]) -> None:
    """Remember which survivor set this party signed for a release."""
    store.table(SURVIVORS).put(release_id, msgspec.msgpack.encode(list(survivors)))


def content_digest(model: Detector) -> str:
    """SHA-256 of a model without the time at which it was made."""
    provenance = model.provenance_
    try:
        model.provenance_ = {**(provenance or {}), "created_utc": ""}
        return hashlib.sha256(modelfile.dumps(model)).hexdigest()
    finally:
        model.provenance_ = provenance


def check_delivered(
    message: Deliver,
    *,
    name: str,
    schema: Schema,
    policy: Policy,
    job: Job | None,
    store: Store,
    charged: Mapping[str, LedgerEntry],
) -> tuple[Detector, Took]:
    """Read a delivered model and hold it against what this party knows of its run.

    Parameters
    ----------
    message : Deliver
        Untrusted.
    name : str
        This party's.
    job : Job or None
        The run's, as it was admitted here.
    store : Store
        The party's: the steps that it began and the survivor sets that it signed.
    charged : mapping of release id to LedgerEntry
        Of all ledgers.

    Returns
    -------
    Detector, {"survivor", "known"}
        The model; whether this party's records are in its totals.

    Raises
    ------
    PolicyError
        The policy keeps no models, does not allow the detector, or the run was refused here.
    FormatError
        Malformed.
    SchemaError
        Another schema.
    ReleaseError
        No run of this party's, or not the model that the run's sums lead to.

    Security
    --------
    Where the party was asked for the last sum, everything but the score histogram must be bit for bit what that sum's
    request carried. The histogram, and totals of sums that this party was not asked for, are on the coordinator's word:
    no party can check a total that only the others made. A model that passes is data: nothing in it is executed.
    """
    if policy.keep_models == 0:
        raise PolicyError("The policy keeps no delivered models", rule="keep_models = 0")
    if job is None or job.purpose != "fit" or job.state not in ("running", "done"):
        raise ReleaseError(
            "The model is of a run that this party does not know",
            got=message.run[:64],
            rule="a fit that was admitted here",
            fix="deliver it to the parties that were asked for it",
        )
    model = modelfile.loads(message.model, allowed=frozenset(policy.detectors))
    for one in (model, getattr(model, "teacher_", None)):
        if one is not None and one.name not in policy.detectors:
            raise PolicyError(
                f"The policy does not allow the detector '{one.name}'",
                rule="detectors = " + ", ".join(policy.detectors),
            )
    if model.schema_.digest() != schema.digest():
        raise SchemaError(
            "The model was fitted under another schema",
            got=model.schema_.digest()[:12],
            rule=f"this party's schema is {schema.digest()[:12]}",
        )
    if model.next_query() is not None:
        raise WireError("The model is not fitted", got="a fit in progress", rule="the model that a run has released")
    described = detector_to_json(detector_from_json(job.detector, allowed=frozenset(policy.detectors)))
    if detector_to_json(model) != described:
        raise _other("its detector or parameters", job.id)
    survivors = _survivors(model, message, job)
    events = {str(event.get("query")): event for event in _events(model, job.id)}
    if set(survivors) != set(events):
        raise _other("certificate and provenance name different sums", job.id)
    spent = []
    for step, names in survivors.items():
        release = f"{job.id}/{step}"
        signed = store.table(SURVIVORS).get(release)
        if signed is not None and sorted(msgspec.msgpack.decode(signed, type=list[str])) != sorted(names):
            raise _other(f"the survivors of '{step}'", job.id)
        entry = charged.get(release)
        if name in names and entry is None:
            raise _other(f"it claims this party's records in '{step}', which were never charged", job.id)
        if entry is not None:
            spent.append(entry.event)
            if event_from_record(events[step]) != entry.event:
                raise _other(f"its certificate's cost of '{step}'", job.id)
    _check_cost(model, job, spent)
    _check_totals(model, job, store, policy)
    return model, "survivor" if any(name in names for names in survivors.values()) else "known"


def _survivors(model: Detector, message: Deliver, job: Job) -> dict[str, list[str]]:
    """Who is in each sum, as the model's provenance says."""
    provenance: Mapping[str, Any] = model.provenance_ or {}
    survivors = provenance.get("survivors")
    if provenance.get("run") != message.run or provenance.get("federation") != job.federation:
        raise _other("its provenance names another run", job.id)
    if provenance.get("parties") != job.participants:
        raise _other("its provenance names other parties", job.id)
    if not isinstance(survivors, dict) or not survivors or not all(
        isinstance(names, list) and set(map(str, names)) <= set(job.participants) for names in survivors.values()
    ):  # fmt: skip
        raise _other("its provenance does not say who is in its sums", job.id)
    return {str(step): [str(name) for name in names] for step, names in survivors.items()}


def _events(model: Detector, run: str) -> list[dict[str, Any]]:
    events = (model.certificate_ or {}).get("events")
    if not isinstance(events, list) or not events or not all(isinstance(event, dict) for event in events):
        raise _other("it has no certificate of its sums", run)
    return events


def _check_cost(model: Detector, job: Job, spent: list[Any]) -> None:
    """The certificate must not state less than what was charged here."""
    certificate = model.certificate_ or {}
    if certificate.get("differential_privacy") is not (job.privacy is not None):
        raise _other("its certificate's privacy", job.id)
    if job.privacy is None:
        return
    stated, delta, unit = (certificate.get(key) for key in ("epsilon_spent", "delta", "unit"))
    least = epsilon_of(spent, job.privacy.delta) if spent else 0.0
    if (delta, unit) != (job.privacy.delta, job.privacy.unit) or not isinstance(stated, float) or (
        stated * (1.0 + ACCOUNTING_ERROR) < least
    ):  # fmt: skip
        raise _other(f"its certificate states less than the epsilon {least:.4g} that was charged here", job.id)


def _check_totals(model: Detector, job: Job, store: Store, policy: Policy) -> None:
    """All but the score histogram must be what the last sum's request carried, if this party has seen it."""
    encoded = store.table("steps").get(f"{job.id}/{THRESHOLD}")
    if encoded is None:
        return
    step = msgspec.msgpack.decode(encoded, type=Step)
    if step.model is None:
        return
    before, after = modelfile.loads(step.model, allowed=frozenset(policy.detectors)).dump(), model.dump()
    same = all(after.values.get(key) == value for key, value in before.values.items()) and all(
        key in after.arrays and np.array_equal(after.arrays[key], array) for key, array in before.arrays.items()
    )
    extra = set(after.values) - set(before.values) | set(after.arrays) - set(before.arrays)
    if not same or extra - {"histogram_noise_variance", "score_edges", "score_counts"}:
        raise _other("its totals are not those that the last sum was asked over", job.id)


def _other(got: str, run: str) -> ReleaseError:
    return ReleaseError(
        f"The model is not the one that run {run} has released",
        got=got,
        rule="run, survivors, certificate and totals are those that this party has seen",
        fix="deliver the model file as the run wrote it",
    )
