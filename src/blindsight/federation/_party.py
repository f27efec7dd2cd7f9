"""A party: the data owner's side of every sum. It answers bytes with bytes and enforces its own policy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Literal

from blindsight._version import __version__
from blindsight.data import Schema
from blindsight.errors import BlindsightError, ParameterError, PendingError
from blindsight.keys import Identity
from blindsight.privacy import Budget, Ledger, NoiseSource, Unit
from blindsight.store import Store

from ._answers import Answers
from ._audit import AuditLog
from ._breakdown import Breakdown, kept_breakdowns
from ._delivery import keep_delivered
from ._exact import ExactTotals
from ._following import Participants
from ._forgotten import Forgetting, Forgotten, check_person, count_rows, free_models
from ._gate import Gate
from ._heads import Heads
from ._jobs import Job, Jobs
from ._ledger_export import export_ledgers
from ._own import Own
from ._policy import Policy
from ._releases import Releases
from ._rules import Asker, check_asker
from ._shelf import ModelShelf
from ._sums import Sums
from ._wire import Begin, Continue, Deliver, Greeting, Hello, Kept, Refusal, decode_request, encode
from .kits import ParticipantList
from .kits._dates import now_utc

__all__ = ["Party"]

log = logging.getLogger(__name__)


class Party:
    """One data owner: its records, identity, policy and ledger.

    Parameters
    ----------
    name : str
    data : table, array or path
        The records that ``fit`` and ``describe`` may sum. Never leaves this object but inside a masked sum.
    schema : Schema
    identity : Identity
        Long-term Ed25519 key.
    policy : Policy
    store : Store
        Holds ledger, releases and protocol state. What is in it survives this process.
    evaluation : table, array or path, optional
        Labelled records for ``evaluate``; the training data if absent.
    noise_source : NoiseSource, optional
        The system's randomness unless a test injects another.
    clock : callable () -> datetime, optional
        The time, aware; asked for the policy's hours and for how long approvals are good.
    audit : AuditLog, optional
        Where every admission, refusal and release is written; what cannot be written does not happen.
    policy_source : callable () -> Policy, optional
        Asked before every message, so that an edited policy holds at once. Where it raises, everything is refused.
    models : ModelShelf, optional
        Where delivered models are kept; without it they are refused.

    Attributes
    ----------
    jobs : Jobs
        What every run asked for, and who approved it.
    heads : Heads
        Where its ledgers stand, and what it has seen of the others'.
    last_error : BlindsightError or None
        Why the last request was refused, with everything that the coordinator is not told.

    Security
    --------
    :meth:`handle` takes bytes from an untrusted coordinator: parsed strictly, checked against participant list,
    schema, policy, budget and earlier releases before any record is read. State is committed before a reply
    leaves, so that killing the process at any point neither loses a charge nor makes a second one.
    """

    def __init__(
        self,
        *,
        name: str,
        data: object,
        schema: Schema,
        identity: Identity,
        policy: Policy,
        store: Store,
        evaluation: object = None,
        noise_source: NoiseSource | None = None,
        clock: Callable[[], datetime] | None = None,
        audit: AuditLog | None = None,
        policy_source: Callable[[], Policy] | None = None,
        models: ModelShelf | None = None,
    ) -> None:
        self._own = Own(
            name=name,
            schema=schema,
            identity=identity,
            store=store,
            policy=policy,
            noise_source=noise_source,
            clock=clock,
            audit=audit,
            policy_source=policy_source,
        )
        self.set_data("training", data)
        self.set_data("evaluation", evaluation)
        self.models = models
        self.jobs = Jobs(store, name, identity.public.raw.hex())
        self.heads = Heads(store, name, identity)
        self._participants = Participants(store, name, identity.public.raw)
        self._exact = ExactTotals(store)
        self._forgotten = Forgotten(store)
        self._sums = Sums(store)
        self._releases = Releases(
            self._own, jobs=self.jobs, sums=self._sums, exact=self._exact, forgotten=self._forgotten
        )
        self._answers = Answers(
            self._own,
            gate=Gate(self._own, self._participants, self.jobs),
            releases=self._releases,
            sums=self._sums,
            heads=self.heads,
            jobs=self.jobs,
            exact=self._exact,
        )
        self._lock = threading.Lock()
        self.last_error: BlindsightError | None = None

    @property
    def name(self) -> str:
        """As on the participant list."""
        return self._own.name

    @property
    def schema(self) -> Schema:
        """Common to all parties."""
        return self._own.schema

    @property
    def policy(self) -> Policy:
        """What holds now."""
        return self._own.policy

    @property
    def ledgers(self) -> Mapping[Unit, Ledger]:
        """By the privacy unit that each of them counts."""
        return self._own.ledgers

    @property
    def public_key(self) -> bytes:
        """Raw Ed25519 public key, 32 bytes."""
        return self._own.identity.public.raw

    def set_data(self, dataset: str, source: object) -> None:
        """Replace the records of ``"training"`` or ``"evaluation"``: a new data version."""
        self._own.sources[dataset] = source

    def own_figures(self) -> list[Breakdown]:
        """What this party measured of each model that it was asked to evaluate, on its own records; by run.

        Privacy
        -------
        Exact, and for this party's eyes: no message holds them.

        Raises
        ------
        FormatError
            What was kept is malformed.
        """
        return kept_breakdowns(self._own.store)

    def use_policy(self, policy: Policy) -> None:
        """Enforce another policy from the next message on."""
        self._own.use_policy(policy)

    def pin(self, participants: list[tuple[str, bytes]]) -> None:
        """Fix the participant list that this party accepts: names and public keys, sorted by name.

        Raises
        ------
        AuthenticationError
            Another list is pinned already, or this party is not on the list with its own key.
        """
        self._participants.pin(participants)

    def follow(self, listing: ParticipantList, *, fingerprint: str | None = None) -> bool:
        """Accept a participant list that the federation's key signed; return whether it is new here.

        Parameters
        ----------
        listing : ParticipantList
        fingerprint : str, optional
            Of the federation's key, as it was heard by telephone.

        Raises
        ------
        AuthenticationError
            It is by another key than the one that is pinned, or older than the present list, or does not hold this
            party with its own key. The present list is as it was.

        Security
        --------
        New sums are over the new list's parties. A sum that was begun goes on where the new list only adds parties;
        where it takes somebody off, or gives somebody another key, it is refused. Exact totals stay bound to the
        survivors of the first one, whatever the list says.
        """
        changed = self._participants.follow(listing, fingerprint=fingerprint)
        if changed:
            self._own.note(
                "list", serial=listing.serial, key=listing.fingerprint, parties=[p.name for p in listing.parties]
            )
        return changed

    @property
    def audit(self) -> AuditLog | None:
        """The audit log; None where there is no folder for one."""
        return self._own.audit

    @property
    def listing(self) -> ParticipantList | None:
        """The signed participant list that was accepted last; None where an unsigned one is pinned."""
        return self._participants.listing

    def decide(
        self,
        job: str,
        decision: Literal["approve", "refuse"],
        *,
        approver: str,
        identity: Identity | None = None,
        note: str = "",
    ) -> Job:
        """Put a person's signed word under a job, and into the audit log; see :meth:`Jobs.decide`.

        Parameters
        ----------
        job : str
        decision : {"approve", "refuse"}
        approver : str
            As the policy's ``approvers`` name them.
        identity : Identity, optional
            The approver's; the party's own where the policy names nobody.
        note : str

        Raises
        ------
        ParameterError, AuthenticationError
        """
        decided = self.jobs.decide(
            job,
            decision,
            approver=approver,
            identity=identity if identity is not None else self._own.identity,
            approvers=self.policy.approvers,
            note=note,
            hours=self.policy.approval_hours,
            now=self._own.now(),
        )
        kind = "approved" if decision == "approve" else "declined"
        self._own.note(kind, job=decided.id, digest=decided.digest, approver=approver, note=note or None)
        return decided

    def write_off(self, *, anyway: bool = False) -> dict[Unit, float]:
        """Go on with an old copy of the ledger, where the newest one is lost: charge all that is left of its budget.

        What the lost lines had charged cannot be known, and never more than the budget: with all of it spent, no
        person is promised less than before. Exact sums end for good, since which ones were made is lost as well.

        Parameters
        ----------
        anyway : bool
            Also where nothing says here that a ledger is an old copy: all units, on its owner's word.

        Returns
        -------
        dict of unit to epsilon
            What was charged.

        Raises
        ------
        ParameterError
            No ledger is known to be an old copy.
        """
        lost = list(self.ledgers) if anyway else sorted(self.heads.lost())
        if not lost:
            raise ParameterError(
                f"No ledger of {self.name} is known here to be an old copy",
                rule="all that is left of the budget is charged, for good",
                fix="if others refuse this party because of it: --anyway",
            )
        charged: dict[Unit, float] = {}
        for unit in lost:
            budget = Budget(epsilon=self.policy.maximum_epsilon, delta=self.policy.delta, unit=unit)
            ledger = Ledger(self._own.store, budget, name=f"ledger.{unit}")
            self._own.note("written-off", unit=unit, count=ledger.position().count)
            charged[unit] = ledger.write_off("written off: an old copy of the ledger was put back")
        self._exact.end()
        return charged

    def forget(self, persons: Iterable[str], *, dry_run: bool = False) -> Forgetting:
        """Leave persons out of every later sum, and free the kept models of them where that is a subtraction.

        Parameters
        ----------
        persons : iterable of str
            Values of the person column, as text. Nothing of them is written but keyed marks.
        dry_run : bool
            Say what would be done, and do nothing.

        Returns
        -------
        Forgetting

        Raises
        ------
        SchemaError
            The schema has no person column.
        DataError
            A value cannot be one of that column; or the records cannot be read.

        Privacy
        -------
        No budget comes back, and models elsewhere still know the records. The rows themselves are their owner's to
        delete. After this, exact sums of these records are refused: the difference to an earlier one would be theirs.
        """
        column = check_person(self.schema)
        marks = self._forgotten.marks_of(column, persons)
        already = len(marks & self._forgotten.marks())
        rows = {
            dataset: count_rows(self.schema, self._forgotten.theirs(column, source, marks))
            for dataset, source in self._own.sources.items()
            if source is not None
        }
        if not dry_run:
            self._own.note("forgot", persons=len(marks), already=already, rows=rows)
            self._forgotten.add(marks, now_utc())
        models = [] if self.models is None else free_models(
            self.models,
            self._forgotten,
            marks,
            schema=self.schema,
            source=self._own.sources["training"],
            exact=self._exact,
            allowed=frozenset(self.policy.detectors),
            dry_run=dry_run,
        )  # fmt: skip
        for one in models:
            if one.became is not None:
                self._own.note(
                    "model", run=one.run, in_place_of=one.version, version=one.became, why="persons forgotten"
                )
        return Forgetting(persons=len(marks), already=already, rows=rows, models=tuple(models), dry_run=dry_run)

    def end_old_sums(self) -> None:
        """Forget the keys of sums that nobody has gone on with for a month; also done whenever a sum begins."""
        self._sums.end_old(self._own.now())

    def export_ledgers(self) -> bytes:
        """All lines of all ledgers, signed; see :func:`export_ledgers`."""
        return export_ledgers(self.name, self._own.identity, self.ledgers, self.heads)

    def handler(self, asker: Asker) -> Callable[[bytes], bytes]:
        """Return :meth:`handle` for requests of one asker, as a channel that authenticates it calls it."""
        return lambda request: self.handle(request, asker)

    def handle(self, request: bytes, asker: Asker | None = None) -> bytes:
        """Answer one request of the coordinator; never raises. One request at a time.

        Parameters
        ----------
        request : bytes
            Untrusted.
        asker : Asker, optional
            Who sent it, as the channel proved it.

        Returns
        -------
        bytes
            A greeting, a protocol message, or a refusal that holds no value of any record.
        """
        with self._lock:
            return self._handle(request, asker)

    def _handle(self, request: bytes, asker: Asker | None) -> bytes:
        before_data = True
        self.last_error = None
        self._releases.has_read = False
        self._about: str | None = None
        try:
            self._answers.forget_ended()  # by another process: a person who refuses, say
            message = decode_request(request)
            before_data = not isinstance(message, Continue)
            self._about = _about(message)
            if isinstance(message, Hello):
                return encode(Greeting(self.name, self.public_key, self.schema.digest(), __version__))
            self._own.reread_policy()
            check_asker(self.policy.askers, asker)
            if isinstance(message, Deliver):
                return encode(self._deliver(message, asker))
            if isinstance(message, Begin):
                return encode(self._answers.begin(message, asker))
            return encode(self._answers.proceed(message))
        except BlindsightError as error:
            self.last_error = error
            log.log(
                logging.INFO if isinstance(error, PendingError) else logging.WARNING, "%s refuses: %s", self.name, error
            )
            refusal = Refusal.of(error, before_data=before_data and not self._releases.has_read)
            if self._own.audit is not None and not isinstance(error, PendingError):
                # what crosses, hence nothing that may name a value
                self._own.audit.refused(
                    error=refusal.kind, what=refusal.what, rule=refusal.rule, about=self._about, asker=_named(asker)
                )
            return encode(refusal)
        except Exception as error:
            # whatever else goes wrong, no request may end this process, and no text of it may reach the coordinator
            log.exception("%s failed on a request", self.name)
            failure = Refusal(type(error).__name__[:64], "The party failed on this request")
            if self._own.audit is not None:
                self._own.audit.refused(error=failure.kind, what=failure.what, about=self._about, asker=_named(asker))
            return encode(failure)

    def _deliver(self, message: Deliver, asker: Asker | None) -> Kept:
        """Keep a delivered model; whoever delivers it has every total of its run."""
        kept = keep_delivered(message, asker, own=self._own, jobs=self.jobs, shelf=self.models)
        self._sums.end_runs(self.jobs.of(asker, [message.run]))
        self._answers.forget_ended()
        return kept


def _about(message: Hello | Begin | Continue | Deliver) -> str | None:
    """What a message is about, for the audit log."""
    match message:
        case Hello():
            return None
        case Continue():
            return message.release_id
        case Deliver():
            return message.run
        case Begin():
            return message.step.release_id


def _named(asker: Asker | None) -> str | None:
    return asker.name if asker is not None else None
