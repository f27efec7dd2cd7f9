"""Heads of ledgers, signed by their parties and countersigned by the others, so that an old copy is noticed.

A consistency check in the spirit of transparency logs, whose signed tree heads are gossiped and cosigned by witnesses
(RFC 9162, sections 4.10 and 11.3; Syta et al. 2016, "Keeping authorities honest or bust with decentralized witness
cosigning", IEEE S&P): who has seen a head notices when an older one is shown. Nothing here is read from a socket or a
clock; :class:`Heads` alone touches a store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, get_args

import msgspec

from blindsight.errors import AuthenticationError, FormatError, ReleaseError, WireError
from blindsight.keys import Identity, PublicIdentity
from blindsight.privacy import Ledger, Position, Unit
from blindsight.store import Store

from ._wire import Ledgers
from .kits._signed import signed_bytes, verified, verified_before

__all__ = ["HeadRelay", "HeadStatement", "Heads", "behind", "let_go", "read_statement", "witness_message"]

CONTEXT = b"blindsight ledger head v1"
WITNESS_CONTEXT = b"blindsight ledger witness v1"
MAX_STATEMENT_BYTES = 4096
UNITS: tuple[Unit, ...] = get_args(Unit)

Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class HeadStatement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a party signs of its ledgers, in the middle of one sum.

    Attributes
    ----------
    party, public_key : str
    release : str
        The sum.
    request : str
        SHA-256 of the request that it answers, which holds every party's fresh key of this sum: a statement made
        earlier cannot be shown here again.
    ledgers : dict of unit to Position
        Of all units, used or not.
    """

    party: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    public_key: Hash
    release: Annotated[str, msgspec.Meta(max_length=241)]
    request: Hash
    ledgers: Annotated[dict[Unit, Position], msgspec.Meta(min_length=len(UNITS), max_length=len(UNITS))]


def read_statement(data: bytes) -> HeadStatement:
    """Read an untrusted statement; that it is by the right key is for the caller to check.

    Raises
    ------
    FormatError, AuthenticationError
    """
    return verified(
        data, HeadStatement, CONTEXT, what="A ledger's head", limit=MAX_STATEMENT_BYTES, signer="public_key"
    )


def _kept_statement(data: bytes) -> HeadStatement:
    """One of this party's own store, which was verified before it was put there: a sum has many."""
    return verified_before(data, HeadStatement, what="A ledger's head")


def behind(seen: Mapping[Unit, Position], shown: Mapping[Unit, Position]) -> str | None:
    """Say how ledgers fall behind what was seen of them; None where they do not.

    A ledger that has grown passes: that its new lines follow the old ones, only its own party can check
    (:meth:`Heads.check_own`).
    """
    for unit, before in seen.items():
        now = shown[unit]
        if now.written_off != before.written_off:
            if now.written_off < before.written_off:
                return f"per {unit}: {now.written_off} losses written off, {before.written_off} seen before"
        elif now.count < before.count:
            return f"per {unit}: {now.count} lines, {before.count} seen before"
        elif now.count == before.count and now.head != before.head:
            return f"per {unit}: other lines than the {before.count} seen before"
    return None


def let_go(store: Store, release: str) -> None:
    """Forget what was shown in a sum of which nothing is answered any more; what was learned in it stays."""
    table = store.table("heads")
    for kind in ("floor", "seen", "statement"):
        table.delete(f"{kind}/{release}")


def witness_message(statement: bytes, witness: str) -> bytes:
    """What a witness signs: that it has seen this statement, and nothing newer of that party."""
    said = {"statement": hashlib.sha256(statement).hexdigest(), "witness": witness}
    return WITNESS_CONTEXT + b"|" + msgspec.json.encode(said, order="sorted")


class HeadRelay:
    """The coordinator's part in one sum: statements and countersignatures from one party to the others, unread.

    Parameters
    ----------
    names : sequence of str
        Who takes part; whatever names somebody else is dropped.
    kept : bytes
        What :meth:`dump` gave, where the sum goes on.
    """

    def __init__(self, names: Sequence[str], kept: bytes = b"") -> None:
        self._names = frozenset(names)
        self._recalled: dict[str, dict[str, bytes]] = {}
        self._heads: dict[str, bytes] = {}
        self._signatures: dict[str, dict[str, bytes]] = {}
        if kept:
            self._recalled, self._heads, self._signatures = msgspec.msgpack.decode(
                kept, type=tuple[dict[str, dict[str, bytes]], dict[str, bytes], dict[str, dict[str, bytes]]]
            )

    def dump(self) -> bytes:
        """All of it, for a coordinator that is killed."""
        return msgspec.msgpack.encode((self._recalled, self._heads, self._signatures))

    def take(self, name: str, told: Ledgers | None) -> None:
        """What one party said, in whatever phase."""
        if told is None:
            return
        if name in told.heads:
            self._heads[name] = told.heads[name]
        for other in self._names & set(told.recalled):
            known = self._recalled.setdefault(other, {})
            if told.recalled[other] not in known.values():
                known[name] = told.recalled[other]
        for other in self._names & set(told.signatures):
            self._signatures.setdefault(other, {})[name] = told.signatures[other]

    def recalled(self, name: str) -> Ledgers | None:
        """With the request to share: what others have seen of this party's ledgers in earlier sums."""
        known = self._recalled.get(name)
        return Ledgers(recalled=known) if known else None

    def heads(self) -> Ledgers:
        """With the request for the vector: everybody's statement of this sum."""
        return Ledgers(heads=self._heads)

    def signatures(self, name: str) -> Ledgers | None:
        """With the request to confirm: who has countersigned this party's statement."""
        signed = self._signatures.get(name)
        return Ledgers(signatures=signed) if signed else None


class _Cosigned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    statement: bytes
    signatures: dict[str, bytes]


class Heads:
    """A party's side: its own statements, and the newest one that it has seen of each other party.

    Parameters
    ----------
    store : Store
        The party's, with its ledgers.
    name : str
    identity : Identity

    Security
    --------
    What each step is worth:

    * :meth:`witness` holds a statement against what was seen before this party began the sum. The statement is over
      that sum's fresh keys, hence made after this party began: a lower count is the party's own, and no coordinator
      that plays back an old message can make an honest party look rolled back. One statement a party a sum, and none
      that comes after the survivors were signed for: nobody gets two stories of one ledger countersigned.
    * :meth:`check_survivors`: no survivor set is signed with a party in it whose statement was not seen in this sum.
      So a coordinator that keeps statements back opens no total.
    * :meth:`check_own` finds an old copy of one's own ledger as soon as one newer statement by one's own key comes
      back from any other party. A coordinator can keep these back; then it is the others who refuse.

    What it does not do: a party whose software is not honest can keep two ledgers and show the longer one. That a
    ledger which has grown also *contains* what was seen, only its own party checks. Where all parties are restored to
    the same time, nobody remembers.
    """

    def __init__(self, store: Store, name: str, identity: Identity) -> None:
        self._store, self._name, self._identity = store, name, identity
        self._table = store.table("heads")

    def positions(self) -> dict[Unit, Position]:
        """Where the party's own ledgers stand."""
        return {unit: self._ledger(unit).position() for unit in UNITS}

    # -- one's own ledger

    def remind(self, recalled: Mapping[str, bytes]) -> None:
        """Take statements by one's own key that others have kept; :meth:`check_own` then holds the ledger to them.

        Others are passed over: of an identity that was given up, or made up to disturb.
        """
        for data in recalled.values():
            try:
                statement = read_statement(data)
            except (FormatError, AuthenticationError):
                continue
            if (statement.party, statement.public_key) != (self._name, self._key):
                continue
            with self._store.transaction():
                known = self.own_seen()
                if known is None or behind(statement.ledgers, known.ledgers) is not None:
                    self._table.put("own", data)

    def own_seen(self) -> HeadStatement | None:
        """The newest statement by one's own key that has come back from others."""
        data = self._table.get("own")
        return None if data is None else _kept_statement(data)

    def lost(self) -> dict[Unit, str]:
        """Which of the party's own ledgers lack what they held when a newer statement was signed, and how."""
        seen = self.own_seen()
        if seen is None:
            return {}
        found: dict[Unit, str] = {}
        for unit, before in seen.ledgers.items():
            ledger = self._ledger(unit)
            now = ledger.position()
            if now.written_off > before.written_off:
                continue
            why = behind({unit: before}, {unit: now})
            if why is None and ledger.head_at(before.count) != before.head:
                why = f"per {unit}: other lines than the first {before.count} that were signed for"
            if why is not None:
                found[unit] = why
        return found

    def check_own(self) -> None:
        """Refuse where this party's ledger is older than a statement that it has signed.

        Raises
        ------
        ReleaseError
        """
        lost = self.lost()
        if lost:
            raise ReleaseError(
                f"The ledger of {self._name} is an old copy: others have seen a newer one, signed by its own key",
                got="; ".join(lost.values()),
                rule="what was spent stays spent",
                fix="restore the newest ledger.db; if it is lost, 'blindsight ledger write-off' there",
            )

    # -- one sum

    def begin(self, release: str) -> None:
        """Remember what was seen before this sum: only that can be held against a statement of this sum.

        To be called once, before the first answer. A sum that is begun again later, when ledgers have grown, must not
        be held against what was seen since.
        """
        key = f"floor/{release}"
        if self._table.get(key) is None:
            self._table.put(key, msgspec.msgpack.encode(self.kept()))

    def kept(self) -> dict[str, bytes]:
        """The newest statement of each other party."""
        found = {key.removeprefix("peer/"): self._table.get(key) for key in self._table.keys("peer/")}
        return {name: data for name, data in found.items() if data is not None}

    def answers(self, release: str, request: bytes) -> bytes | None:
        """The statement that was made for this request, or None."""
        data = self._table.get(f"statement/{release}")
        made = data is not None and _kept_statement(data).request == hashlib.sha256(request).hexdigest()
        return data if made else None

    def state(self, release: str, request: bytes) -> bytes:
        """Sign where the ledgers stand, for this sum; commit it together with the answer that carries it."""
        statement = HeadStatement(
            party=self._name,
            public_key=self._key,
            release=release,
            request=hashlib.sha256(request).hexdigest(),
            ledgers=self.positions(),
        )
        data = signed_bytes(statement, self._identity, CONTEXT)
        self._table.put(f"statement/{release}", data)
        return data

    def witness(
        self, release: str, participants: Sequence[tuple[str, bytes]], heads: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """Hold everybody's statement against what was seen before; countersign and keep them.

        Returns
        -------
        dict of party name to signature
            One's own is not among them.

        Raises
        ------
        ReleaseError
            A party's ledger is an old copy; or it shows a second head in one sum, or its first after this party has
            signed for the survivors. Nothing is kept.
        WireError, AuthenticationError
            A statement is malformed, by another key, or of another sum.
        """
        own = self._table.get(f"statement/{release}")
        if own is None:
            raise WireError("Heads of ledgers came before this party's own", rule="with the request for the vector")
        request, floor, seen = _kept_statement(own).request, self._floor(release), self._seen(release)
        keys = dict(participants)
        signatures, rolled_back = {}, []
        for name, data in heads.items():
            if name == self._name:
                continue
            try:
                statement = read_statement(data)
            except FormatError as error:
                raise WireError(
                    f"The head of {name[:64]}'s ledger is malformed",
                    got=str(error)[:200],
                    rule="docs/wire-formats.md, 'Federation'",
                    fix="check versions",
                ) from error
            if keys.get(name) != bytes.fromhex(statement.public_key) or statement.party != name:
                raise AuthenticationError(
                    f"The head of {name[:64]}'s ledger is not by its key",
                    rule="a statement names its party and is signed by that party's key on the participant list",
                    fix="start a new run; if it happens again, the coordinator changes what parties say",
                )
            if (statement.release, statement.request) != (release, request):
                raise WireError(
                    f"The head of {name}'s ledger is of another sum",
                    got=statement.release[:120],
                    rule="signed over this sum's fresh keys: an older statement proves nothing now",
                )
            digest = hashlib.sha256(data).digest()
            if seen.get(name, digest) != digest:
                raise ReleaseError(
                    f"{name} shows another head of its ledgers than before in this sum",
                    rule="one statement a sum; two of them are two stories of one ledger",
                    fix="start a new run; if it happens again, the party is not honest",
                )
            if floor is None and name not in seen:
                raise ReleaseError(
                    f"The head of {name}'s ledger comes after the survivors were signed for",
                    rule="heads are shown with the request for the vector",
                    fix="start a new run",
                )
            before = _kept_statement(floor[name]) if floor and name in floor else None
            if before is not None and before.public_key == statement.public_key:
                why = behind(before.ledgers, statement.ledgers)
                if why is not None:
                    rolled_back.append(f"{name}, {why}")
            seen[name] = digest
            signatures[name] = self._identity.sign(witness_message(data, self._name))
        if rolled_back:
            raise ReleaseError(
                "The ledger of another party is an old copy",
                got="; ".join(rolled_back),
                rule=f"a ledger only grows; {self._name} has countersigned a newer head",
                fix="there: restore the newest ledger.db; if it is lost, 'blindsight ledger write-off'",
            )
        with self._store.transaction():
            for name in signatures:
                if self._newer(name, heads[name]):
                    self._table.put(f"peer/{name}", heads[name])
            self._table.put(f"seen/{release}", msgspec.msgpack.encode(seen))
        return signatures

    def cosigned(
        self, release: str, participants: Sequence[tuple[str, bytes]], signatures: Mapping[str, bytes]
    ) -> None:
        """Keep who has countersigned one's own statement of this sum.

        Raises
        ------
        AuthenticationError
            A countersignature does not hold.
        """
        own = self._table.get(f"statement/{release}")
        if own is None:
            return
        keys = dict(participants)
        for name, signature in signatures.items():
            if name not in keys:
                raise AuthenticationError(
                    "A countersignature is by nobody in this sum",
                    got=name[:64],
                    rule="the other participants countersign",
                    fix="start a new run; if it happens again, the coordinator changes what parties say",
                )
            PublicIdentity(keys[name]).verify(signature, witness_message(own, name))
        kept = self.countersigned()
        if kept is None or behind(kept[0].ledgers, _kept_statement(own).ledgers) is None:  # not an earlier sum's, again
            self._table.put("cosigned", msgspec.msgpack.encode(_Cosigned(own, dict(signatures))))

    def check_survivors(self, release: str, survivors: Sequence[str]) -> None:
        """Refuse a survivor set with somebody in it whose ledger's head was not seen in this sum.

        Raises
        ------
        ReleaseError
        """
        missing = sorted(set(survivors) - set(self._seen(release)) - {self._name})
        if missing:
            raise ReleaseError(
                "A survivor's ledger has shown no head in this sum",
                got=", ".join(missing),
                rule="no total is opened over a ledger that the others have not countersigned",
                fix="start a new run; if it happens again, the coordinator keeps heads back",
            )

    def done(self, release: str) -> None:
        """Take no more heads in this sum; what was seen is kept by its hash, so that the same again is answered."""
        self._table.delete(f"floor/{release}")

    def countersigned(self) -> tuple[HeadStatement, list[str]] | None:
        """One's own newest countersigned statement, and by whom."""
        kept = self.countersigned_bytes()
        return None if kept is None else (_kept_statement(kept[0]), sorted(kept[1]))

    def countersigned_bytes(self) -> tuple[bytes, dict[str, bytes]] | None:
        """The same as it was signed, with the signatures."""
        data = self._table.get("cosigned")
        if data is None:
            return None
        kept = msgspec.msgpack.decode(data, type=_Cosigned)
        return kept.statement, kept.signatures

    # -- inside

    @property
    def _key(self) -> str:
        return self._identity.public.raw.hex()

    def _ledger(self, unit: Unit) -> Ledger:
        return Ledger(self._store, name=f"ledger.{unit}")

    def _floor(self, release: str) -> dict[str, bytes] | None:
        """What was seen before this sum; None after its survivors were signed for."""
        data = self._table.get(f"floor/{release}")
        return None if data is None else msgspec.msgpack.decode(data, type=dict[str, bytes])

    def _seen(self, release: str) -> dict[str, bytes]:
        """SHA-256 of each statement that was countersigned in this sum, by party."""
        data = self._table.get(f"seen/{release}")
        return {} if data is None else msgspec.msgpack.decode(data, type=dict[str, bytes])

    def _newer(self, name: str, data: bytes) -> bool:
        """Whether a statement goes beyond the one that is kept; a sum that was begun earlier may end later."""
        kept = self._table.get(f"peer/{name}")
        if kept is None:
            return True
        try:
            old, new = _kept_statement(kept), _kept_statement(data)
        except FormatError:  # of another version: what comes now is good
            return True
        return old.public_key != new.public_key or behind(old.ledgers, new.ledgers) is None
