"""What a party does with keys, kits and lists: make a request, join with a kit, accept a newer list."""

from __future__ import annotations

import os
from pathlib import Path

from blindsight.errors import AuthenticationError, ParameterError, StoreError
from blindsight.keys import (
    Identity,
    Sealer,
    certificate_fingerprint,
    certificate_problems,
    read_certificate_file,
    read_tls_key,
    write_atomic,
    write_tls_key,
)

from ._following import Participants
from ._home import home_sealer, open_identity, open_store
from .kits import LIST_FILE, EnrolmentRequest, ListedParty, ParticipantList, PinnedList, name_problem

__all__ = ["accept_list", "enrol", "join"]

REQUEST_FILE = "request.json"
OWN_FILES = ("policy.toml", "schema.toml", "party.toml")
"""The data owner's to write: a kit's copy is taken only where there is none."""


def enrol(
    folder: str | os.PathLike[str],
    *,
    name: str,
    federation: str,
    contact: str,
    key_file: str | os.PathLike[str] | None = None,
    new_tls_key: bool = False,
) -> EnrolmentRequest:
    """Make a party's keys where they will stay, and the request that is sent instead of them.

    Parameters
    ----------
    folder : path-like
        The party's folder; made if it is not there. An identity that is in it is kept.
    name, federation, contact : str
    key_file : path-like, optional
        Seals the identity; otherwise ``keys/home.key`` in the folder.
    new_tls_key : bool
        Whether to make another TLS key, for a certificate that is to be renewed. The present one stays in use
        until the answer is joined.

    Returns
    -------
    EnrolmentRequest
        Also in ``request.json`` of the folder. It holds public keys alone.

    Raises
    ------
    ParameterError
        A name or contact cannot be used.
    StoreError, AuthenticationError
    """
    for problem in (name_problem(name), name_problem(federation)):
        if problem is not None:
            raise ParameterError("A name cannot be used", got=problem)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError("The party's folder cannot be made", got=error.strerror or "an error") from error
    identity = open_identity(folder, _sealer(key_file))
    present, coming = folder / "keys" / "tls.key", folder / "keys" / "tls.key.new"
    path = coming if new_tls_key else present
    key = read_tls_key(path) if path.exists() else write_tls_key(path)
    request = EnrolmentRequest.make(federation=federation, name=name, contact=contact, identity=identity, tls_key=key)
    write_atomic(folder / REQUEST_FILE, request.data, mode=0o644)
    return request


def join(
    kit: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    key_file: str | os.PathLike[str] | None = None,
    fingerprint: str | None = None,
) -> ParticipantList:
    """Take over what a kit holds, once everything in it fits together; pin the federation's key.

    Parameters
    ----------
    kit : path-like
        Folder that ``init`` made; the party's own folder where its keys came in it.
    folder : path-like
        The party's folder.
    key_file : path-like, optional
    fingerprint : str, optional
        Of the federation's key, as heard by telephone.

    Returns
    -------
    ParticipantList
        The one that is pinned now.

    Raises
    ------
    StoreError, FormatError
        A file is missing or malformed.
    AuthenticationError
        Certificate, keys, authority and list do not belong together, or another federation is pinned. Nothing was
        changed.
    """
    kit, folder = Path(kit), Path(folder)
    listing = ParticipantList.read(kit)
    certificate, authority = read_certificate_file(kit / "tls.crt"), read_certificate_file(kit / "authority.crt")
    if certificate_fingerprint(authority) != listing.content.authority:
        raise AuthenticationError(
            "The kit's authority is not the one on the participant list",
            got=certificate_fingerprint(authority)[:16],
            rule=listing.content.authority[:16],
            fix="ask for the kit again",
        )
    keys = folder / "keys"
    wanted = next(
        (path for path in (kit / "keys" / "tls.key", keys / "tls.key.new", keys / "tls.key")
         if path.exists() and read_tls_key(path).public_key() == certificate.public_key()),
        None,
    )  # fmt: skip
    if wanted is None:
        raise AuthenticationError(
            "The kit's certificate is for a key that is not here",
            got=str(folder)[:200],
            rule="keys/tls.key of the folder in which the request was made",
            fix="give that folder as --home, or make a new request: blindsight party enrol",
        )
    elsewhere = kit.resolve() != folder.resolve()
    sent = kit / "keys" / "identity" if elsewhere else None
    if sent is not None and sent.exists():
        identity = Identity.load(sent, Sealer.from_key_file(kit / "keys" / "home.key"))
    else:
        sent, identity = None, open_identity(folder, _sealer(key_file))
    entry = _own_entry(listing, identity.public.raw.hex())
    problems = certificate_problems(certificate, authority, server=False, name=entry.name)
    if certificate_fingerprint(certificate) != entry.certificate:
        problems.append("the participant list names another certificate for this party")
    if problems:
        raise AuthenticationError(
            "The kit's certificate would not be accepted", got="; ".join(problems), fix="ask for the kit again"
        )
    keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    sealer = home_sealer(keys, None if key_file is None else Path(key_file))
    store = open_store(folder, sealer)
    try:
        Participants(store, entry.name, identity.public.raw).follow(listing, fingerprint=fingerprint)
    finally:
        store.close()
    if sent is not None:  # sealed anew, as this folder is
        (keys / "identity.new").unlink(missing_ok=True)
        identity.save(keys / "identity.new", sealer)
        os.replace(keys / "identity.new", keys / "identity")
    for name in ("tls.crt", "authority.crt", LIST_FILE):
        write_atomic(folder / name, (kit / name).read_bytes(), mode=0o644)
    for name in OWN_FILES:
        if not (folder / name).exists():
            write_atomic(folder / name, (kit / name).read_bytes())
    if wanted != keys / "tls.key":
        write_atomic(keys / "tls.key", wanted.read_bytes())
        if wanted.parent == keys:
            wanted.unlink()
    return listing


def accept_list(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    key_file: str | os.PathLike[str] | None = None,
    fingerprint: str | None = None,
) -> tuple[ParticipantList, ParticipantList | None]:
    """Accept a newer participant list, also while the party's process runs; return it and the one before.

    Raises
    ------
    StoreError, FormatError, AuthenticationError
        As :meth:`Party.follow`; the present list is as it was.
    """
    folder = Path(folder)
    if not (folder / "keys" / "identity").exists():
        raise StoreError(
            "This is no party's folder", got=str(folder)[:200], rule="keys/identity in it", fix="give it as --home"
        )
    listing = ParticipantList.read(path)
    identity = open_identity(folder, _sealer(key_file))
    entry = _own_entry(listing, identity.public.raw.hex())
    store = open_store(folder, _sealer(key_file))
    try:
        with store.transaction():
            before = PinnedList(store).current()
            Participants(store, entry.name, identity.public.raw).follow(listing, fingerprint=fingerprint)
            # before it is pinned for others to see: whoever finds the file to be too old reads it again
            write_atomic(folder / LIST_FILE, listing.data, mode=0o644)
    finally:
        store.close()
    return listing, before


def _own_entry(listing: ParticipantList, public_key: str) -> ListedParty:
    entry = next((party for party in listing.parties if party.public_key == public_key), None)
    if entry is None:
        gone = next((one for one in listing.revoked if one.public_key == public_key), None)
        raise AuthenticationError(
            "The participant list does not hold this party's key",
            got=f"{gone.reason} by list {gone.serial} on {gone.date_utc[:10]}" if gone is not None else None,
            rule=f"list {listing.serial} of '{listing.federation}': {', '.join(p.name for p in listing.parties)}"[:300],
            fix="ring the federation's operator",
        )
    return entry


def _sealer(key_file: str | os.PathLike[str] | None) -> Sealer | None:
    return Sealer.from_key_file(key_file) if key_file is not None else None
