"""What a command shows: rich on a terminal, plain lines otherwise, one JSON value with ``--json``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from blindsight._text import printable

__all__ = ["Screen"]


def _shown(text: str) -> str:
    """Text whose lines are ours; another party's words in it move no cursor."""
    return "\n".join(map(printable, text.split("\n")))


class Screen:
    """Where a command writes.

    Parameters
    ----------
    as_json : bool
        Standard output then holds exactly one JSON value; everything for people is left out.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def say(self, text: str = "") -> None:
        """One line for people, on standard output."""
        if not self.as_json:
            sys.stdout.write(_shown(text) + "\n")
            sys.stdout.flush()

    def result(self, value: Any) -> None:
        """Print the command's result as JSON, if that was asked for."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")

    def table(self, title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[object]]) -> None:
        """Print a table.

        Parameters
        ----------
        title : str
        columns : sequence of (heading, "left" or "right")
        rows : sequence of rows
            Shown as text, never as markup.
        """
        if self.as_json:
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading, justify in columns:
            right = justify == "right"
            table.add_column(Text(heading), justify="right" if right else "left", no_wrap=right, overflow="fold")
        for row in rows:
            table.add_row(*(Text(_shown(str(cell))) for cell in row))
        width = None if sys.stdout.isatty() else 160
        console = Console(file=sys.stdout, width=width, highlight=False)
        console.print(Text(title, style="bold"))
        console.print(table)

    @contextmanager
    def working(self, what: str) -> Iterator[Callable[[str, str], None]]:
        """Show progress on standard error; yields a function (step, phase)."""
        if self.as_json:
            yield lambda _step, _phase: None
        elif sys.stderr.isatty():
            from rich.console import Console
            from rich.markup import escape

            with Console(stderr=True).status(escape(what)) as status:
                yield lambda step, phase: status.update(escape(f"{what}: {step}, {phase}"))
        else:
            sys.stderr.write(f"{what}\n")
            seen: set[str] = set()
            indent = " " * (len(what) - len(what.lstrip()) + 2)

            def line(step: str, phase: str) -> None:
                told = f"{step}: {phase}" if phase.startswith("waits") else step  # for a person, somewhere
                if told not in seen:
                    seen.add(told)
                    sys.stderr.write(f"{indent}{told}\n")
                    sys.stderr.flush()

            yield line
