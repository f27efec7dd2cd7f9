"""What the parties' signed ledgers add to a run whose coordinator has none of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from blindsight.federation import LedgerExport
from blindsight.privacy import epsilon_of

from ._record import Budget, Charge, RunFile

__all__ = ["with_ledgers"]


def with_ledgers(run: RunFile, exports: Sequence[LedgerExport]) -> tuple[RunFile, tuple[str, ...]]:
    """Put the accounts that parties signed into the run, in place of what it says of the same parties.

    Parameters
    ----------
    run : RunFile
    exports : sequence of LedgerExport
        One of each party at most.

    Returns
    -------
    run : RunFile
        With budgets, and with the charges of this run alone: the others stand in the exports.
    without : tuple of str
        Parties of whose account nothing is known, neither from an export nor from the run itself.
    """
    signed = {export.party for export in exports}
    budgets = [budget for budget in run.budgets if budget.party not in signed]
    charges = [charge for charge in run.ledger if charge.party not in signed]
    for export in exports:
        budgets += _budgets(export, run.runs)
        charges += _charges(export, run.runs)
    known = signed | {budget.party for budget in budgets} | {charge.party for charge in charges}
    merged = msgspec.structs.replace(run, budgets=tuple(budgets), ledger=tuple(charges))
    return merged, tuple(name for name in run.parties if name not in known)


def _budgets(export: LedgerExport, runs: Sequence[str]) -> list[Budget]:
    budgets = []
    for unit, (spent, limit, delta) in export.budgets.items():
        entries = [entry for entry in export.entries if entry.unit == unit]
        before = [entry.event for entry in entries if not _is_of(entry.release_id, runs)]
        if entries:
            budgets.append(
                Budget(
                    party=export.party,
                    unit=unit,
                    spent=spent,
                    spent_before=float(epsilon_of(before, delta)) if before else 0.0,
                    limit=limit,
                    delta=delta,
                    exact_releases=sum(entry.event.exact for entry in entries),
                )
            )
    return budgets


def _charges(export: LedgerExport, runs: Sequence[str]) -> list[Charge]:
    return [
        Charge(
            party=export.party,
            release=entry.release_id,
            time_utc=entry.time_utc,
            purpose=entry.event.purpose,
            query=entry.event.query,
            unit=entry.unit,
            exact=entry.event.exact,
            rho=entry.event.rho,
            noise_stddev=0.0 if entry.event.exact else entry.event.total_stddev,
            output_stored=entry.output_stored,
            this_run=True,
        )
        for entry in export.entries
        if _is_of(entry.release_id, runs)
    ]


def _is_of(release: str, runs: Sequence[str]) -> bool:
    return release.partition("/")[0] in runs
