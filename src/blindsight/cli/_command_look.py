"""``blindsight report`` and ``blindsight doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._exits import FINDING, command
from ._options import JsonOption, writable_target
from ._screen import Screen

__all__ = ["doctor", "report"]


@command
def report(
    run: Annotated[Path, typer.Argument(help="run.json, or the folder that holds it.")],
    output: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    json_output: JsonOption = False,
) -> None:
    """Write one self-contained page: what was trained, what it cost, who learned what."""
    from blindsight.report import read_run, verdict, write_report

    screen = Screen(as_json=json_output)
    writable_target(output, "--output", sources=[run / "run.json" if run.is_dir() else run])
    facts = read_run(run)
    write_report(facts, output)
    screen.say(f"Wrote {output} ({output.stat().st_size / 1000:.0f} kB, nothing in it is fetched).")
    screen.result({"output": str(output), "verdict": {line.question: line.answer for line in verdict(facts)}})


@command
def doctor(
    home: Annotated[Path, typer.Option("--home", help="Where ledgers and keys are to be kept.")] = Path(),
    constraints: Annotated[
        Path | None, typer.Option(help="pip constraints file to compare with; ./constraints.txt if it is there.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Look whether this machine can run Blindsight: packages, encryption, disk, randomness."""
    import msgspec

    from ._doctor import examine

    screen = Screen(as_json=json_output)
    findings = examine(home, constraints)
    for finding in findings:
        screen.say(f"{finding.level:<8} {finding.what:<12} {finding.told}")
        if finding.fix is not None:
            screen.say(f"{'':<8} {'':<12} fix: {finding.fix}")
    problems = sum(finding.level == "problem" for finding in findings)
    screen.say(f"{problems} problem{'s' if problems != 1 else ''}." if problems else "No problem found.")
    screen.result({"problems": problems, "findings": msgspec.to_builtins(findings)})
    if problems:
        raise typer.Exit(FINDING)
