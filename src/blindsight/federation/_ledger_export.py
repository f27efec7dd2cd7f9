"""A party's ledgers as a signed file: every line as the chain holds it, for whoever has to sign off a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from blindsight.errors import AuthenticationError, FormatError
from blindsight.keys import Identity, PublicIdentity
from blindsight.privacy import Event, Ledger, Unit, epsilon_of, line_hash, walk

from ._heads import Heads, HeadStatement, read_statement, witness_message
from .kits._dates import now_utc
from .kits._signed import signed_bytes, verified

__all__ = ["ExportedEntry", "LedgerExport", "export_ledgers", "read_ledger_export"]

CONTEXT = b"blindsight ledger export v1"
MAX_EXPORT_BYTES = 1 << 26
Hex64 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Hex128 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}$")]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class _Ledger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    maximum_epsilon: Annotated[float, msgspec.Meta(gt=0, lt=1000)] | None
    delta: Annotated[float, msgspec.Meta(gt=0, lt=0.1)] | None
    lines: Annotated[list[Annotated[str, msgspec.Meta(max_length=8192)]], msgspec.Meta(max_length=1_000_000)]


class _Export(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1]
    party: Name
    public_key: Hex64
    date_utc: Annotated[str, msgspec.Meta(max_length=40)]
    ledgers: dict[Unit, _Ledger]
    countersigned: Annotated[str, msgspec.Meta(max_length=4096)]
    countersignatures: Annotated[dict[Name, Hex128], msgspec.Meta(max_length=256)]


class ExportedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One charge, as its line says.

    Attributes
    ----------
    unit, release_id, time_utc : str
    event : Event
    output_stored : bool
        Whether a later line holds the digest of its output; where none does, it is spent all the same.
    """

    unit: Unit
    release_id: str
    time_utc: str
    event: Event
    output_stored: bool


class LedgerExport:
    """A signed export, read and checked.

    Attributes
    ----------
    party, public_key, date_utc : str
    entries : list of ExportedEntry
    budgets : dict of unit to (epsilon spent, limit, delta)
        Of units that the policy had a budget for.
    heads : dict of unit to (lines, hash of the last line)
    countersigned : HeadStatement or None
    countersigners : list of str
    """

    def __init__(self, content: _Export, keys: Mapping[str, bytes] | None) -> None:
        self.party, self.public_key, self.date_utc = content.party, content.public_key, content.date_utc
        self.entries: list[ExportedEntry] = []
        self.budgets: dict[Unit, tuple[float, float, float]] = {}
        self.heads: dict[Unit, tuple[int, str]] = {}
        hashes: dict[Unit, list[str]] = {}
        for unit, ledger in content.ledgers.items():
            payloads = [line.encode() for line in ledger.lines]
            lines = walk(payloads)
            stored = {line.release_id for line in lines if line.event is None}
            entries = [
                ExportedEntry(
                    unit=unit,
                    release_id=line.release_id,
                    time_utc=line.time_utc,
                    event=line.event,
                    output_stored=line.release_id in stored,
                )
                for line in lines
                if line.event is not None
            ]
            self.entries += entries
            hashes[unit] = [line_hash(payload) for payload in payloads]
            self.heads[unit] = (len(payloads), hashes[unit][-1] if payloads else "")
            if ledger.maximum_epsilon is not None and ledger.delta is not None:
                spent = epsilon_of([entry.event for entry in entries], ledger.delta)
                self.budgets[unit] = (spent, ledger.maximum_epsilon, ledger.delta)
        self.countersigned: HeadStatement | None = None
        self.countersigners = sorted(content.countersignatures)
        if content.countersigned:
            self._check_countersigned(content, hashes, keys)

    def _check_countersigned(
        self, content: _Export, hashes: Mapping[Unit, list[str]], keys: Mapping[str, bytes] | None
    ) -> None:
        data = content.countersigned.encode()
        statement = read_statement(data)
        if (statement.party, statement.public_key) != (self.party, self.public_key):
            raise AuthenticationError("The countersigned head is another party's", got=statement.party)
        for unit, at in statement.ledgers.items():
            if at.count and hashes.get(unit, [])[at.count - 1 : at.count] != [at.head]:
                raise FormatError(
                    f"The ledger that {self.party} exports lacks a head that it had countersigned",
                    got=f"per {unit}, line {at.count}",
                    rule="a ledger only grows",
                    fix="ask the party why; see 'Heads of ledgers'",
                )
        if keys is not None:
            for name, signature in content.countersignatures.items():
                if name not in keys:
                    raise AuthenticationError("A countersignature is by nobody on the list", got=name)
                PublicIdentity(keys[name]).verify(bytes.fromhex(signature), witness_message(data, name))
        self.countersigned = statement

    def of_run(self, run: str) -> list[ExportedEntry]:
        """Charges of one run."""
        return [entry for entry in self.entries if entry.release_id.startswith(f"{run}/")]


def export_ledgers(name: str, identity: Identity, ledgers: Mapping[Unit, Ledger], heads: Heads) -> bytes:
    """Sign every line of a party's ledgers; the file is for whoever may know what the party has released, and when.

    Parameters
    ----------
    name : str
    identity : Identity
        The party's.
    ledgers : mapping of unit to Ledger
    heads : Heads

    Privacy
    -------
    What was asked of the party and what it cost; no vector, and no value of a record.
    """
    signed = heads.countersigned_bytes()
    statement, signatures = signed if signed is not None else (b"", {})
    content = _Export(
        version=1,
        party=name,
        public_key=identity.public.raw.hex(),
        date_utc=now_utc(),
        ledgers={
            unit: _Ledger(
                maximum_epsilon=None if ledger.budget is None else ledger.budget.epsilon,
                delta=None if ledger.budget is None else ledger.budget.delta,
                lines=[line.decode() for line in ledger.lines()],
            )
            for unit, ledger in ledgers.items()
        },
        countersigned=statement.decode(),
        countersignatures={witness: signature.hex() for witness, signature in signatures.items()},
    )
    return signed_bytes(content, identity, CONTEXT)


def read_ledger_export(data: bytes, *, keys: Mapping[str, bytes] | None = None) -> LedgerExport:
    """Read an untrusted export, and check signature, chains and countersignatures.

    Parameters
    ----------
    data : bytes
        At most 64 MiB.
    keys : mapping of party to Ed25519 public key, optional
        The participant list: the export must be by that party's key, and countersignatures by the others'.

    Raises
    ------
    FormatError, AuthenticationError
    """
    content = verified(data, _Export, CONTEXT, what="A ledger's export", limit=MAX_EXPORT_BYTES, signer="public_key")
    if keys is not None and keys.get(content.party) != bytes.fromhex(content.public_key):
        raise AuthenticationError(
            f"The export of '{content.party}' is not signed by its key on the participant list",
            fix="ask the party for it again, and compare fingerprints by telephone",
        )
    return LedgerExport(content, keys)
