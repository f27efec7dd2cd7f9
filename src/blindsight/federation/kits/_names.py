"""What names, contacts and addresses may be: they become folders, certificates and lines of a list."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from blindsight._names import PARTY_NAME

__all__ = ["MAX_PARTIES", "RESERVED", "address_problem", "contact_problem", "host_of", "name_problem", "names_problems"]

RESERVED = frozenset({"authority", "broker", "coordinator"})
"""Folders of their own among the kits."""
SCHEMES = ("https", "grpcs", "mqtts", "flower")
MAX_PARTIES = 256
MAX_CONTACT_CHARS = 200
MAX_ADDRESS_CHARS = 200
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:]{2,45}")


def name_problem(name: str, *, reserved: Iterable[str] = ()) -> str | None:
    """Say what is wrong with a party's name, and a name that would do; None if nothing is."""
    if not re.fullmatch(PARTY_NAME, name):
        fix = re.sub(r"[^A-Za-z0-9._-]+", "-", name[:64]).strip("-._")
        return f"{name[:70]!r} is no name: letters, digits, '.', '_', '-', at most 64" + (
            f" (try {fix!r})" if fix else ""
        )
    if name.lower() in RESERVED | set(reserved):
        return f"{name!r} is reserved: a folder of the kits has this name (try {name + '-1'!r})"
    return None


def names_problems(names: list[str]) -> list[str]:
    """Names that occur twice, also where they differ in capitals alone: some file systems see one folder."""
    seen: dict[str, str] = {}
    problems = []
    for name in names:
        if (before := seen.get(name.lower())) is not None:
            problems.append(f"{name!r} and {before!r} are one name to some file systems: give each party its own")
        seen[name.lower()] = name
    return problems


def contact_problem(contact: str) -> str | None:
    """A contact is one printable line: whom to ring to compare a fingerprint."""
    if not 0 < len(contact) <= MAX_CONTACT_CHARS or not contact.isprintable():
        return f"a contact is one printable line of 1 to {MAX_CONTACT_CHARS} characters: name, mail, telephone"
    return None


def address_problem(address: str) -> str | None:
    """Say what is wrong with a coordinator's address: one of the schemes, host and port, no path, no user."""
    try:
        parts = urlsplit(address)
        port, host = parts.port, parts.hostname
    except ValueError:
        return f"{address[:80]!r} is no address (example: 'https://federation.example.org:8443')"
    rest = (parts.username, parts.password, parts.query, parts.fragment)
    if (
        len(address) > MAX_ADDRESS_CHARS
        or parts.scheme not in SCHEMES
        or (parts.scheme != "https" and port is None)
        or host is None
        or not _HOST.fullmatch(host)
        or port == 0
        or parts.path not in ("", "/")
        or any(rest)
    ):
        return (
            f"{address[:80]!r} is no address: {', '.join(SCHEMES)}, each with ://host:port alone "
            "(example: 'https://federation.example.org:8443')"
        )
    return None


def host_of(address: str) -> tuple[str, int]:
    """Host and port of an address that has been checked."""
    parts = urlsplit(address)
    assert parts.hostname is not None
    return parts.hostname, parts.port or 443
