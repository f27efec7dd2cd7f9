"""``blindsight plan sums``: what each way to hide a sum's vectors costs, and whom it trusts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ._exits import command
from ._options import JsonOption
from ._screen import Screen

__all__ = ["plan_sums"]


@command
def plan_sums(
    parties: Annotated[int, typer.Option(help="How many parties.")],
    coordinates: Annotated[int, typer.Option(help="Length of the vector that each party adds.")],
    dropouts: Annotated[int, typer.Option(help="Parties that may vanish before their vectors are in.")] = 0,
    colluders: Annotated[
        int, typer.Option(help="Parties that may collude with the coordinator; one or more leaves masks alone.")
    ] = 1,
    link: Annotated[float, typer.Option(help="Megabits a second of the coordinator's link.")] = 100.0,
    among: Annotated[
        list[str] | None, typer.Option(help="What may be chosen: masked, he, paillier; repeatable. All by default.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """List the ways to hide the parties' vectors in a sum, what each costs and trusts, and which to take."""
    from blindsight.securesum import choose_sum

    screen = Screen(as_json=json_output)
    choice = choose_sum(
        parties,
        coordinates,
        dropouts=dropouts,
        colluders=colluders,
        megabits_per_second=link,
        among=tuple(among or ("masked", "he", "paillier")),  # type: ignore[arg-type]  # choose_sum checks the names
    )
    screen.table(
        f"A private sum of {coordinates:,} coordinates, {parties} parties",
        [("Method", "left"), ("kB up", "right"), ("down", "right"), ("Party", "right"), ("Coordinator", "right"),
         ("All", "right"), ("Colluders", "right"), ("Dropouts", "right"), ("Refused", "left")],
        [
            (
                f"{o.method} *" if o is choice.chosen else o.method,
                f"{o.up_bytes / 1e3:,.0f}", f"{o.down_bytes / 1e3:,.0f}", f"{o.party_s:.3g} s",
                f"{o.coordinator_s:.3g} s", f"{o.total_s:.3g} s", str(o.tolerated_colluders), str(o.tolerated_dropouts),
                o.refusal,
            )
            for o in choice.options
        ],
    )  # fmt: skip
    screen.say(
        f"Bytes of the busiest party; times on one core, estimated; all: with {link:g} Mbit/s at the coordinator. "
        "Colluders: parties that may collude with the coordinator before a single vector is open to it."
    )
    screen.say(choice.why)
    screen.result(
        {
            "parties": parties,
            "coordinates": coordinates,
            "recommended": choice.method,
            "why": choice.why,
            "options": [asdict(option) for option in choice.options],
        }
    )
