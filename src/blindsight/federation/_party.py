"""A party: the data owner's side of every sum. It answers bytes with bytes and enforces its own policy."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from blindsight._version import __version__
from blindsight.data import Schema
from blindsight.detectors import Query, UpdateQuery
from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    DataError,
    ReleaseError,
    StoreError,
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

from ._admission import admitted, check_participants, check_policy
from ._breakdown import Breakdown, keep_own_figures, kept_breakdowns
from ._exact import ExactTotals, version_of
from ._memory import RunMemory
from ._policy import Policy
from ._steps import (
    check_query,
    event_of,
    is_masked,
    privacy_of,
    query_of,
    run_event_of,
    spec_of,
)
from ._vector import check_first_rows, own_sum, own_update
from ._wire import Begin, Continue, Greeting, Hello, Refusal, Reply, Step, decode_request, encode

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

    Attributes
    ----------
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
    ) -> None:
        self.name = name
        self.schema = schema
        self.policy = policy
        self._identity = identity
        self._store = store
        self._noise_source = noise_source
        self._sources: dict[str, object] = {}
        self.set_data("training", data)
        self.set_data("evaluation", evaluation)
        # costs per record and per person do not add up to one epsilon: each unit has an account of its own
        self.ledgers: Mapping[Unit, Ledger] = {
            unit: Ledger(
                store,
                Budget(epsilon=policy.maximum_epsilon, delta=policy.delta, unit=unit),
                name=f"ledger.{unit}",
            )
            for unit in policy.units
        }
        self._participants: list[tuple[str, bytes]] | None = None
        self._clients: dict[str, tuple[Step, Query, PhasedClient[Any]]] = {}
        self._memory = RunMemory(store)
        self._exact = ExactTotals(store)
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

    def pin(self, participants: list[tuple[str, bytes]]) -> None:
        """Fix the participant list that this party accepts: names and public keys, sorted by name.

        Raises
        ------
        AuthenticationError
            Another list is pinned already, or this party is not on the list with its own key.
        """
        participants = [(name, bytes(key)) for name, key in participants]
        if (self.name, self.public_key) not in participants:
            raise AuthenticationError(
                f"The participant list does not hold {self.name} with its own key",
                fix="have the list made from the parties' own public keys",
            )
        encoded = msgspec.msgpack.encode(participants)
        try:
            self._store.table("participants").put_once("pinned", encoded)
        except ReleaseError as error:
            raise AuthenticationError(
                "Another participant list is pinned at this party",
                rule="a coordinator cannot enrol parties on its own",
                fix="pin a new list in a new home folder, after checking its keys with the other parties",
            ) from error
        self._participants = participants

    def handle(self, request: bytes) -> bytes:
        """Answer one request of the coordinator; never raises. One request at a time.

        Parameters
        ----------
        request : bytes
            Untrusted.

        Returns
        -------
        bytes
            A greeting, a protocol message, or a refusal that holds no value of any record.
        """
        with self._lock:
            return self._handle(request)

    def _handle(self, request: bytes) -> bytes:
        before_data = True
        self.last_error = None
        self._reads_data = False
        try:
            message = decode_request(request)
            before_data = not isinstance(message, Continue)
            if isinstance(message, Hello):
                return encode(Greeting(self.name, self.public_key, self.schema.digest(), __version__))
            reply = self._begin(message.step) if isinstance(message, Begin) else self._continue(message)
            return encode(reply)
        except BlindsightError as error:
            self.last_error = error
            log.warning("%s refuses: %s", self.name, error)
            return encode(Refusal.of(error, before_data=before_data and not self._reads_data))
        except Exception as error:
            # whatever else goes wrong, no request may end this process, and no text of it may reach the coordinator
            log.exception("%s failed on a request", self.name)
            return encode(Refusal(type(error).__name__[:64], "The party failed on this request"))

    # -- one sum ------------------------------------------------------------------------------------------------

    def _begin(self, step: Step) -> Reply:
        privacy = self._check(step)
        known = self._clients.get(step.release_id)
        # a round's model is read once, not once a message; what the policy says is asked every time
        query = known[1] if known is not None and known[0] == step else self._query(step)
        self._check_query(step, query, privacy)
        encoded = msgspec.msgpack.encode(step)
        if self._store.table("steps").get(step.release_id) != encoded:
            # once it has begun, a release goes on even where its own charge has taken the rest of the budget
            self._check_budget(step, query)
            check_first_rows(self.schema, self._source(step))
        self._bind_run(step)
        try:
            self._store.table("steps").put_once(step.release_id, encoded)
        except ReleaseError as error:
            raise ReleaseError(
                f"Release {step.release_id} is already bound to another request",
                rule="a release id is used once",
                fix="start a new run: a new release, freshly charged",
            ) from error
        if not is_masked(query):
            return self._reply(step, self._noisy_vector(step, query).astype("<i8").tobytes())
        client = self._client(step, spec_of(step, query))
        body = client.advertise()
        self._persist(step.release_id, client)
        self._remember(step, query, client)
        return Reply(body)

    def _bind_run(self, step: Step) -> None:
        """Hold a run to the detector and the privacy of its first step.

        What a party keeps from round to round (noise, tensors, control variates) was made under these; another round
        of the run under other ones would be charged for noise that it does not have.
        """
        terms = hashlib.sha256(msgspec.msgpack.encode((step.detector, step.privacy))).digest()
        try:
            self._store.table("runs").put_once(step.run, terms)
        except ReleaseError as error:
            raise ReleaseError(
                f"Run {step.run} is already bound to another request",
                rule="one run, one detector and one privacy",
                fix="start a new run",
            ) from error

    def _continue(self, message: Continue) -> Reply:
        step, query, client = self._resume(message.release_id)
        try:
            body = client.handle(message.body, lambda: self._noisy_vector(step, query))
            with self._store.transaction():
                if client.survivors and step.privacy is None:
                    self._exact.sign(step.release_id, client.survivors)
                self._persist(step.release_id, client)
        except BaseException:
            # its reply was never given: back to what is on disk, also where somebody pressed Ctrl-C
            self._clients.pop(step.release_id, None)
            raise
        if client.phase is Phase.DONE:
            self._clients.pop(step.release_id, None)
        return self._reply(step, body) if isinstance(query, UpdateQuery) else Reply(body)

    def _reply(self, step: Step, body: bytes) -> Reply:
        """A reply, with the notice that was committed with this round's vector; without privacy alone."""
        stored = self._store.table("notices").get(step.release_id) if step.privacy is None else None
        return Reply(body, stored.decode() if stored else "")

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
        check_policy(self.policy, step, privacy, masked=is_masked(query))

    def _check(self, step: Step) -> DifferentialPrivacy | None:
        """Check a step against participant list, schema and policy as they are now; return the privacy asked for.

        Asked again for every message: a policy that the owner has tightened since holds at once.
        """
        check_participants(step, self._pinned())
        return admitted(step, self.schema, self.policy)

    def _resume(self, release_id: str) -> tuple[Step, Query, PhasedClient[Any]]:
        if release_id in self._clients:
            step, query, client = self._clients[release_id]
            self._check_query(step, query, self._check(step))
            return step, query, client
        encoded = self._store.table("steps").get(release_id)
        if encoded is None:
            raise ReleaseError(f"Release {release_id} was never begun here", fix="start a new run")
        step = msgspec.msgpack.decode(encoded, type=Step)
        privacy = self._check(step)
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
        state = self._store.table("clients").get(step.release_id)
        if state is not None:
            return load_client(state, spec=spec, name=self.name, signer=self._identity)
        return make_client(spec, self.name, self._identity)

    def _persist(self, release_id: str, client: PhasedClient[Any]) -> None:
        try:
            self._store.table("clients").put(release_id, client.dump())
        except StoreError:
            # what this process remembers is now ahead of the disk: forget it, so that the next request starts
            # again from what was committed
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
        return self._sources[self._effective(step)]

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
        output = vector.astype("<i8").tobytes()
        if isinstance(query, UpdateQuery):  # a sum of losses in between leaves the memory as it is
            with self._store.transaction():
                self._memory.save(step.run, memory)
                if notice and step.privacy is None:
                    self._store.table("notices").put(step.release_id, notice.encode())
                ledger.record_output(step.release_id, output)
        else:
            ledger.record_output(step.release_id, output)
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

    def _pinned(self) -> list[tuple[str, bytes]]:
        if self._participants is None:
            pinned = self._store.table("participants").get("pinned")
            if pinned is None:
                raise AuthenticationError(
                    "No participant list is pinned at this party",
                    fix="pin the list that all parties agreed on",
                )
            self._participants = msgspec.msgpack.decode(pinned, type=list[tuple[str, bytes]])
        return self._participants
