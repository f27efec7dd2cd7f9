"""A party: the data owner's side of every sum. It answers bytes with bytes and enforces its own policy."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from blindsight._version import __version__
from blindsight.data import Records, Schema, records
from blindsight.detectors import SumQuery
from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    DataError,
    PolicyError,
    ReleaseError,
    SchemaError,
    StoreError,
)
from blindsight.keys import Identity
from blindsight.privacy import (
    Budget,
    DifferentialPrivacy,
    Ledger,
    NoiseSource,
    Unit,
    bound_contributions,
    discrete_gaussian,
)
from blindsight.securesum import SumClient, SumSpec
from blindsight.store import Store

from ._policy import Policy
from ._steps import detector_name, event_of, privacy_of, query_of, spec_of
from ._wire import Begin, Continue, Greeting, Hello, Refusal, Reply, Step, decode_request, encode

__all__ = ["Party"]

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]


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
        self._clients: dict[str, tuple[Step, SumQuery, SumClient]] = {}

    @property
    def public_key(self) -> bytes:
        """Raw Ed25519 public key, 32 bytes."""
        return self._identity.public.raw

    def set_data(self, dataset: str, source: object) -> None:
        """Replace the records of ``"training"`` or ``"evaluation"``: a new data version."""
        self._sources[dataset] = source

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
        """Answer one request of the coordinator; never raises a BlindsightError.

        Parameters
        ----------
        request : bytes
            Untrusted.

        Returns
        -------
        bytes
            A greeting, a protocol message, or a refusal that holds no value of any record.
        """
        before_data = True
        try:
            message = decode_request(request)
            before_data = not isinstance(message, Continue)
            if isinstance(message, Hello):
                return encode(Greeting(self.name, self.public_key, self.schema.digest(), __version__))
            body = self._begin(message.step) if isinstance(message, Begin) else self._continue(message)
            return encode(Reply(body))
        except BlindsightError as error:
            log.warning("%s refuses: %s", self.name, error)
            return encode(Refusal.of(error, before_data=before_data))
        except Exception as error:
            # whatever else goes wrong, no request may end this process, and no text of it may reach the coordinator
            log.exception("%s failed on a request", self.name)
            return encode(Refusal(type(error).__name__[:64], "The party failed on this request"))

    # -- one sum ------------------------------------------------------------------------------------------------

    def _begin(self, step: Step) -> bytes:
        self._check_participants(step)
        if step.schema_digest != self.schema.digest():
            raise SchemaError(
                "The step was planned for another schema",
                got=step.schema_digest[:12],
                rule=f"this party's schema is {self.schema.digest()[:12]}",
                fix="give every party and the coordinator the same schema.toml",
            )
        privacy = privacy_of(step.privacy) if step.privacy is not None else None
        allowed = frozenset(self.policy.detectors)
        self.policy.check(
            purpose=step.purpose,
            detector=detector_name(step),
            unit=privacy.unit if privacy is not None else None,
            exact=privacy is None,
            fewest_survivors=max(step.threshold, 3),
        )
        if privacy is not None and self.schema.ranges != "declared":
            raise SchemaError(
                "Differential privacy needs declared ranges",
                got="ranges learned from records",
                rule="a range read from records is a release that nothing accounts for",
                fix="check that the ranges are public and call schema.declare()",
            )
        if privacy is not None and privacy.unit == "person" and self.schema.person is None:
            raise SchemaError(
                "Person-level privacy needs a person column",
                rule="a column of role 'person' says whose record it is",
                fix="declare one in the schema, or ask for unit='record'",
            )
        query = query_of(step, self.schema, allowed=allowed)
        if (step.model is not None) != (step.purpose in ("threshold", "evaluation")):
            raise PolicyError("The step carries a model where none belongs", got=step.purpose)
        spec = spec_of(step, query)
        event = event_of(step, query, self._noise_source)
        self._ledger(privacy).check(event)

        encoded = msgspec.msgpack.encode(step)
        try:
            self._store.table("steps").put_once(step.release_id, encoded)
        except ReleaseError as error:
            raise ReleaseError(
                f"Release {step.release_id} is already bound to another request",
                rule="a release id is used once",
                fix="start a new run: a new release, freshly charged",
            ) from error
        client = self._client(step, spec)
        reply = client.advertise()
        self._persist(step.release_id, client)
        self._clients[step.release_id] = (step, query, client)
        return reply

    def _continue(self, message: Continue) -> bytes:
        step, query, client = self._resume(message.release_id)
        reply = client.handle(message.body, lambda: self._noisy_vector(step, query))
        try:
            with self._store.transaction():
                if client.survivors and step.privacy is None:
                    self._check_difference(step, client.survivors)
                self._persist(step.release_id, client)
        except BlindsightError:
            self._clients.pop(step.release_id, None)  # its reply was never given: back to what is on disk
            raise
        return reply

    def _resume(self, release_id: str) -> tuple[Step, SumQuery, SumClient]:
        if release_id in self._clients:
            return self._clients[release_id]
        encoded = self._store.table("steps").get(release_id)
        if encoded is None:
            raise ReleaseError(f"Release {release_id} was never begun here", fix="start a new run")
        step = msgspec.msgpack.decode(encoded, type=Step)
        query = query_of(step, self.schema, allowed=frozenset(self.policy.detectors))
        client = self._client(step, spec_of(step, query))
        self._clients[release_id] = (step, query, client)
        return step, query, client

    def _client(self, step: Step, spec: SumSpec) -> SumClient:
        state = self._store.table("clients").get(step.release_id)
        if state is not None:
            return SumClient.load(state, spec=spec, name=self.name, signer=self._identity)
        return SumClient(spec, self.name, self._identity)

    def _persist(self, release_id: str, client: SumClient) -> None:
        try:
            self._store.table("clients").put(release_id, client.dump())
        except StoreError:
            # what this process remembers is now ahead of the disk: forget it, so that the next request starts
            # again from what was committed
            self._clients.pop(release_id, None)
            raise

    def _ledger(self, privacy: DifferentialPrivacy | None) -> Ledger:
        """The ledger that counts this unit; exact sums are written into the first one."""
        if privacy is None:
            return next(iter(self.ledgers.values()))
        return self.ledgers[privacy.unit]

    def _noisy_vector(self, step: Step, query: SumQuery) -> Ints:
        """Charge, compute, add noise, keep: in this order, each committed before the next."""
        privacy = privacy_of(step.privacy) if step.privacy is not None else None
        ledger = self._ledger(privacy)
        event = event_of(step, query, self._noise_source)
        version = self._check_version(step) if event.exact else None
        ledger.reserve(step.release_id, event)
        stored = ledger.output(step.release_id)
        if stored is not None:
            return np.frombuffer(stored, dtype="<i8").astype(np.int64)
        vector = self._own_sum(step.dataset, query, privacy)
        if version is not None and version != self._version(step.dataset):
            raise DataError("The records changed while they were read", fix="start a new run when they are at rest")
        if not event.exact:
            vector += discrete_gaussian(event.local_variance, query.length, self._noise_source)
        ledger.record_output(step.release_id, vector.astype("<i8").tobytes())
        return vector

    def _own_sum(self, dataset: str, query: SumQuery, privacy: DifferentialPrivacy | None) -> Ints:
        source = self._sources[self._effective(dataset)]
        warn = query.name != "threshold"  # what lies outside the ranges is said once, when it is first read
        chosen: npt.NDArray[np.bool_] | None = None
        if privacy is not None and privacy.unit == "person":
            chosen = self._choose_records(source, privacy.records_per_unit)
        vector = np.zeros(query.length, dtype=np.int64)
        for chunk in records(self.schema, source, warn=warn):
            if chosen is None:
                query.add(vector, chunk)
                continue
            keep = chosen[chunk.row0 : chunk.row0 + len(chunk)]
            label = None if chunk.label is None else chunk.label[keep]
            query.add(vector, Records(X=chunk.X[keep], label=label, row0=chunk.row0))
        return vector

    def _choose_records(self, source: object, max_records: int) -> npt.NDArray[np.bool_]:
        """Choose each person's records uniformly at random; keeps one identifier a row in memory.

        Not the first ones of each person: where rows are in order of time, first records are not like the others.
        """
        people = []
        for chunk in records(self.schema, source, warn=False):
            if chunk.person is None:
                raise DataError(
                    "The person column is missing from the data",
                    rule="unit='person' counts records by person",
                    fix="give tables with that column, not arrays",
                )
            people.append(chunk.person)
        return bound_contributions(np.concatenate(people), max_records, self._noise_source)

    # -- what protects other releases ---------------------------------------------------------------------------

    def _check_participants(self, step: Step) -> None:
        if self._participants is None:
            pinned = self._store.table("participants").get("pinned")
            if pinned is None:
                raise AuthenticationError(
                    "No participant list is pinned at this party",
                    fix="pin the list that all parties agreed on",
                )
            self._participants = msgspec.msgpack.decode(pinned, type=list[tuple[str, bytes]])
        pinned_list = [(name, bytes(key)) for name, key in self._participants]
        asked = [(name, bytes(key)) for name, key in step.participants]
        if not set(asked) <= set(pinned_list):
            raise AuthenticationError(
                "The step names participants that this party did not pin",
                got=", ".join(sorted({name for name, _ in asked} - {name for name, _ in pinned_list})) or "another key",
                rule="identities are pinned at the party, so that a coordinator cannot enrol parties of its own",
                fix="agree on a new participant list among the data owners",
            )

    def _effective(self, dataset: str) -> str:
        """Where a data set's records are: a party without evaluation records evaluates on its training records."""
        return dataset if self._sources[dataset] is not None else "training"

    def _version(self, dataset: str) -> str:
        return _version_of(self._sources[self._effective(dataset)], self.schema)

    def _earlier_exact(self, dataset: str) -> list[tuple[str, list[str], str]]:
        """Exact totals that this party has signed: release, survivors, version of its own data.

        All of them, whatever was asked: two different questions about nearly the same records can be subtracted as
        well (counts in 64 and in 63 bins, moments, a score histogram).
        """
        stored = self._store.table("exact").get(self._effective(dataset))
        return msgspec.msgpack.decode(stored, type=list[tuple[str, list[str], str]]) if stored else []

    def _check_version(self, step: Step) -> str:
        """Refuse an exact sum over changed data, before charging; only this party knows that its data changed.

        Once the masked vector is out, the others can open the total without this party: its refusal must come now.
        """
        version = self._version(step.dataset)
        for release, _, earlier in self._earlier_exact(step.dataset):
            if earlier != version:
                raise ReleaseError(
                    "The records changed since an earlier exact total",
                    got=f"earlier release {release}",
                    rule="the difference of two exact totals is the data of those who differ: here, one party",
                    fix="ask for differential privacy",
                )
        self._store.table("versions").put(step.release_id, version.encode())
        return version

    def _check_difference(self, step: Step, survivors: tuple[str, ...]) -> None:
        """Refuse to sign an exact total that differs from an earlier one by fewer than three parties' data."""
        earlier = self._earlier_exact(step.dataset)
        for release, others, _ in earlier:
            count = len(set(survivors) ^ set(others))
            if release != step.release_id and 0 < count < 3:
                raise ReleaseError(
                    "This exact total differs from an earlier one by too few parties",
                    got=f"{count} of at least 3; earlier release {release}",
                    rule="the difference of two exact totals is the data of those who differ",
                    fix="ask for differential privacy, or wait until three parties or more have changed",
                )
        if all(release != step.release_id for release, _, _ in earlier):
            version = (self._store.table("versions").get(step.release_id) or b"").decode()
            entry = (step.release_id, sorted(survivors), version)
            self._store.table("exact").put(self._effective(step.dataset), msgspec.msgpack.encode([*earlier, entry]))


def _version_of(source: object, schema: Schema) -> str:
    """Name a state of the data: a file by path, size and modification time, anything else by its content."""
    state = hashlib.sha256()
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            status = path.stat()
        except OSError:
            return "missing"
        state.update(f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}".encode())
        return state.hexdigest()
    for chunk in records(schema, source, warn=False):
        for array in (chunk.X, chunk.person, chunk.label):
            if array is not None:
                plain = array.astype(str) if array.dtype.kind == "O" else array
                state.update(f"{plain.dtype.str}{plain.shape}".encode() + plain.tobytes())
    return state.hexdigest()
