"""``blindsight preflight``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._exits import FINDING, command
from ._options import JsonOption, KeyFileOption
from ._screen import Screen

__all__ = ["preflight"]


@command
def preflight(
    home: Annotated[Path, typer.Option("--home", help="The party's own folder, or the coordinator's kit.")] = Path(),
    timeout: Annotated[float, typer.Option(help="Seconds for each connection.", min=0.1, max=60.0)] = 5.0,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Look whether a run would work from here: names, clock, TLS, reachability, schema, disk, versions."""
    import msgspec

    from blindsight.federation import preflight as look

    screen = Screen(as_json=json_output)
    findings = look(home, key_file=key_file, timeout_s=timeout)
    for finding in findings:
        screen.say(f"{finding.level:<5} {finding.what:<13} {finding.told}")
        if finding.fix is not None:
            screen.say(f"{'':<5} {'':<13} fix: {finding.fix}")
    fails = sum(finding.level == "fail" for finding in findings)
    warns = sum(finding.level == "warn" for finding in findings)
    screen.say(f"{fails} to mend, {warns} to look at." if fails or warns else "All is well.")
    screen.result({"fails": fails, "warns": warns, "findings": msgspec.to_builtins(findings)})
    if fails:
        raise typer.Exit(FINDING)
