"""Persons whom a party has been told to forget: later sums leave them out, and kept models are freed of them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from blindsight import modelfile
from blindsight.data import Column, Schema, Without, person_keys, records
from blindsight.detectors import SumDetector
from blindsight.errors import BlindsightError, DataError, SchemaError
from blindsight.store import Store

from ._exact import ExactTotals, version_of
from ._received import content_digest
from ._shelf import KeptModel, ModelShelf

__all__ = ["Forgetting", "Forgotten", "ModelOutcome", "check_person", "count_rows", "free_models"]

KEY_BYTES = 32
MARK = "mark/"
Outcome = Literal["subtracted", "would be subtracted", "not in it", "private", "fit again"]


@dataclass(frozen=True, kw_only=True)
class ModelOutcome:
    """What forgetting means for one kept model.

    Parameters
    ----------
    version : int
    run : str
    outcome : {"subtracted", "would be subtracted", "not in it", "private", "fit again"}
    why : str
        For people; no value of a record.
    became : int or None
        The version that is kept instead.
    """

    version: int
    run: str
    outcome: Outcome
    why: str
    became: int | None = None


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """What was, or would be, done.

    Parameters
    ----------
    persons, already : int
        Asked for; of which were forgotten before.
    rows : dict of "training", "evaluation" to int
        Rows of these persons in the party's records now.
    models : tuple of ModelOutcome
    dry_run : bool
    """

    persons: int
    already: int
    rows: dict[str, int]
    models: tuple[ModelOutcome, ...]
    dry_run: bool


class _Keep:
    """Keeps the rows of persons whose mark is not, or is, among some; its text names these."""

    def __init__(self, key: bytes, marks: frozenset[str], *, of_them: bool) -> None:
        self._key, self._marks, self._of_them = key, marks, of_them

    def __call__(self, persons: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        values, place = np.unique(persons, return_inverse=True)
        found = np.fromiter((_mark(self._key, value) in self._marks for value in values), np.bool_, len(values))
        keep: npt.NDArray[np.bool_] = found[place] == self._of_them
        return keep

    def __str__(self) -> str:
        return hashlib.sha256("".join(sorted(self._marks)).encode()).hexdigest()


class Forgotten:
    """Who is forgotten at one party, in its store.

    Parameters
    ----------
    store : Store

    Privacy
    -------
    Of a person a *mark* is kept: HMAC-SHA-256 of the value under a key of the store, so that a list of those to be
    forgotten does not name them. Whoever has the store and its sealing key can still test whether somebody is on it.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._table = store, store.table("forgotten")

    def marks(self) -> frozenset[str]:
        """Of everybody who is forgotten."""
        return frozenset(key.removeprefix(MARK) for key in self._table.keys(MARK))

    def marks_of(self, person: Column, values: Iterable[str]) -> frozenset[str]:
        """Marks of persons as somebody has typed them; nothing is written but the key of the marks.

        Raises
        ------
        DataError
            One cannot be a value of the person column. The message quotes it, for whoever typed it.
        """
        key = self._key()
        return frozenset(_mark(key, value) for value in person_keys(person, list(values)))

    def add(self, marks: Iterable[str], when_utc: str) -> None:
        """Forget from now on; on disk when this returns."""
        with self._store.transaction():
            for mark in marks:
                self._table.put(f"{MARK}{mark}", when_utc.encode())

    def leave_out(self, schema: Schema, source: object) -> object:
        """The source as sums may read it."""
        marks = self.marks()
        if not marks or schema.person is None:
            return source
        return Without(source, schema.person, _Keep(self._key(), marks, of_them=False))

    def theirs(self, person: Column, source: object, marks: frozenset[str]) -> Without:
        """These persons' rows alone."""
        return Without(source, person, _Keep(self._key(), marks, of_them=True))

    def was_left_out(self, run: str) -> None:
        """Remember whom an exact sum of this run is without."""
        marks = self.marks()
        if marks:
            self._table.put(f"run/{run}", msgspec.msgpack.encode(sorted(marks)))

    def left_out_of(self, run: str) -> frozenset[str]:
        """Whom the exact sums of a run are without."""
        stored = self._table.get(f"run/{run}")
        return frozenset(msgspec.msgpack.decode(stored, type=list[str])) if stored else frozenset()

    def _key(self) -> bytes:
        with self._store.transaction():
            key = self._table.get("key")
            if key is None:
                key = secrets.token_bytes(KEY_BYTES)
                self._table.put("key", key)
        return key


def _mark(key: bytes, value: object) -> str:
    return hmac.digest(key, str(value).encode(), "sha256").hex()


def count_rows(schema: Schema, source: object) -> int:
    """Rows of a source; 0 where it has none."""
    try:
        return sum(len(chunk) for chunk in records(schema, source, warn=False))
    except DataError as error:
        if error.what == "The source has no rows":
            return 0
        raise


def free_models(
    shelf: ModelShelf,
    forgotten: Forgotten,
    marks: frozenset[str],
    *,
    schema: Schema,
    source: object,
    exact: ExactTotals,
    allowed: frozenset[str],
    dry_run: bool,
) -> list[ModelOutcome]:
    """Subtract persons from every kept model that is one exact sum over records which are still there.

    Parameters
    ----------
    marks : frozenset of str
        Whom. Those whom a model is without already are passed over, so that a killed process can be started again.
    source : table or path
        The party's training records, with everybody in them.

    Privacy
    -------
    Stays here: the difference of two exact models is the records of who was forgotten.
    """
    return [
        _free(shelf, model, forgotten, marks, schema, source, exact, allowed, dry_run=dry_run) for model in shelf.models
    ]


def _free(
    shelf: ModelShelf,
    kept: KeptModel,
    forgotten: Forgotten,
    marks: frozenset[str],
    schema: Schema,
    source: object,
    exact: ExactTotals,
    allowed: frozenset[str],
    *,
    dry_run: bool,
) -> ModelOutcome:
    def told(outcome: Outcome, why: str, became: int | None = None) -> ModelOutcome:
        return ModelOutcome(version=kept.version, run=kept.run, outcome=outcome, why=why, became=became)

    todo = marks - set(kept.without) - forgotten.left_out_of(kept.run)
    if kept.took != "survivor" or not todo:
        return told("not in it", "no record of theirs at this party is in it")
    model = shelf.load(kept, allowed=allowed)
    if (model.certificate_ or {}).get("differential_privacy"):
        return told(
            "private",
            "it would have come out almost as likely without any one of them, within the epsilon of its certificate: "
            "nothing need change, and no budget comes back",
        )
    if not isinstance(model, SumDetector) or model.preparation_ is not None:
        return told("fit again", "what they did to it is no sum that could be subtracted")
    versions = {(exact.version(f"{kept.run}/{step}") or "").partition("+")[0] for step in ("fit", "threshold")}
    if versions != {version_of(source, schema)}:
        return told("fit again", "the records here have changed since, so that theirs cannot be told for sure")
    assert schema.person is not None
    theirs = forgotten.theirs(schema.person, source, todo)
    if not count_rows(schema, theirs):
        return told("not in it", "no record of theirs at this party is in it")
    try:
        model.forget(theirs)
    except BlindsightError as error:
        return told("fit again", f"it cannot be subtracted ({type(error).__name__})")
    if dry_run:
        return told("would be subtracted", "one exact sum, and their records are as they were")
    data = modelfile.dumps(model)
    made = shelf.replace(
        kept, data, sha256=hashlib.sha256(data).hexdigest(), content=content_digest(model), without=sorted(todo)
    )
    return told(
        "subtracted", f"version {made.version} is without them, and version {kept.version} is gone", made.version
    )


def check_person(schema: Schema) -> Column:
    """The person column, by which somebody can be forgotten.

    Raises
    ------
    SchemaError
    """
    if schema.person is None:
        raise SchemaError(
            "Nobody can be forgotten by name here",
            got="a schema without a person column",
            rule="a column of role 'person' says whose record it is",
            fix="delete the rows from the records; later sums are then without them",
        )
    return schema.person
