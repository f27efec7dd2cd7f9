"""``federation.toml``: who takes part, where the coordinator is, how long certificates live."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindsight.errors import ParameterError, StoreError

from ._names import MAX_PARTIES, address_problem, contact_problem, name_problem, names_problems

__all__ = ["FederationPlan", "PlannedParty", "read_plan"]

MAX_FILE_BYTES = 1 << 18
MAX_ADDRESSES = 8
MAX_DAYS = 3650
MAX_LEAF_DAYS = 825
"""Longest life of a party's certificate; common verifiers accept no longer one."""

_EXAMPLE = """see docs/federation.md, 'The federation file'"""


@dataclass(frozen=True, kw_only=True)
class PlannedParty:
    """A data owner and whom to ring there."""

    name: str
    contact: str


@dataclass(frozen=True, kw_only=True)
class FederationPlan:
    """What ``federation.toml`` says.

    Parameters
    ----------
    name : str
    parties : tuple of PlannedParty
        Sorted by name; at least three.
    addresses : tuple of str
        Of the coordinator, ``https://host:port`` or ``grpcs://host:port``, or of a broker at which it is met,
        ``mqtts://host:port``; parties dial these, nothing listens at a party.
    coordinator : str
        Its name: common name of its certificate, and what policies call it.
    contact : str
        Whom to ring at the coordinator's.
    validity_days, authority_days : int
        Life of certificates, and of the authority's own.
    schema : Path or None
        A schema that all have agreed on; every kit gets a copy. Without it, kits have a blank one.
    text : str
        The file as it was written.
    """

    name: str
    parties: tuple[PlannedParty, ...]
    addresses: tuple[str, ...]
    coordinator: str
    contact: str
    validity_days: int
    authority_days: int
    schema: Path | None
    text: str


def read_plan(path: str | os.PathLike[str], *, look_for_schema: bool = True) -> FederationPlan:
    """Read a federation file, and say everything that is wrong with it at once.

    Parameters
    ----------
    path : path-like
    look_for_schema : bool
        Whether the schema that it names must be there. In the kits that were made of it, it has another place.

    Raises
    ------
    StoreError
        The file cannot be read.
    ParameterError
        It is not TOML, or cannot be used; one line for each problem, with what would do.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise StoreError(f"{path.name!r} could not be read", got=error.strerror or type(error).__name__) from error
    try:
        if len(raw) > MAX_FILE_BYTES:
            raise ValueError("it is longer than 256 KiB")
        text = raw.decode("utf-8")
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParameterError(f"{path.name!r} is not TOML", got=str(error)[:200], fix=_EXAMPLE) from error
    reader = _Reader(look_for_schema=look_for_schema)
    plan = reader.plan(values, text, path.parent)
    if reader.problems or plan is None:
        count = len(reader.problems)
        raise ParameterError(
            f"{path.name!r} has {count} problem{'s' if count != 1 else ''}",
            got="".join(f"\n{problem}" for problem in reader.problems[:50]),
            fix=_EXAMPLE,
        )
    return plan


class _Reader:
    """Collects problems; a value that cannot be used is replaced, so that the rest is still looked at."""

    def __init__(self, *, look_for_schema: bool) -> None:
        self._look_for_schema = look_for_schema
        self.problems: list[str] = []

    def plan(self, values: dict[str, Any], text: str, folder: Path) -> FederationPlan | None:
        self._unknown(
            values, "", ("version", "name", "validity_days", "authority_days", "schema", "coordinator", "parties")
        )
        if values.get("version", 1) != 1:
            self.problems.append("version: this reads version 1")
        name = self._text(values, "", "name")
        self._say("name", name_problem(name) if name else None)
        coordinator = values.get("coordinator", {})
        if not isinstance(coordinator, dict):
            self.problems.append("coordinator: a table, [coordinator]")
            coordinator = {}
        self._unknown(coordinator, "coordinator.", ("name", "contact", "addresses"))
        own_name = self._text(coordinator, "coordinator.", "name", "coordinator")
        if own_name.lower() != "coordinator":
            self._say("coordinator.name", name_problem(own_name))
        contact = self._text(coordinator, "coordinator.", "contact", "not given")
        self._say("coordinator.contact", contact_problem(contact))
        addresses = coordinator.get("addresses")
        if (
            not isinstance(addresses, list)
            or not 1 <= len(addresses) <= MAX_ADDRESSES
            or not all(isinstance(address, str) for address in addresses)
        ):
            self.problems.append(
                f"coordinator.addresses: a list of 1 to {MAX_ADDRESSES} addresses "
                "(example: addresses = ['https://federation.example.org:8443'])"
            )
            addresses = []
        for address in addresses:
            self._say("coordinator.addresses", address_problem(address))
        validity_days = self._days(values, "validity_days", 365, MAX_LEAF_DAYS)
        authority_days = self._days(values, "authority_days", MAX_DAYS, MAX_DAYS)
        if validity_days > authority_days:
            self.problems.append("validity_days: no certificate outlives the authority's (authority_days)")
        schema = self._schema(values, folder)
        parties = self._parties(values.get("parties"), own_name)
        if self.problems:
            return None
        return FederationPlan(
            name=name,
            parties=tuple(sorted(parties, key=lambda party: party.name)),
            addresses=tuple(addresses),
            coordinator=own_name,
            contact=contact,
            validity_days=validity_days,
            authority_days=authority_days,
            schema=schema,
            text=text,
        )

    def _parties(self, values: object, coordinator: str) -> list[PlannedParty]:
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            self.problems.append("parties: one [[parties]] table each, with name and contact")
            return []
        if not 3 <= len(values) <= MAX_PARTIES:
            self.problems.append(
                f"parties: {len(values)}; a federation has 3 to {MAX_PARTIES}, since from the total of two each reads "
                "the other's data"
            )
        found = []
        for i, value in enumerate(values):
            where = f"parties[{i + 1}]."
            self._unknown(value, where, ("name", "contact"))
            name, contact = self._text(value, where, "name"), self._text(value, where, "contact", "not given")
            if name:
                self._say(f"{where}name", name_problem(name, reserved=[coordinator.lower()]))
            self._say(f"{where}contact", contact_problem(contact))
            found.append(PlannedParty(name=name, contact=contact))
        self.problems += [f"parties: {problem}" for problem in names_problems([p.name for p in found if p.name])]
        return found

    def _schema(self, values: dict[str, Any], folder: Path) -> Path | None:
        if "schema" not in values:
            return None
        named = self._text(values, "", "schema")
        path = folder / named if named else folder
        if named and self._look_for_schema and not path.is_file():
            self.problems.append(f"schema: there is no file {named[:120]!r} beside the federation file")
        return path

    def _days(self, values: dict[str, Any], key: str, default: int, most: int) -> int:
        value = values.get(key, default)
        if type(value) is not int or not 1 <= value <= most:
            self.problems.append(f"{key}: a whole number of days, 1 to {most}")
            return min(default, most)
        return value

    def _text(self, values: dict[str, Any], where: str, key: str, default: str | None = None) -> str:
        value = values.get(key, default)
        if not isinstance(value, str) or not value:
            missing = key not in values
            self.problems.append(f"{where}{key}: {'missing' if missing else 'a text in quotes'}")
            return default or ""
        return value

    def _unknown(self, values: dict[str, Any], where: str, known: tuple[str, ...]) -> None:
        for key in sorted(set(values) - set(known)):
            self.problems.append(f"{where}{key[:60]}: unknown here (known: {', '.join(known)})")

    def _say(self, where: str, problem: str | None) -> None:
        if problem is not None:
            self.problems.append(f"{where}: {problem}")
