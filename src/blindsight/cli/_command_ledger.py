"""``blindsight ledger``: what a party's records have paid so far."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._exits import FINDING, command
from ._options import HomeOption, JsonOption, KeyFileOption, writable_target
from ._screen import Screen

if TYPE_CHECKING:
    from blindsight.privacy import Event

__all__ = ["ledger_export", "ledger_figures", "ledger_heads", "ledger_show", "ledger_verify", "ledger_write_off"]


@command
def ledger_show(home: HomeOption, key_file: KeyFileOption = None, json_output: JsonOption = False) -> None:
    """List every release that was charged, and what is left of each budget."""
    from blindsight.privacy import shown_epsilon

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
            f"{account.party}, per {account.unit}: epsilon {shown_epsilon(spent)} of {budget.epsilon:g} "
            f"at delta {budget.delta:g}"
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
             ("Noise that protects (sd)", "right"), ("Output", "left")],
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


@command
def ledger_heads(home: HomeOption, key_file: KeyFileOption = None, json_output: JsonOption = False) -> None:
    """Show where the ledgers stand, who has countersigned that, and what was seen of the other parties' ledgers."""
    import msgspec

    from blindsight.federation import open_party, read_statement

    from ._parties import party_folders

    screen = Screen(as_json=json_output)
    result: list[dict[str, Any]] = []
    behind = False
    for folder in party_folders(home):
        party = open_party(folder, key_file=key_file)
        heads, lost = party.heads, party.heads.lost()
        behind = behind or bool(lost)
        own, signed = heads.positions(), heads.countersigned()
        peers = {name: read_statement(data) for name, data in sorted(heads.kept().items())}
        rows = [(f"{party.name}, now", unit, at.count, at.written_off, at.head[:16], "") for unit, at in own.items()]
        statements = [] if signed is None else [(f"{party.name}, countersigned", *signed)]
        statements += [(name, statement, [party.name]) for name, statement in peers.items()]
        rows += [
            (name, unit, at.count, at.written_off, at.head[:16], f"{', '.join(by)}, in {statement.release}")
            for name, statement, by in statements
            for unit, at in statement.ledgers.items()
        ]
        screen.table(
            f"Heads of ledgers, as {party.name} knows them",
            [("Ledger", "left"), ("Unit", "left"), ("Lines", "right"), ("Written off", "right"), ("Head", "left"),
             ("Seen by", "left")],
            rows,
        )  # fmt: skip
        for why in lost.values():
            screen.say(f"{party.name}: the ledger is an old copy, {why}. Nothing is released until it is mended.")
        result.append(
            {
                "party": party.name,
                "ledgers": msgspec.to_builtins(own),
                "countersigned": None
                if signed is None
                else {"by": signed[1], "statement": msgspec.to_builtins(signed[0])},
                "peers": msgspec.to_builtins(peers),
                "lost": lost,
            }
        )
    screen.result({"parties": result})
    if behind:
        raise typer.Exit(FINDING)


@command
def ledger_write_off(
    home: HomeOption,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also where nothing here says that the ledger is an old copy.")
    ] = False,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Go on with an old copy of ledger.db where the newest one is lost: all that is left of the budget is charged."""
    from blindsight.federation import open_party
    from blindsight.privacy import shown_epsilon

    from ._parties import check_party_folder

    screen = Screen(as_json=json_output)
    check_party_folder(home)
    party = open_party(home, key_file=key_file)
    charged = party.write_off(anyway=anyway)
    for unit, epsilon in charged.items():
        screen.say(
            f"{party.name}, per {unit}: epsilon {shown_epsilon(epsilon)} written off; nothing is left of this budget."
        )
    screen.say("Exact sums of these records have ended for good. The other parties will accept this ledger again.")
    screen.say("A larger budget is a decision of the data owner: maximum_epsilon in policy.toml.")
    screen.result({"party": party.name, "written_off": charged})


@command
def ledger_export(
    home: HomeOption,
    output: Annotated[Path, typer.Option(help="File to write.")],
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write every line of a party's ledgers into one file that the party signs: what was asked, and what it cost."""
    from blindsight.federation import open_party, read_ledger_export
    from blindsight.keys import write_atomic

    from ._parties import check_party_folder

    screen = Screen(as_json=json_output)
    check_party_folder(home)
    writable_target(output, "--output", sources=home.iterdir())
    data = open_party(home, key_file=key_file).export_ledgers()
    export = read_ledger_export(data)  # what we write, we read
    write_atomic(output, data)
    screen.say(
        f"Wrote {output}: {len(export.entries)} charges of {export.party}, signed by {export.public_key[:16]}..."
    )
    screen.say("It says when what was asked of this party. No vector and no value of a record is in it.")
    screen.result({"output": str(output), "party": export.party, "charges": len(export.entries)})
