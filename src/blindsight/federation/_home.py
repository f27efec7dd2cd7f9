"""A party's folder: identity, policy, schema, pinned participants, ledger; made once, reopened ever after."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from blindsight._names import PARTY_NAME
from blindsight.data import Schema
from blindsight.errors import (
    AuthenticationError,
    FormatError,
    ParameterError,
    PolicyError,
    StoreError,
    SurvivorsError,
)
from blindsight.keys import Identity, Sealer, create_key_file, write_atomic
from blindsight.store import Store

from ._audit import AUDIT_FILE, AuditLog
from ._party import Party
from ._policy import Policy
from ._shelf import MODELS_FOLDER, ModelShelf
from .kits import LIST_FILE, ParticipantList

__all__ = [
    "PartyFile",
    "check_enough",
    "check_participant_list",
    "check_parties",
    "home_sealer",
    "lent",
    "open_audit",
    "open_identity",
    "open_party",
    "open_store",
    "parties_in_memory",
    "provision",
    "read_party_file",
]

log = logging.getLogger(__name__)


class PartyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``party.toml`` says."""

    name: Annotated[str, msgspec.Meta(pattern=rf"\A{PARTY_NAME}\Z")]
    data: Annotated[str, msgspec.Meta(max_length=4096)]
    evaluation: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    coordinator: Annotated[tuple[str, ...], msgspec.Meta(max_length=8)] = ()


def open_identity(folder: Path, sealer: Sealer | None) -> Identity:
    """Load the party's identity, or make one. Without a sealer it is sealed with ``keys/home.key`` (mode 0600)."""
    keys = folder / "keys"
    keys.mkdir(exist_ok=True, mode=0o700)
    sealer = sealer if sealer is not None else _home_sealer(keys)
    path = keys / "identity"
    if path.exists():
        return Identity.load(path, sealer)
    identity = Identity.generate()
    identity.save(path, sealer)
    return identity


def open_store(folder: Path, sealer: Sealer | None) -> Store:
    """Open the party's ``ledger.db``, sealed like its identity."""
    keys = folder / "keys"
    keys.mkdir(exist_ok=True, mode=0o700)
    return Store(folder / "ledger.db", sealer if sealer is not None else _home_sealer(keys))


def home_sealer(keys: Path, key_file: Path | None) -> Sealer:
    """The sealer of a party's folder: of the key file that is given, or of ``keys/home.key``."""
    return _home_sealer(keys) if key_file is None else Sealer.from_key_file(key_file)


def _home_sealer(keys: Path) -> Sealer:
    path = keys / "home.key"
    if not path.exists():
        if (keys / "identity").exists():  # made with another key: a new one beside it would open nothing
            raise AuthenticationError(
                f"The folder of '{keys.parent.name}' is sealed: identity and ledger",
                rule="it opens with the key file that sealed it",
                fix="give --key-file, or key_file=... in Python",
            )
        create_key_file(path)
    return Sealer.from_key_file(path)


def parties_in_memory(
    data: Mapping[str, Any],
    *,
    schema: Schema,
    policy: Policy | Mapping[str, Policy] | None,
    home: str | os.PathLike[str] | None,
    sealer: Sealer | None,
) -> dict[str, Party]:
    """Make all parties in this process, each with the same pinned list; ``home`` keeps identities and ledgers."""
    parties = {}
    for name in sorted(data):
        own = policy.get(name) if isinstance(policy, Mapping) else policy
        if home is None:
            identity, store = Identity.generate(), Store(None)
        else:
            folder = Path(home) / name
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            identity, store = open_identity(folder, sealer), open_store(folder, sealer)
        parties[name] = Party(
            name=name,
            data=data[name],
            schema=schema,
            identity=identity,
            policy=own or Policy(),
            store=store,
            audit=None if home is None else AuditLog(folder / AUDIT_FILE, store),
            models=None if home is None else ModelShelf(folder / MODELS_FOLDER, sealer),
        )
    participants = [(name, party.public_key) for name, party in parties.items()]
    for party in parties.values():
        party.pin(participants)
    return parties


@contextlib.contextmanager
def lent(parties: Mapping[str, Party], data: Mapping[str, Any]) -> Iterator[None]:
    """Give every party in this process labelled records to evaluate on, and take them back.

    Raises
    ------
    ParameterError
        A table for a party that is not here, or none for one that is.
    """
    unknown = sorted(set(data) - set(parties))
    if unknown:
        raise ParameterError(
            "evaluate was given data for parties that are not in this process",
            got=", ".join(unknown),
            fix="give each party its own evaluation file",
        )
    missing = sorted(set(parties) - set(data))
    if missing:
        raise ParameterError(
            "evaluate was not given data for every party",
            got=f"none for {', '.join(missing)}",
            fix="give one table a party, or data=None",
        )
    for name, table in data.items():
        parties[name].set_data("evaluation", table)
    try:
        yield
    finally:
        for party in parties.values():
            party.set_data("evaluation", None)


def check_enough(parties: int) -> None:
    """Refuse fewer than three parties.

    Raises
    ------
    SurvivorsError
    """
    if parties < 3:
        raise SurvivorsError(
            "A federation needs at least three parties",
            got=str(parties),
            rule="from the total of two, each reads the other's data",
            fix="invite a third party",
        )


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if not re.fullmatch(PARTY_NAME, name):
            raise ParameterError(
                "A party's name cannot be used",
                got=repr(name)[:80],
                rule="letters, digits, '.', '_', '-'; at most 64",
                fix=re.sub(r"[^A-Za-z0-9._-]+", "-", name[:64]).strip("-._") or None,
            )


def check_parties(names: Collection[str]) -> None:
    """Refuse names that no folder can have, and fewer than three; before anything is written.

    Raises
    ------
    ParameterError, SurvivorsError
    """
    _check_names(names)
    check_enough(len(names))


def check_participant_list(
    participants: Iterable[tuple[str, bytes]], reachable: Collection[str]
) -> list[tuple[str, bytes]]:
    """A participant list, sorted, if a federation can be run with it over a channel that reaches those parties.

    Raises
    ------
    ParameterError
        A name or key that cannot be used, one that occurs twice, or a party that the channel does not know.
    SurvivorsError
        Fewer than three.
    """
    listing = sorted((name, bytes(key)) for name, key in participants)
    names, keys = {name for name, _ in listing}, {key for _, key in listing}
    check_parties(names)
    if len(names) < len(listing) or len(keys) < len(listing) or any(len(key) != 32 for key in keys):
        raise ParameterError(
            "The participant list cannot be used",
            rule="each name once, each with an Ed25519 public key of its own, 32 bytes",
        )
    unreachable = sorted(names - set(reachable))
    if unreachable:
        raise ParameterError(
            "The channel does not know every participant",
            got=", ".join(unreachable),
            fix="put the fingerprint of each party's certificate on the channel's list",
        )
    return listing


def provision(
    home: Path,
    *,
    data: Mapping[str, str | os.PathLike[str]],
    evaluation: Mapping[str, str | os.PathLike[str]],
    schema: Schema,
    policy: Policy | Mapping[str, Policy] | None,
    key_file: str | os.PathLike[str] | None,
) -> list[tuple[str, bytes]]:
    """Make or refresh one folder a party and pin the participant list in each; return the list.

    For parties on one machine. Across machines each data owner makes its own folder.
    """
    _check_names(data)
    unknown = sorted(set(evaluation) - set(data))
    if unknown:
        raise ParameterError("Evaluation data for an unknown party", got=", ".join(unknown))
    for name in sorted(data):  # before anything is written: a folder that was made for others is left as it is
        _check_folder(home / name, sorted(data), policy.get(name) if isinstance(policy, Mapping) else policy)
    sealer = Sealer.from_key_file(key_file) if key_file is not None else None
    participants = []
    for name in sorted(data):
        folder = home / name
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreError(f"The folder of '{name}' cannot be made", got=error.strerror or "an error") from error
        own = policy.get(name) if isinstance(policy, Mapping) else policy
        _write_party_file(folder, name, Path(data[name]), evaluation.get(name))
        schema.write(folder / "schema.toml")
        if not (folder / "policy.toml").exists():
            write_atomic(folder / "policy.toml", (own or Policy()).to_toml().encode())
        participants.append((name, open_identity(folder, sealer).public.raw))
    listing = msgspec.json.encode([[name, key.hex()] for name, key in participants])
    for name in data:
        write_atomic(home / name / "participants.json", listing)
    return participants


def _check_folder(folder: Path, names: list[str], policy: Policy | None) -> None:
    """Refuse a folder that belongs to another federation, or whose owner has another policy."""
    if (folder / "participants.json").exists():
        pinned = sorted(name for name, _ in _participants(folder))
        if pinned != names:
            raise AuthenticationError(
                f"The folder of '{folder.name}' belongs to a federation of other parties",
                got=", ".join(names),
                rule=f"pinned there: {', '.join(pinned)}",
                fix="check the spelling of the names, or use another home folder",
            )
    if policy is not None and (folder / "policy.toml").exists() and Policy.read(folder / "policy.toml") != policy:
        raise PolicyError(
            f"The party '{folder.name}' has a policy of its own, which differs from the one given",
            rule="a policy is its data owner's: nothing replaces it",
            fix=f"edit {folder.name}/policy.toml there, or leave the policy out",
        )


def _participants(folder: Path) -> list[tuple[str, bytes]]:
    try:
        listing = msgspec.json.decode((folder / "participants.json").read_bytes(), type=list[tuple[str, str]])
        return [(name, bytes.fromhex(key)) for name, key in listing]
    except (OSError, ValueError) as error:
        raise FormatError(
            f"participants.json of '{folder.name}' cannot be used", got=str(error)[:200], fix="restore it"
        ) from error


def _write_party_file(folder: Path, name: str, data: Path, evaluation: str | os.PathLike[str] | None) -> None:
    def quoted(path: str | os.PathLike[str]) -> str:
        return msgspec.json.encode(str(Path(path).resolve())).decode()

    lines = [f'name = "{name}"', f"data = {quoted(data)}"]
    if evaluation is not None:
        lines.append(f"evaluation = {quoted(evaluation)}")
    write_atomic(folder / "party.toml", ("\n".join(lines) + "\n").encode())


def open_audit(folder: str | os.PathLike[str], *, key_file: str | os.PathLike[str] | None = None) -> AuditLog:
    """Open the audit log of a party's folder.

    Raises
    ------
    StoreError, AuthenticationError
        It is no party's folder, or another key sealed it.
    """
    folder = Path(folder)
    if not (folder / "ledger.db").is_file():
        raise StoreError(
            "This is no party's folder", got=str(folder)[:200], rule="ledger.db in it", fix="--home FOLDER"
        )
    return AuditLog(folder / AUDIT_FILE, open_store(folder, Sealer.from_key_file(key_file) if key_file else None))


def read_party_file(folder: Path) -> PartyFile:
    """Read ``party.toml``.

    Raises
    ------
    FormatError
        It is missing or malformed.
    """
    try:
        text = (folder / "party.toml").read_text(encoding="utf-8")
        return msgspec.convert(tomllib.loads(text), PartyFile)
    except (OSError, ValueError) as error:
        raise FormatError(
            f"party.toml of '{folder.name}' cannot be used", got=str(error)[:300], fix="correct it, or restore it"
        ) from error


class _PolicyFile:
    """The policy as the file says it now: an edit holds from the next message on, without a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._policy = Policy()

    def __call__(self) -> Policy:
        """Read the file if it changed; one that cannot be used lets nothing through."""
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            seen = None
        if seen is None or seen != self._seen:
            self._policy = Policy.read(self._path)
            self._seen = seen
        return self._policy


def open_party(folder: str | os.PathLike[str], *, key_file: str | os.PathLike[str] | None = None) -> Party:
    """Open a party from its folder.

    Raises
    ------
    FormatError, ParameterError, SchemaError, AuthenticationError, StoreError
        A file is missing or malformed, or another key sealed it.
    """
    folder = Path(folder)
    sealer = Sealer.from_key_file(key_file) if key_file is not None else None
    try:
        settings = msgspec.convert(tomllib.loads((folder / "party.toml").read_text(encoding="utf-8")), PartyFile)
        listing = ParticipantList.read(folder / LIST_FILE) if (folder / LIST_FILE).exists() else None
        participants = _participants(folder) if listing is None else []
    except (OSError, ValueError) as error:
        raise FormatError(
            f"The party's folder '{folder.name}' is incomplete",
            got=str(error)[:300],
            rule=f"party.toml, {LIST_FILE} or participants.json, policy.toml, schema.toml, keys/",
            fix="make it again with 'blindsight fit --home', ask for its kit again, or restore it",
        ) from error
    identity, store = open_identity(folder, sealer), open_store(folder, sealer)
    policy = _PolicyFile(folder / "policy.toml")
    party = Party(
        name=settings.name,
        data=folder / settings.data,
        evaluation=folder / settings.evaluation if settings.evaluation is not None else None,
        schema=Schema.read(folder / "schema.toml"),
        identity=identity,
        policy=policy(),
        store=store,
        audit=AuditLog(folder / AUDIT_FILE, store),
        policy_source=policy,
        models=ModelShelf(folder / MODELS_FOLDER, sealer),
    )
    if listing is None:
        party.pin(participants)
    elif (taken := _follow(party, listing, folder / LIST_FILE)) is not None:
        log.warning("%s follows participant list %d by %s", party.name, taken.serial, taken.fingerprint)
    return party


def _follow(party: Party, listing: ParticipantList, path: Path) -> ParticipantList | None:
    """Follow the list in the file; return it where it is new. Another process may be accepting a newer one just now."""
    while True:
        try:
            return listing if party.follow(listing) else None
        except AuthenticationError:
            present = ParticipantList.read(path)  # it is written before it is pinned
            if present.data == listing.data:
                raise
            listing = present
