"""``blindsight demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._exits import command, safe_after
from ._options import JsonOption
from ._screen import Screen

__all__ = ["demo"]


@command
@safe_after("The demo's folder may be half filled; running it again replaces it.")
def demo(
    output: Annotated[Path, typer.Option(help="Folder for models, runs and the report.")] = Path("blindsight-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer records: to see that it works.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Run the main job: real hospital records, then simulated card payments, scored blind, with a report."""
    from ._demo import run_demo

    screen = Screen(as_json=json_output)
    screen.result(run_demo(output, screen, quick=quick))
