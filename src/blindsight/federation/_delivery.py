"""A delivered model on its way into the party's folder: checked against its run, then kept once."""

from __future__ import annotations

import hashlib

from blindsight.errors import PolicyError

from ._jobs import Jobs
from ._own import Own
from ._received import check_delivered, content_digest
from ._rules import Asker
from ._shelf import ModelShelf
from ._wire import Deliver, Kept
from .kits._dates import now_utc

__all__ = ["keep_delivered"]


def keep_delivered(message: Deliver, asker: Asker | None, *, own: Own, jobs: Jobs, shelf: ModelShelf | None) -> Kept:
    """Check a delivered model against what is known of its run, and keep it; the same one again changes nothing.

    Raises
    ------
    PolicyError
        There is no shelf, or the policy says no.
    BlindsightError
        As :func:`check_delivered`.
    """
    if shelf is None:
        raise PolicyError("This party keeps no delivered models", fix="give it a folder: Party(..., models=...)")
    model, took = check_delivered(
        message,
        name=own.name,
        schema=own.schema,
        policy=own.policy,
        job=jobs.get(message.run),
        store=own.store,
        charged={entry.release_id: entry for ledger in own.ledgers.values() for entry in ledger.entries()},
    )
    sha256, content = hashlib.sha256(message.model).hexdigest(), content_digest(model)
    kept = shelf.find(message.run, content)
    if kept is None:
        who = asker.name if asker is not None else None
        own.note("model", run=message.run, detector=model.name, sha256=sha256, took=took, asker=who)
        kept = shelf.keep(
            message.model,
            run=message.run,
            detector=model.name,
            sha256=sha256,
            content=content,
            received_utc=now_utc(),
            asker=who or "",
            took=took,
            most=own.policy.keep_models,
        )
    return Kept(kept.version, kept.sha256)
