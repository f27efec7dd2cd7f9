"""Words of others: what they cannot do to a log or a terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from blindsight._text import printable
from blindsight.cli._screen import Screen
from blindsight.errors import WireError

FORGED = "no\n2026-01-01T00:00:00Z bank-a: released\r\x1b[2J\u202e\x9b\u2028all is well"


def test_what_moves_a_cursor_becomes_a_space() -> None:
    assert printable("Zürich 東京 – fine") == "Zürich 東京 – fine"
    shown = printable(FORGED)
    assert shown.isprintable()
    assert len(shown) == len(FORGED)


def test_no_part_of_an_error_passes_for_a_line_of_a_log() -> None:
    error = WireError(FORGED, got=FORGED, rule=FORGED, fix=FORGED)
    for text in (str(error), error.what, error.got, error.rule, error.fix):
        first, *others = text.split("\n")
        assert all(line.isprintable() for line in (first, *others))
        assert others
        assert all(line.startswith("    ") for line in others)
    assert str(WireError("One", got="two")) == "One. Got: two."


def test_a_handler_that_knows_nothing_of_this_shows_one_line_of_ours() -> None:
    script = (
        "import logging, sys; from blindsight.errors import WireError; "
        "logging.basicConfig(format='%(levelname)s %(message)s'); logging.warning('%s', WireError(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, FORGED]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [line for line in made.stderr.splitlines() if not line.startswith("    ")] == ["WARNING no"]


def test_a_screen_keeps_its_own_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.say("first\nsecond \x1b[2J\u202e")
    screen.table("a title", [("who", "left")], [["bank\x1b[31m"]])
    out = capsys.readouterr().out
    assert out.startswith("first\nsecond  [2J \n")
    assert all(line.isprintable() for line in out.splitlines())
