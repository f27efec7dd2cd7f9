"""``blindsight forget``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._exits import command, safe_after
from ._options import JsonOption, KeyFileOption
from ._screen import Screen

__all__ = ["forget"]

MAX_FILE_BYTES = 1 << 26


@command
@safe_after("Who was written down is left out of later sums; the same command again goes on.")
def forget(
    home: Annotated[Path, typer.Option("--home", help="The party's own folder.")],
    file: Annotated[
        Path,
        typer.Option("--from", help="Text file with one value of the person column a line; '-' reads standard input."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Leave persons out of every later sum of this party, and subtract them from kept models where that is possible.

    Names are read from a file, so that they are in no shell history. Nothing of them is written but keyed marks.
    """
    from dataclasses import asdict

    from blindsight.federation import open_party

    from ._parties import check_party_folder

    check_party_folder(home)
    persons = _lines(file)
    party = open_party(home, key_file=key_file)
    done = party.forget(persons, dry_run=dry_run)
    screen = Screen(as_json=json_output)
    rows = ", ".join(f"{count:,} of {dataset}" for dataset, count in done.rows.items())
    asked = f"{done.persons:,} person{'s' * (done.persons != 1)} ({done.already:,} forgotten before), with rows: {rows}"
    screen.say(f"{'Would leave' if dry_run else 'Leaves'} out of every later sum of {party.name}: {asked}.")
    for model in done.models:
        screen.say(
            f"Model version {model.version}, run {model.run}: {model.outcome}. {model.why[:1].upper()}{model.why[1:]}."
        )
    screen.say("Models elsewhere are as they were, and no budget comes back. Exact sums of these records are refused")
    screen.say("from now on: their difference would be these persons' records. Delete the rows themselves as well.")
    screen.result(asdict(done))


def _lines(file: Path) -> list[str]:
    import sys

    from blindsight.errors import DataError

    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise DataError(
            "The file of persons cannot be read",
            got=error.strerror or "an error",
            fix="name a file with one person a line, or - for standard input",
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            "The file of persons is not text", rule="UTF-8, one person a line", fix="save it as UTF-8"
        ) from error
    persons = [line.strip() for line in text.splitlines() if line.strip()]
    if not persons or len(data) > MAX_FILE_BYTES:
        raise DataError("The file of persons cannot be used", got=f"{len(persons):,} lines", rule="1 line to 64 MiB")
    return persons
