"""``blindsight schema``: write and check schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._exits import FINDING, command
from ._options import JsonOption, writable_target
from ._screen import Screen

__all__ = ["schema_check", "schema_draft"]


@command
def schema_draft(
    records: Annotated[Path, typer.Argument(help="CSV or Parquet file.")],
    output: Annotated[Path | None, typer.Option(help="Schema file to write; standard output otherwise.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Write names and types of the columns; ranges are left blank, because a range read from records is a leak."""
    from blindsight.data import draft
    from blindsight.errors import ParameterError

    text = draft(records)
    screen = Screen(as_json=json_output)
    if output is not None:
        writable_target(output, "--output")
        if output.exists():
            raise ParameterError(
                "The schema exists already", got=str(output), fix="choose another name, or remove it yourself"
            )
        output.write_text(text, encoding="utf-8")
        screen.say(f"Wrote {output}. Fill in the blanks, then: blindsight schema check {output} {records}")
    else:
        screen.say(text.rstrip("\n"))
    screen.result({"schema": text, "output": None if output is None else str(output)})


@command
def schema_check(
    schema: Annotated[Path, typer.Argument(help="Schema file.")],
    records: Annotated[Path, typer.Argument(help="CSV or Parquet file.")],
    json_output: JsonOption = False,
) -> None:
    """Hold a file against a schema and list everything that is wrong. The findings describe the records: keep them."""
    from blindsight.data import check

    findings = check(schema, records)
    screen = Screen(as_json=json_output)
    for finding in findings:
        screen.say(str(finding))
    problems = sum(finding.level == "error" for finding in findings)
    screen.say(
        f"{problems} problem{'s' if problems != 1 else ''} that would stop a reader."
        if problems
        else "The file fits the schema."
    )
    screen.result(
        {
            "problems": problems,
            "findings": [{"level": f.level, "column": f.column, "message": f.message} for f in findings],
        }
    )
    if problems:
        raise typer.Exit(FINDING)
