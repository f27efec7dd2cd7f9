"""Which columns the parties' programs read in a run, and what for."""

from __future__ import annotations

from dataclasses import dataclass

from blindsight.data import Schema

from ._record import RunFile

__all__ = ["ColumnsRead", "columns_read", "records_used"]

ROLES = ("feature", "person", "entity", "time", "label")


@dataclass(frozen=True, kw_only=True)
class ColumnsRead:
    """Columns of one role.

    Parameters
    ----------
    role : str
    columns : tuple of str
    read : str
        Whether a party's program reads them, and what for.
    """

    role: str
    columns: tuple[str, ...]
    read: str


def records_used(run: RunFile) -> str:
    """Return the bound on what one person or one party adds, in words; empty where records count by themselves."""
    if run.privacy is not None and run.privacy.unit == "person":
        return f"of each person at most {run.privacy.max_records_per_person} are used"
    if run.privacy is not None and run.privacy.unit == "party" and run.privacy.max_records_per_party is not None:
        return f"of each party at most {run.privacy.max_records_per_party:,} are used in a sum over records"
    return ""


def columns_read(run: RunFile, schema: Schema | None) -> list[ColumnsRead]:
    """Return the columns by role, in the order of what is read most.

    Parameters
    ----------
    run : RunFile
    schema : Schema or None
        The run's. Without it the names of the features are known alone, and of the others what the run says.

    Notes
    -----
    A party's program loads every column of the roles feature, person, entity, time and label that its file has
    (``data.records``); which of them a sum uses follows from its purpose.
    """
    if schema is None:
        named = {"feature": run.model.features}
        if run.privacy is not None and run.privacy.unit == "person":
            named["person"] = ("(name not at hand)",)
        shown = [ColumnsRead(role=role, columns=columns, read=_use(role, run)) for role, columns in named.items()]
        unknown = "the schema is not in this bundle: TO BE COMPLETED"
        return [*shown, ColumnsRead(role="any other (label, time, ...)", columns=("(not at hand)",), read=unknown)]
    by_role: dict[str, list[str]] = {}
    for column in schema.columns:
        by_role.setdefault(column.role, []).append(column.name)
    order = [*(role for role in ROLES if role in by_role), *sorted(set(by_role) - set(ROLES))]
    return [ColumnsRead(role=role, columns=tuple(by_role[role]), read=_use(role, run)) for role in order]


def _use(role: str, run: RunFile) -> str:
    if role == "feature":
        return "yes: the sums are over these"
    if role == "person":
        if run.privacy is not None and run.privacy.unit == "person":
            return f"yes, to tell whose record it is: {records_used(run)}. No sum is over it"
        return "loaded with the records; this run did not count by persons, and no sum is over it"
    if role in ("entity", "time"):
        return "loaded with the records where they are there; a detector of series orders records by them"
    if role == "label":
        evaluated = run.evaluation is not None or any(stage.purpose == "evaluation" for stage in run.stages)
        return "loaded and checked with the records where they are there; training uses no label. " + (
            "Evaluation read it" if evaluated else "This run evaluated nothing; an evaluation would read it"
        )
    return "no"
