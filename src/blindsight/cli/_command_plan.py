"""``blindsight plan``: what something would cost, before it is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from ._exits import REFUSED, command
from ._options import AllowOption, JsonOption, KeyFileOption, sealer_of
from ._screen import Screen

if TYPE_CHECKING:
    from blindsight.blind import Cost, Option, Survey
    from blindsight.blind._planner_trust import Trust

__all__ = ["plan_blind"]

Reveal = Literal["score", "verdict"]
T = TypeVar("T")


@command
def plan_blind(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    rows: Annotated[int, typer.Option(help="Records of a batch.")] = 1000,
    round_trip_ms: Annotated[
        float, typer.Option("--round-trip-ms", help="Between any two machines, in milliseconds.")
    ] = 10.0,
    mbit: Annotated[float, typer.Option("--mbit", help="Between them, in millions of bits a second.")] = 100.0,
    verdict: Annotated[
        bool, typer.Option("--verdict", help="Reveal one bit a record, above the threshold or not, instead of scores.")
    ] = False,
    measure: Annotated[
        int,
        typer.Option(
            "--measure", help="Of networks under MPC: find the error of so many records drawn at random. Takes seconds."
        ),
    ] = 0,
    allow: AllowOption = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """List what scoring a model blind would cost with each engine, what it gives away, and which to take."""
    from blindsight import modelfile
    from blindsight.blind import Connection, survey

    screen = Screen(as_json=json_output)
    reveal: Reveal = "verdict" if verdict else "score"
    line = Connection(round_trip_ms=round_trip_ms, mbit=mbit)
    loaded = modelfile.load(model, sealer=sealer_of(key_file), allowed=frozenset(allow or ()))
    found = survey(loaded, rows=rows, reveal=(reveal,), connection=line, measure=measure)
    best = found.recommended(reveal)
    able = [option for option in found.options if not option.refusal]
    measured = any(not math.isnan(option.measured) for option in able)
    if able:
        screen.table(
            f"{found.model}, {rows:,} records, {reveal}s; {line}",
            [("", "left"), *((f"{o.name} *" if o is best else o.name, "right") for o in found.options)],
            [
                (label, *(cell(o) if cell is _error or not o.refusal else "" for o in found.options))
                for label, cell in (COSTS[0], *((MEASURED,) if measured else ()), *COSTS[1:])
            ],
        )
        _say(
            screen,
            "Bytes and bits are exact; times, on one core of each machine, and bytes between servers are estimated. "
            "Set-up is once, the batch every time. Extract: well-chosen records that reveal every answer.",
        )
        if measured:
            _say(
                screen,
                f"Measured, not proved: the largest error at the threshold of {measure:,} records drawn at random, in "
                "the operators' arithmetic on this machine alone. Their protocols round at random besides: take it for "
                "its size.",
            )
        elif any(math.isnan(option.error) for option in able):
            _say(screen, "No bound is known for such layers: --measure 16 scores some records and tells their error.")
    else:
        screen.say(f"{found.model}, {rows:,} records, {reveal}s")
    screen.say()
    for names, text in _together((o.name, o.describe()) for o in able):
        _say(screen, f"{names}: {text}.")
    for names, text in _together((o.name, o.refusal) for o in found.options if o.refusal):
        _say(screen, f"{names}: refused: {text}.")
    if able:
        screen.say()
        trusts = [(names, trust) for names, trust in _together((o.name, o.trust) for o in able)]
        screen.table(
            "Who is trusted, and who learns what",
            [("", "left"), *((names, "left") for names, _ in trusts)],
            [(label, *(cell(trust) for _, trust in trusts)) for label, cell in TRUSTS],
        )
    if not found.secret:
        _say(
            screen,
            "The model is not secret: its public encoder was learned from data, and whoever seals records reads it. "
            "Every engine hides the records, none all of the model.",
        )
    _say(screen, found.why(reveal))
    screen.result(_plain(found, best))
    if best is None:
        raise typer.Exit(REFUSED)


def _cost(option: Option) -> Cost:
    assert option.cost is not None  # of those that are not refused
    return option.cost


def _error(option: Option) -> str:
    if option.refusal:
        return "refused"
    if option.error == 0:
        return "exact"
    return "no bound" if math.isnan(option.error) else f"{option.error:.2g}"


COSTS: tuple[tuple[str, Callable[[Option], str]], ...] = (
    ("error, at most", _error),
    ("bytes up, a record", lambda o: f"{_cost(o).bytes_up / _cost(o).rows:,.0f}"),
    ("bytes down", lambda o: f"{_cost(o).bytes_down / _cost(o).rows:,.0f}"),
    ("between servers", lambda o: f"{_cost(o).times.link_bytes / _cost(o).rows:,.0f}"),
    ("ms, owner", lambda o: f"{_cost(o).times.owner_ms / _cost(o).rows:.2g}"),
    ("ms, server", lambda o: f"{_cost(o).times.server_ms / _cost(o).rows:.2g}"),
    ("round trips, batch", lambda o: f"{_cost(o).rounds.batch:,.0f}"),
    ("seconds, batch", lambda o: f"{_cost(o).batch_s:.3g}"),
    ("seconds, set-up", lambda o: f"{_cost(o).set_up_s:.2g}"),
    ("bits, a record", lambda o: f"{o.bits:.3g}"),
    ("records to extract", lambda o: f"{o.rows_to_extract:,}"),
)

MEASURED: tuple[str, Callable[[Option], str]] = (
    "error, measured",
    lambda o: "" if math.isnan(o.measured) else f"{o.measured:.2g}",
)

TRUSTS: tuple[tuple[str, Callable[[Trust], str]], ...] = (
    ("must not collude", lambda t: t.collusion),
    ("holds while", lambda t: t.behaviour),
    ("owner learns", lambda t: t.owner_learns),
    ("holder learns", lambda t: t.holder_learns),
    ("operators learn", lambda t: t.operators_learn or "there are none"),
    ("post-quantum", lambda t: "yes" if t.post_quantum else "no"),
)


def _together(pairs: Iterable[tuple[str, T]]) -> list[tuple[str, T]]:
    """What several engines have in common, once, under all their names."""
    found: list[tuple[str, T]] = []
    for name, value in pairs:
        if found and found[-1][1] == value:
            found[-1] = (f"{found[-1][0]}, {name}", value)
        else:
            found.append((name, value))
    return found


def _say(screen: Screen, text: str) -> None:
    """A paragraph; on a terminal broken between words."""
    import shutil
    import sys
    import textwrap

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for part in textwrap.wrap(text, width, subsequent_indent="  ") if width else [text]:
        screen.say(part)


def _plain(found: Survey, best: Option | None) -> dict[str, Any]:
    return {
        "model": found.model,
        "rows": found.rows,
        "connection": asdict(found.connection),
        "secret": found.secret,
        "recommended": None if best is None else best.engine,
        "options": [_plain_option(o) for o in found.options],
    }


def _plain_option(o: Option) -> dict[str, Any]:
    return {
        "engine": o.engine,
        "name": o.name,
        "reveal": o.reveal,
        "refusal": o.refusal or None,
        "parameters": None if o.parameters is None else _parameters(o),
        "error": None if math.isnan(o.error) else o.error,
        "measured": None if math.isnan(o.measured) else o.measured,
        "threshold": None if math.isnan(o.threshold) else o.threshold,
        "bits": None if math.isnan(o.bits) else o.bits,
        "rows_to_extract": o.rows_to_extract or None,
        "cost": None if o.cost is None else _seconds(o.cost),
        "trust": asdict(o.trust),
        "approximate": None if o.approximate is None else _plain_option(o.approximate),
    }


def _seconds(cost: Cost) -> dict[str, Any]:
    value = {**asdict(cost), "set_up_s": cost.set_up_s, "batch_s": cost.batch_s}
    del value["connection"]
    return value


def _parameters(option: Option) -> dict[str, Any]:
    import msgspec

    value: dict[str, Any] = msgspec.to_builtins(option.parameters)
    value |= {"summary": option.describe(), "prime_bits": list(option.prime_bits)}
    if option.prime_bits:
        value["flood_bits"] = option.parameters.flood_bits  # type: ignore[union-attr]
    return value
