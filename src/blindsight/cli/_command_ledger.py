"""``blindsight ledger``: what a party's records have paid so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._exits import FINDING, command
from ._options import HomeOption, JsonOption, KeyFileOption
from ._screen import Screen

if TYPE_CHECKING:
    from blindsight.privacy import Event

__all__ = ["ledger_figures", "ledger_show", "ledger_verify"]


@command
def ledger_show(home: HomeOption, key_file: KeyFileOption = None, json_output: JsonOption = False) -> None:
    """List every release that was charged, and what is left of each budget."""
    from ._fit import charge_of
    from ._parties import accounts

    screen = Screen(as_json=json_output)
    result = []
    for account in accounts(home, key_file=key_file):
        entries = account.charged()
        charges = [charge_of(account.party, entry) for entry in entries]
        spent, budget = account.ledger.spent(), account.ledger.budget
        assert budget is not None  # a party always has one
        result.append(
            {
                "party": account.party,
                "unit": account.unit,
                "spent": spent,
                "budget": budget.epsilon,
                "delta": budget.delta,
                "head": account.ledger.head(),
                "releases": [
                    {"release": c.release, "time_utc": c.time_utc, "purpose": c.purpose, "exact": c.exact,
                     "rho": c.rho, "noise_stddev": c.noise_stddev, "output_stored": c.output_stored,
                     "mechanism": entry.event.mechanism, "sampling_rate": entry.event.sampling_rate,
                     "noise_multiplier": entry.event.noise_multiplier, "steps": entry.event.steps}
                    for c, entry in zip(charges, entries, strict=True)
                ],
            }
        )  # fmt: skip
        title = (
            f"{account.party}, per {account.unit}: epsilon {spent:.3f} of {budget.epsilon:g} at delta {budget.delta:g}"
        )
        exact_sums = sum(charge.exact for charge in charges)
        if exact_sums:
            title += f"; and {exact_sums} exact sum{'s' * (exact_sums > 1)}, which no epsilon bounds"
        if not charges:
            screen.say(f"{title}; nothing was charged.\n")
            continue
        screen.table(
            title,
            [("Time (UTC)", "left"), ("Release", "left"), ("Purpose", "left"), ("rho", "right"),
             ("Noise (sd)", "right"), ("Output", "left")],
            [
                (c.time_utc, c.release, c.purpose, *_cost(entry.event),
                 "stored" if c.output_stored else "never stored, spent")
                for c, entry in zip(charges, entries, strict=True)
            ],
        )  # fmt: skip
    screen.result({"accounts": result})


def _cost(event: Event) -> tuple[str, str]:
    """What a release cost, and its noise. DP-SGD has no rho: its rate, noise multiplier and steps are its cost."""
    if event.exact:
        return "exact sum", "none"
    if event.sampled:
        return f"DP-SGD, {event.steps} steps at rate {event.sampling_rate:.4g}", f"{event.noise_multiplier:.4g} x clip"
    return f"{event.rho:.3g}", f"{event.total_stddev:.1f}"


@command
def ledger_figures(home: HomeOption, key_file: KeyFileOption = None, json_output: JsonOption = False) -> None:
    """List what each party measured of every evaluated model on its own records. Exact: for that party's eyes."""
    from dataclasses import asdict

    from blindsight.federation import open_party

    from ._parties import party_folders

    screen = Screen(as_json=json_output)
    result: list[dict[str, Any]] = []
    for folder in party_folders(home):
        party = open_party(folder, key_file=key_file)
        # a run's id says nothing of when; the charge of its evaluation does
        when = {entry.release_id: entry.time_utc for ledger in party.ledgers.values() for entry in ledger.entries()}
        figures = [{"time_utc": when.get(f"{own.run}/evaluation"), **asdict(own)} for own in party.own_figures()]
        figures.sort(key=lambda own: own["time_utc"] or "")
        result += figures
        if not figures:
            screen.say(f"{party.name}: no model was evaluated here.\n")
            continue
        screen.table(
            f"{party.name}, on its own records, exactly: none of this has left it",
            [("Time (UTC)", "left"), ("Run", "left"), ("Records", "right"), ("Anomalous", "right"), ("AUROC", "right"),
             ("FPR", "right"), ("FNR", "right"), ("Own threshold", "right"), ("FPR", "right"), ("FNR", "right")],
            [
                (own["time_utc"] or "unknown", own["run"], f"{own['records']:,}", f"{own['anomalous']:,}",
                 _rate(own["auroc"]), _rate(own["false_positive_rate"]), _rate(own["false_negative_rate"]),
                 f"{own['own_threshold']:.4g}", _rate(own["own_false_positive_rate"]),
                 _rate(own["own_false_negative_rate"]))
                for own in figures
            ],
        )  # fmt: skip
    screen.result({"figures": result})


def _rate(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


@command
def ledger_verify(
    home: HomeOption,
    seen_head: Annotated[
        list[str] | None,
        typer.Option(help="A head that 'ledger show --json' printed earlier; it must still be in one of the ledgers."),
    ] = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check the hash chain of every ledger and every stored output."""
    from blindsight.errors import BlindsightError, FormatError, ParameterError

    from ._parties import accounts

    screen = Screen(as_json=json_output)
    heads = seen_head or []
    if any(len(head) != 64 or set(head) - set("0123456789abcdef") for head in heads):
        raise ParameterError("--seen-head is no head", rule="64 hexadecimal digits, from 'ledger show --json'")
    found: list[dict[str, Any]] = []
    missing = set(heads)
    for account in accounts(home, key_file=key_file):
        problem, lines = None, 0
        try:
            lines = account.ledger.verify()
            for head in sorted(missing):
                try:
                    account.ledger.verify(head)
                    missing.discard(head)
                except FormatError:
                    continue  # it may be another ledger's
        except BlindsightError as error:  # damaged lines, or a sealed value that no longer opens
            problem = str(error)
        found.append({"party": account.party, "unit": account.unit, "lines": lines, "problem": problem})
        state = "damaged. " + problem if problem else f"intact, {lines} lines"
        screen.say(f"{account.party}, per {account.unit}: {state}")
    for head in sorted(missing):
        screen.say(f"No ledger contains the head {head[:16]}...: one was rolled back or rewritten.")
    bad = bool(missing) or any(entry["problem"] for entry in found)
    screen.result({"intact": not bad, "ledgers": found, "missing_heads": sorted(missing)})
    if bad:
        raise typer.Exit(FINDING)
