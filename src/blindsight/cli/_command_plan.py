"""``blindsight plan``: what something would cost, before it is done."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ._exits import REFUSED, command
from ._options import JsonOption, KeyFileOption, sealer_of
from ._screen import Screen

if TYPE_CHECKING:
    from blindsight.blind import Option, Survey

__all__ = ["plan_blind"]

Reveal = Literal["score", "verdict"]


@command
def plan_blind(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    rows: Annotated[int, typer.Option(help="Records of a batch.")] = 1000,
    verdict: Annotated[
        bool, typer.Option("--verdict", help="Reveal one bit a record, above the threshold or not, instead of scores.")
    ] = False,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """List what scoring a model blind would cost with each engine, what it gives away, and which to take."""
    from blindsight import modelfile
    from blindsight.blind import survey

    screen = Screen(as_json=json_output)
    reveal: Reveal = "verdict" if verdict else "score"
    found = survey(modelfile.load(model, sealer=sealer_of(key_file)), rows=rows, reveal=(reveal,))
    best = found.recommended(reveal)
    screen.table(
        f"{found.model}, {rows:,} records, {reveal}s",
        [("Engine", "left"), ("Error", "right"), ("Bytes up", "right"), ("down", "right"), ("Links", "right"),
         ("Owner", "right"), ("Server", "right"), ("Set-up", "right"), ("Bits", "right"), ("To extract", "right"),
         ("Parameters", "left")],
        [_cost(option, chosen=option is best) for option in found.options],
    )  # fmt: skip
    screen.say(
        "For one record: bytes up and down and bits exact; bytes on links between servers, and times on one core "
        "without the network, estimated. To extract: well-chosen records that reveal every answer."
    )
    screen.say()
    screen.table(
        "Who is trusted, and who learns what",
        [("Engine", "left"), ("Must not collude", "left"), ("Holds while", "left"), ("Owner learns", "left"),
         ("Holder learns", "left"), ("Operators learn", "left"), ("Post-quantum", "left")],
        [
            (o.name, o.trust.collusion, o.trust.behaviour, o.trust.owner_learns, o.trust.holder_learns,
             o.trust.operators_learn or "there are none", "yes" if o.trust.post_quantum else "no")
            for o in found.options if not o.refusal
        ],
    )  # fmt: skip
    if not found.secret:
        screen.say(
            "The model is not secret: its public encoder was learned from data, and whoever seals records reads it. "
            "Every engine hides the records, none all of the model."
        )
    screen.say(found.why(reveal))
    screen.result(_plain(found, best))
    if best is None:
        raise typer.Exit(REFUSED)


def _cost(option: Option, *, chosen: bool) -> tuple[str, ...]:
    name = f"{option.name} *" if chosen else option.name
    if option.cost is None:
        return (name, *[""] * 9, f"refused: {option.refusal}")
    cost, times, rows = option.cost, option.cost.times, option.cost.rows
    return (
        name,
        "exact" if option.error == 0 else "no bound" if math.isnan(option.error) else f"{option.error:.2g}",
        f"{cost.bytes_up / rows:,.0f}",
        f"{cost.bytes_down / rows:,.0f}",
        f"{times.link_bytes / rows:,.0f}" if times.link_bytes else "",
        f"{times.owner_ms / rows:.3g} ms",
        f"{times.server_ms / rows:.3g} ms",
        f"{times.set_up_s:.2g} s",
        f"{option.bits:.3g}",
        f"{option.rows_to_extract:,}",
        option.describe().split(";")[0],
    )


def _plain(found: Survey, best: Option | None) -> dict[str, Any]:
    return {
        "model": found.model,
        "rows": found.rows,
        "secret": found.secret,
        "recommended": None if best is None else best.engine,
        "options": [
            {
                "engine": o.engine,
                "name": o.name,
                "reveal": o.reveal,
                "refusal": o.refusal or None,
                "parameters": None if o.parameters is None else _parameters(o),
                "error": None if math.isnan(o.error) else o.error,
                "bits": None if math.isnan(o.bits) else o.bits,
                "rows_to_extract": o.rows_to_extract or None,
                "cost": None if o.cost is None else asdict(o.cost),
                "trust": asdict(o.trust),
            }
            for o in found.options
        ],
    }


def _parameters(option: Option) -> dict[str, Any]:
    import msgspec

    value: dict[str, Any] = msgspec.to_builtins(option.parameters)
    value |= {"summary": option.describe(), "prime_bits": list(option.prime_bits)}
    if option.prime_bits:
        value["flood_bits"] = option.parameters.flood_bits  # type: ignore[union-attr]
    return value
