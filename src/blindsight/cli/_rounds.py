"""A coordinator's run as it goes: a live table on a terminal, otherwise a line a sum; and ``rounds.jsonl``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from blindsight.errors import StoreError
from blindsight.privacy import shown_epsilon

if TYPE_CHECKING:
    from blindsight.federation import RunRecord, StepRecord

__all__ = ["ROUNDS_FILE", "Rounds", "RunListener"]

ROUNDS_FILE = "rounds.jsonl"
SHOWN_ROUNDS = 12


class RunListener(Protocol):
    """Who is told of a run as it goes."""

    def waits(self, present: list[str]) -> None:
        """Parties came or went before the run."""

    def step(self, step: StepRecord, epsilon: float | None) -> None:
        """A sum is open; ``epsilon`` is of the run so far."""

    def ends(self, **detail: Any) -> None:
        """The run is done."""


class Rounds:
    """Shows and writes down what a run does; a context manager.

    Parameters
    ----------
    path : Path
        JSON, a line an event; grows, mode 0600. A sum that an earlier process has written down is not written again.
    run : callable () -> RunRecord
        The run that goes on now.
    delta : float or None
        At which epsilon so far is stated; None for exact sums.
    quiet : bool
        Show nothing.
    listeners : sequence
        Told of the same: :class:`RunMetrics`, :class:`RunMlflow`.
    """

    def __init__(
        self,
        path: Path,
        *,
        run: Callable[[], RunRecord],
        delta: float | None,
        quiet: bool,
        listeners: Sequence[RunListener] = (),
    ) -> None:
        self._listeners = listeners
        self._path, self._run, self._delta = path, run, delta
        self._written = _written(path)
        self._shown: list[tuple[str, ...]] = []
        self._events: list[dict[str, Any]] = []
        self._phase = ""
        self._live: Any = None
        self._terminal = not quiet and sys.stderr.isatty()
        self._lines = not quiet and not self._terminal

    def waits(self, present: list[str], absent: list[str]) -> None:
        """Parties came or went before the run."""
        for listener in self._listeners:
            listener.waits(present)
        self._write({"what": "waits" if absent else "connected", "present": present, "absent": absent})
        more = f"; waiting for {', '.join(absent)}" if absent else ""
        self._say(f"{len(present)} of {len(present) + len(absent)} parties are connected{more}")

    def phase(self, step: str, phase: str) -> None:
        """A sum's next exchange has begun, or waits for a person."""
        if phase.startswith("waits") and phase != self._phase:
            self._write({"what": "approval", "run": self._run().run, "step": step, "told": phase})
            self._say(f"{step}: {phase}")
        self._phase = phase
        self._refresh(f"{step}: {phase}")

    def done(self, step: StepRecord) -> None:
        """A sum is open."""
        run = self._run().run
        self._events.append(step.event)
        epsilon = self._epsilon()
        for listener in self._listeners:
            listener.step(step, epsilon)
        again = (run, step.step) in self._written
        if not again:
            self._write({"what": "round", "run": run, **asdict(step), "epsilon": epsilon})
        crossed = step.sent_bytes + step.received_bytes
        row = (
            step.step,
            f"{len(step.survivors)} of {len(step.participants)}",
            f"{crossed / 1000:,.1f}",
            f"{step.seconds:.1f}",
            "" if step.loss is None else f"{step.loss:.4g}",
            "exact" if epsilon is None else shown_epsilon(epsilon),
        )
        self._shown.append(row)
        gone = "".join(f"; {name} dropped out ({why[:80]})" for name, why in step.dropped.items())
        loss = "" if step.loss is None else f", loss {row[4]}"
        spent = ", exact" if epsilon is None else f", epsilon {row[5]} so far"
        before = ", from the journal" if again else ""
        if self._lines:
            self._say(f"{row[0]}: {row[1]} parties, {row[2]} kB, {row[3]} s{loss}{spent}{before}{gone}")
        self._refresh()

    def ends(self, outcome: str, **detail: Any) -> None:
        """The run has ended."""
        for listener in self._listeners:
            listener.ends(**detail)
        self._write({"what": outcome, "run": self._run().run, **detail})

    def __enter__(self) -> Self:
        if self._terminal:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._refresh("")
            self._live.stop()
            self._live = None
        if error is not None and not isinstance(error, StoreError):
            self._write({"what": "stopped", "error": (str(error) or type(error).__name__)[:1000]})

    # -- inside

    def _epsilon(self) -> float | None:
        from ._fit import total_epsilon

        return None if self._delta is None else total_epsilon(self._events, self._delta)

    def _say(self, text: str) -> None:
        if self._lines:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        self._refresh(text)

    def _refresh(self, caption: str = "") -> None:
        if self._live is None:
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, caption=Text(caption), caption_justify="left")
        for heading in ("sum", "parties", "kB", "s", "loss", "epsilon"):
            table.add_column(heading, justify="left" if heading == "sum" else "right")
        for row in self._shown[-SHOWN_ROUNDS:]:
            table.add_row(*map(Text, row))
        self._live.update(table)

    def _write(self, event: Mapping[str, Any]) -> None:
        """Append a line; one that a killed process left half written is ended first."""
        line = json.dumps({"time_utc": datetime.now(UTC).isoformat(timespec="milliseconds"), **event})
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with open(descriptor, "r+b") as file:
                end = file.seek(0, os.SEEK_END)
                torn = end > 0 and (file.seek(end - 1), file.read(1))[1] != b"\n"
                file.seek(end)
                file.write((b"\n" if torn else b"") + line.encode() + b"\n")
        except OSError as error:
            raise StoreError(f"'{self._path.name}' could not be written", got=error.strerror or "an error") from error


def _written(path: Path) -> set[tuple[str, str]]:
    """Run and step of every sum that the file holds; lines that are none are left alone."""
    found = set()
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    value = json.loads(line)
                except ValueError:
                    continue
                if isinstance(value, dict) and value.get("what") == "round":
                    found.add((str(value.get("run")), str(value.get("step"))))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreError(f"'{path.name}' could not be read", got=error.strerror or "an error") from error
    return found
