"""``blindsight detectors``: what there is, and what each costs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ._exits import command
from ._options import AllowOption, JsonOption
from ._screen import Screen

__all__ = ["detectors"]


@command
def detectors(
    schema: Annotated[Path | None, typer.Option(help="Schema file: bytes are then those of your columns.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Whole budget, for what each sum would take of it.")] = None,
    delta: Annotated[float, typer.Option(help="Probability beyond epsilon.")] = 1e-6,
    parties: Annotated[int, typer.Option(min=3, max=256, help="How many take part.")] = 5,
    allow: AllowOption = None,
    json_output: JsonOption = False,
) -> None:
    """List every detector: how it is fitted, what one party sends, what it costs, whether it can be scored blind."""
    from blindsight.data import Schema
    from blindsight.detectors import brought_names
    from blindsight.privacy import DifferentialPrivacy

    from ._catalogue import catalogue

    screen = Screen(as_json=json_output)
    privacy = None if epsilon is None else DifferentialPrivacy(epsilon=epsilon, delta=delta)
    allowed = frozenset(allow or ())
    entries = catalogue(None if schema is None else Schema.read(schema), privacy, parties=parties, allowed=allowed)
    unlisted = sorted(set(brought_names()) - {entry.name for entry in entries})
    screen.table(
        f"{len(entries)} detectors, with their default parameters",
        [("Detector", "left"), ("Fitted by", "left"), ("Sums", "right"), ("Bytes a sum", "right"),
         ("Epsilon", "left"), ("Blind", "left"), ("Needs", "left")],
        [
            (e.name, e.kind, "?" if e.sums is None else e.sums,
             "" if e.bytes_per_sum is None else f"{e.bytes_per_sum:,}", e.epsilon, e.blind,
             f"{e.extra}{'' if e.installed else ' (not installed)'}")
            for e in entries
        ],
    )  # fmt: skip
    for entry in entries:
        if entry.note:
            screen.say(f"{entry.name}: {entry.note}.")
    if schema is None:
        screen.say("Give --schema for the bytes that one party sends, and for what your columns allow.")
    screen.say("Sums: the score histogram, which every threshold is read from, is one of them.")
    screen.say(
        "Epsilon: what the fit takes of the budget, 60% of it unless shares say otherwise, in one sum or spread over "
        "the rounds; the score histogram and an evaluation take the rest. Refused: exact sums only."
    )
    if unlisted:
        screen.say(f"Installed by other packages, and shown where --allow names them: {', '.join(unlisted)}.")
    screen.result({"detectors": [asdict(entry) for entry in entries], "brought": unlisted})
