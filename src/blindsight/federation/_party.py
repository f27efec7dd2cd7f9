"""A party: the data owner's side of every sum. It answers bytes with bytes and enforces its own policy."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from blindsight._version import __version__
from blindsight.data import Schema
from blindsight.detectors import Query, UpdateQuery
from blindsight.errors import (
    BlindsightError,
    DataError,
    ParameterError,
    PendingError,
    PolicyError,
    ReleaseError,
    StoreError,
    WireError,
)
from blindsight.keys import Identity
from blindsight.privacy import (
    Budget,
    DifferentialPrivacy,
    Event,
    Ledger,
    NoiseSource,
    Unit,
    discrete_gaussian,
)
from blindsight.securesum import Phase, PhasedClient, SumSpec, load_client, make_client
from blindsight.store import Store

from ._admission import admitted, check_federation, check_participants, check_policy, columns_of
from ._audit import AuditLog
from ._breakdown import Breakdown, keep_own_figures, kept_breakdowns
from ._exact import ExactTotals, version_of
from ._following import Participants
from ._forgotten import Forgetting, Forgotten, check_person, count_rows, free_models
from ._heads import Heads
from ._jobs import Job, Jobs
from ._ledger_export import export_ledgers
from ._memory import RunMemory
from ._policy import Policy
from ._received import check_delivered, content_digest, keep_survivors
from ._rules import Asker, check_asker
from ._shelf import ModelShelf
from ._steps import (
    check_query,
    detector_name,
    event_of,
    is_masked,
    privacy_of,
    query_of,
    run_event_of,
    spec_of,
    step_digest,
)
from ._sums import Sums
from ._vector import check_first_rows, own_sum, own_update
from ._wire import (
    Begin,
    Continue,
    Deliver,
    Greeting,
    Hello,
    Kept,
    Ledgers,
    Refusal,
    Reply,
    Step,
    decode_request,
    encode,
)
from .kits import ParticipantList
from .kits._dates import now_utc

__all__ = ["Party"]

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

MAX_OPEN_SUMS = 8
"""Sums kept in memory; a coordinator that begins more makes the party read its disk, not fill its memory."""


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
        self.name = name
        self.schema = schema
        self._identity = identity
        self._store = store
        self._noise_source = noise_source
        self._sources: dict[str, object] = {}
        self.set_data("training", data)
        self.set_data("evaluation", evaluation)
        self._now = clock if clock is not None else lambda: datetime.now(UTC)
        self.use_policy(policy)
        self._audit = audit
        self._policy_source = policy_source
        self.models = models
        self._participants = Participants(store, name, identity.public.raw)
        self.jobs = Jobs(store, name, identity.public.raw.hex())
        self._sums = Sums(store)
        self._clients: dict[str, tuple[Step, Query, PhasedClient[Any]]] = {}
        self._memory = RunMemory(store)
        self._exact = ExactTotals(store)
        self.heads = Heads(store, name, identity)
        self._forgotten = Forgotten(store)
        self._left_out: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._reads_data = False  # whether the request at hand has come to the records: an error may name one then
        self.last_error: BlindsightError | None = None

    @property
    def public_key(self) -> bytes:
        """Raw Ed25519 public key, 32 bytes."""
        return self._identity.public.raw

    def set_data(self, dataset: str, source: object) -> None:
        """Replace the records of ``"training"`` or ``"evaluation"``: a new data version."""
        self._sources[dataset] = source

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
        return kept_breakdowns(self._store)

    def use_policy(self, policy: Policy) -> None:
        """Enforce another policy from the next message on."""
        self.policy = policy
        # costs per record and per person do not add up to one epsilon: each unit has an account of its own
        self.ledgers: Mapping[Unit, Ledger] = {
            unit: Ledger(
                self._store,
                Budget(epsilon=policy.maximum_epsilon, delta=policy.delta, unit=unit),
                name=f"ledger.{unit}",
            )
            for unit in policy.units
        }

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
            self._note(
                "list", serial=listing.serial, key=listing.fingerprint, parties=[p.name for p in listing.parties]
            )
        return changed

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
            identity=identity if identity is not None else self._identity,
            approvers=self.policy.approvers,
            note=note,
            hours=self.policy.approval_hours,
            now=self._now(),
        )
        kind = "approved" if decision == "approve" else "declined"
        self._note(kind, job=decided.id, digest=decided.digest, approver=approver, note=note or None)
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
            ledger = Ledger(self._store, budget, name=f"ledger.{unit}")
            self._note("written-off", unit=unit, count=ledger.position().count)
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
            for dataset, source in self._sources.items()
            if source is not None
        }
        if not dry_run:
            self._note("forgot", persons=len(marks), already=already, rows=rows)
            self._forgotten.add(marks, now_utc())
        models = [] if self.models is None else free_models(
            self.models,
            self._forgotten,
            marks,
            schema=self.schema,
            source=self._sources["training"],
            exact=self._exact,
            allowed=frozenset(self.policy.detectors),
            dry_run=dry_run,
        )  # fmt: skip
        for one in models:
            if one.became is not None:
                self._note("model", run=one.run, in_place_of=one.version, version=one.became, why="persons forgotten")
        return Forgetting(persons=len(marks), already=already, rows=rows, models=tuple(models), dry_run=dry_run)

    def end_old_sums(self) -> None:
        """Forget the keys of sums that nobody has gone on with for a month; also done whenever a sum begins."""
        self._sums.end_old(self._now())

    def export_ledgers(self) -> bytes:
        """All lines of all ledgers, signed; see :func:`export_ledgers`."""
        return export_ledgers(self.name, self._identity, self.ledgers, self.heads)

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
        self._reads_data = False
        self._about: str | None = None
        try:
            message = decode_request(request)
            before_data = not isinstance(message, Continue)
            self._about = _about(message)
            if isinstance(message, Hello):
                return encode(Greeting(self.name, self.public_key, self.schema.digest(), __version__))
            self._reread_policy()
            check_asker(self.policy.askers, asker)
            if isinstance(message, Deliver):
                return encode(self._deliver(message, asker))
            reply = self._begin(message, asker) if isinstance(message, Begin) else self._continue(message)
            return encode(reply)
        except BlindsightError as error:
            self.last_error = error
            log.log(
                logging.INFO if isinstance(error, PendingError) else logging.WARNING, "%s refuses: %s", self.name, error
            )
            refusal = Refusal.of(error, before_data=before_data and not self._reads_data)
            if self._audit is not None and not isinstance(error, PendingError):
                # what crosses, hence nothing that may name a value
                self._audit.refused(
                    error=refusal.kind, what=refusal.what, rule=refusal.rule, about=self._about, asker=_named(asker)
                )
            return encode(refusal)
        except Exception as error:
            # whatever else goes wrong, no request may end this process, and no text of it may reach the coordinator
            log.exception("%s failed on a request", self.name)
            failure = Refusal(type(error).__name__[:64], "The party failed on this request")
            if self._audit is not None:
                self._audit.refused(error=failure.kind, what=failure.what, about=self._about, asker=_named(asker))
            return encode(failure)

    def _reread_policy(self) -> None:
        """Take over a policy that was edited; refuse everything where it cannot be used."""
        if self._policy_source is None:
            return
        try:
            policy = self._policy_source()
        except BlindsightError as error:
            log.error("%s: %s", self.name, error)
            raise PolicyError(
                "This party's policy cannot be used, and lets nothing through", fix="its owner: blindsight preflight"
            ) from error
        if policy != self.policy:
            self.use_policy(policy)
            self._note("policy", digest=hashlib.sha256(policy.to_toml().encode()).hexdigest())

    # -- a model ------------------------------------------------------------------------------------------------

    def _deliver(self, message: Deliver, asker: Asker | None) -> Kept:
        """Check a delivered model against what is known of its run, and keep it."""
        if self.models is None:
            raise PolicyError("This party keeps no delivered models", fix="give it a folder: Party(..., models=...)")
        model, took = check_delivered(
            message,
            name=self.name,
            schema=self.schema,
            policy=self.policy,
            job=self.jobs.get(message.run),
            store=self._store,
            charged={entry.release_id: entry for ledger in self.ledgers.values() for entry in ledger.entries()},
        )
        sha256, content = hashlib.sha256(message.model).hexdigest(), content_digest(model)
        kept = self.models.find(message.run, content)
        if kept is None:
            self._note("model", run=message.run, detector=model.name, sha256=sha256, took=took, asker=_named(asker))
            kept = self.models.keep(
                message.model,
                run=message.run,
                detector=model.name,
                sha256=sha256,
                content=content,
                received_utc=now_utc(),
                asker=_named(asker) or "",
                took=took,
                most=self.policy.keep_models,
            )
        self._sums.end_runs(self.jobs.of(asker, [message.run]))
        self._forget_ended()
        return Kept(kept.version, kept.sha256)

    # -- one sum ------------------------------------------------------------------------------------------------

    def _begin(self, message: Begin, asker: Asker | None) -> Reply:
        step = message.step
        self.end_old_sums()
        self._check_open(step.release_id)
        begun = self._sums.begun(step)
        if not begun and self.policy.hours is not None:
            self.policy.hours.check(self._now())
        privacy = self._check(step, begun=begun)
        self._sums.check_bound(step)
        known = self._clients.get(step.release_id)
        # a round's model is read once, not once a message; what the policy says is asked every time
        query = known[1] if known is not None and known[0] == step else self._query(step)
        self._check_query(step, query, privacy)
        if not begun:
            self.heads.check_own()
            # once it has begun, a release goes on even where its own charge has taken the rest of the budget
            self._check_budget(step, query)
            self._admit(step, asker)
            check_first_rows(self.schema, self._source(step))
            self.heads.begin(step.release_id)  # once, before this sum's keys are known to anybody
        else:
            self.jobs.check(self.jobs.get(step.run))
        # a step that is new shows that the run's earlier totals are written down
        over = self.jobs.of(asker, message.ended if begun else [step.run, *message.ended])
        with self._store.transaction():
            self._sums.begin(step, self._now())
            self._sums.end_runs(over, but=step.release_id)
        self._forget_ended()
        if not is_masked(query):
            return self._reply(step, self._noisy_vector(step, query).astype("<i8").tobytes())
        client = self._client(step, spec_of(step, query))
        body = client.advertise()
        self._persist(step.release_id, client)
        self._remember(step, query, client)
        return Reply(body, ledgers=Ledgers(recalled=self.heads.kept()) if message.recall else None)

    def _admit(self, step: Step, asker: Asker | None) -> None:
        """Ask whether a person has to approve, and write down that a sum begins; before any record is read."""
        name = detector_name(step)
        before = self.jobs.get(step.run)
        try:
            self.jobs.admit(
                step,
                asker=asker,
                columns=columns_of(step, self.schema),
                rule=self.policy.approval_of(name),
                approvers=self.policy.approvers,
                hours=self.policy.approval_hours,
                now=self._now(),
            )
        except PendingError:
            job = self.jobs.get(step.run)
            if before is None and job is not None:
                self._note("waits", job=job.id, digest=job.digest, rule=job.rule, asker=job.asker, detector=name)
            raise
        self._note(
            "began",
            release=step.release_id,
            purpose=step.purpose,
            part=step.part,
            detector=name,
            digest=step_digest(step),
            asker=_named(asker),
            privacy="exact" if step.privacy is None else msgspec.to_builtins(step.privacy),
            participants=len(step.participants),
        )

    def _note(self, kind: str, **detail: object) -> None:
        if self._audit is not None:
            self._audit.write(kind, **detail)

    def _check_open(self, release_id: str) -> None:
        """Refuse a sum that is over, and say why where a person ended it."""
        run = self._sums.over(release_id)
        if run is not None:
            self._clients.pop(release_id, None)
            self.jobs.check(self.jobs.get(run))
            self._sums.check_open(release_id)

    def _forget_ended(self) -> None:
        """Drop from memory what is gone from the disk."""
        for release_id in [release_id for release_id in self._clients if self._sums.over(release_id) is not None]:
            del self._clients[release_id]

    def _continue(self, message: Continue) -> Reply:
        step, query, client = self._resume(message.release_id)
        self.jobs.check(self.jobs.get(step.run))
        unsigned = not client.survivors
        told = self._ledgers_before(message, step, client)
        try:
            shares = client.phase is Phase.SHARE
            body = client.handle(message.body, lambda: self._noisy_vector(step, query))
            with self._store.transaction():
                if shares:
                    self.heads.state(step.release_id, message.body)
                if client.survivors and step.privacy is None:
                    self._exact.sign(step.release_id, client.survivors)
                if unsigned and client.survivors:
                    self.heads.check_survivors(step.release_id, client.survivors)
                    keep_survivors(self._store, step.release_id, client.survivors)
                    self.heads.done(step.release_id)
                self._persist(step.release_id, client)
            if unsigned and client.survivors:
                self._note("signed", release=step.release_id, survivors=client.survivors)
        except BaseException:
            # its reply was never given: back to what is on disk, also where somebody pressed Ctrl-C
            self._clients.pop(step.release_id, None)
            raise
        if client.phase is Phase.DONE:
            self._clients.pop(step.release_id, None)
        statement = self.heads.answers(step.release_id, message.body)
        if statement is not None:
            told = Ledgers(heads={self.name: statement})
        return self._reply(step, body, told) if isinstance(query, UpdateQuery) else Reply(body, ledgers=told)

    def _ledgers_before(self, message: Continue, step: Step, client: PhasedClient[Any]) -> Ledgers | None:
        """Hold what came of ledgers against what is known of them, before anything is charged; what to answer."""
        told = message.ledgers or Ledgers()
        if told.recalled:
            self.heads.remind(told.recalled)
            self.heads.check_own()
        if told.signatures:
            self.heads.cosigned(step.release_id, step.participants, told.signatures)
        if told.heads:
            return Ledgers(signatures=self.heads.witness(step.release_id, step.participants, told.heads))
        if client.phase is Phase.MASK and self.heads.answers(step.release_id, message.body) is None:
            raise WireError(
                "The request for the vector holds no heads of ledgers",
                rule="parties see each other's ledgers before they add to a sum",
                fix="check versions",
            )
        return None

    def _reply(self, step: Step, body: bytes, told: Ledgers | None = None) -> Reply:
        """A reply, with the notice that was committed with this round's vector; without privacy alone."""
        return Reply(body, self._sums.notice(step.release_id) if step.privacy is None else "", told)

    def _query(self, step: Step) -> Query:
        return query_of(step, self.schema, allowed=frozenset(self.policy.detectors))

    def _check_budget(self, step: Step, query: Query) -> None:
        """Refuse before any work what the budget does not carry: at a run's first round, the whole run."""
        ledger = self._ledger(step)
        ledger.check(event_of(step, query, self._noise_source))
        begun = f"{step.run}/"
        if isinstance(query, UpdateQuery) and not any(
            entry.release_id.startswith(begun) and entry.event.sampled for entry in ledger.entries()
        ):
            ledger.check(run_event_of(step, query))

    def _check_query(self, step: Step, query: Query, privacy: DifferentialPrivacy | None) -> None:
        """Check what only the rebuilt query says against the policy as it is now."""
        check_query(query, privacy)
        check_policy(self.policy, self.schema, step, privacy, masked=is_masked(query))
        self.policy.check_noise(event_of(step, query, self._noise_source))

    def _check(self, step: Step, *, begun: bool) -> DifferentialPrivacy | None:
        """Check a step against participant list, schema and policy as they are now; return the privacy asked for.

        Asked again for every message: a policy that the owner has tightened since holds at once.
        """
        pinned = self._participants.current()
        listing = self._participants.listing
        check_federation(step, listing.federation if listing is not None else None)
        # a newer list may have come since: what was begun goes on where everybody in it is still who they were
        if not (begun and set(step.participants) <= set(pinned)):
            check_participants(step, pinned)
        return admitted(step, self.schema, self.policy)

    def _resume(self, release_id: str) -> tuple[Step, Query, PhasedClient[Any]]:
        self._check_open(release_id)
        if release_id in self._clients:
            step, query, client = self._clients[release_id]
            self._check_query(step, query, self._check(step, begun=True))
            return step, query, client
        step = self._sums.step(release_id)
        privacy = self._check(step, begun=True)
        query = self._query(step)
        self._check_query(step, query, privacy)
        if not is_masked(query):
            raise ReleaseError(f"Release {release_id} has no further message", rule="an update in the clear is one")
        client = self._client(step, spec_of(step, query))
        self._remember(step, query, client)
        return step, query, client

    def _remember(self, step: Step, query: Query, client: PhasedClient[Any]) -> None:
        """Keep a few sums open in memory; the others are on disk."""
        self._clients[step.release_id] = (step, query, client)
        while len(self._clients) > MAX_OPEN_SUMS:
            self._clients.pop(next(iter(self._clients)))

    def _client(self, step: Step, spec: SumSpec) -> PhasedClient[Any]:
        state = self._sums.state(step.release_id)
        if state is not None:
            return load_client(state, spec=spec, name=self.name, signer=self._identity)
        return make_client(spec, self.name, self._identity)

    def _persist(self, release_id: str, client: PhasedClient[Any]) -> None:
        try:
            self._sums.keep(release_id, client.dump())
        except (ReleaseError, StoreError):
            # what this process remembers is now ahead of the disk: forget it, so that the next request starts
            # again from what was committed, or is told that another process has ended the sum
            self._clients.pop(release_id, None)
            raise

    def _ledger(self, step: Step) -> Ledger:
        """The ledger that counts this unit; exact sums are written into the first one."""
        if step.privacy is None:
            return next(iter(self.ledgers.values()))
        return self.ledgers[step.privacy.unit]

    def _effective(self, step: Step) -> str:
        """Where the records are: a party without evaluation records evaluates on its training records."""
        return step.dataset if self._sources[step.dataset] is not None else "training"

    def _source(self, step: Step) -> object:
        """The records that a sum may read: without those of persons who are forgotten."""
        marks = self._forgotten.marks()
        if marks != self._left_out:  # what earlier rounds of a run have prepared in memory may be of them
            self._memory.drop_cache(step.run)
            self._left_out = marks
        return self._forgotten.leave_out(self.schema, self._sources[self._effective(step)])

    def _noisy_vector(self, step: Step, query: Query) -> Ints:
        """Charge, compute, add noise, keep: in this order, each committed before the next."""
        self._reads_data = True
        privacy = privacy_of(step.privacy) if step.privacy is not None else None
        ledger = self._ledger(step)
        event = event_of(step, query, self._noise_source)
        stored = ledger.output(step.release_id)
        if stored is not None:
            return np.frombuffer(stored, dtype="<i8").astype(np.int64)
        source, dataset = self._source(step), self._effective(step)
        version = version_of(source, self.schema) if event.exact else ""
        if event.exact:
            self._exact.check_version(dataset, version)
        ledger.reserve(step.release_id, event)
        memory = self._memory.load(step.run) if isinstance(query, UpdateQuery) else {}
        notice = ""
        if isinstance(query, UpdateQuery):
            vector, notice = self._train(step, query, event, privacy, memory)
        else:
            vector = own_sum(self.schema, source, query, privacy, self._noise_source)
            if step.purpose == "threshold":
                self._memory.finish(step.run)  # its rounds are over
        if event.exact and version != version_of(source, self.schema):
            raise DataError("The records changed while they were read", fix="start a new run when they are at rest")
        if event.local_variance > 0:
            vector += discrete_gaussian(event.local_variance, query.length, self._noise_source)
        if event.exact:
            # first: a vector that may leave is remembered, even where this process ends between the two
            self._exact.contribute(step.release_id, dataset, version)
            self._forgotten.was_left_out(step.run)
        self._note(
            "released",
            release=step.release_id,
            query=event.query,
            coordinates=event.coordinates,
            mechanism=event.mechanism,
            unit=None if event.exact else event.unit,
            rho=event.rho or None,
            noise_multiplier=event.noise_multiplier,
            steps=event.steps,
        )
        output = vector.astype("<i8").tobytes()
        if isinstance(query, UpdateQuery):  # a sum of losses in between leaves the memory as it is
            with self._store.transaction():
                self._memory.save(step.run, memory)
                if notice and step.privacy is None:
                    self._sums.keep_notice(step.release_id, notice)
                ledger.record_output(step.release_id, output)
        else:
            ledger.record_output(step.release_id, output)
        self.jobs.released(step, last=_ends_run(step, self.schema))
        if step.purpose == "evaluation":
            keep_own_figures(self._store, step, self.schema, source, party=self.name, allowed=self.policy.detectors)
        return vector

    def _train(
        self,
        step: Step,
        query: UpdateQuery,
        event: Event,
        privacy: DifferentialPrivacy | None,
        memory: dict[str, bytes],
    ) -> tuple[Ints, str]:
        """One round of local training: the party's vector, and why it is all zeros if it is."""
        try:
            update = own_update(
                self.schema,
                self._source(step),
                query,
                privacy,
                event,
                memory=memory,
                cache=self._memory.cache(step.run),
                noise_source=self._noise_source,
            )
        except BaseException:
            self._memory.drop_cache(step.run)  # it may be ahead of what was committed
            raise
        if update.notice:
            log.warning("%s adds nothing in %s: %s", self.name, query.name, update.notice)
        return update.values, update.notice


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


def _ends_run(step: Step, schema: Schema) -> bool:
    """Whether no sum follows this one in its run."""
    if step.part == "describe/histogram":
        return all(column.type == "category" for column in schema.features)
    return step.purpose in ("threshold", "evaluation") or step.part in ("describe/moments", "select/moments")
