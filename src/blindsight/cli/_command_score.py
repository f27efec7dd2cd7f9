"""``blindsight score``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._exits import command, safe_after
from ._options import AllowOption, JsonOption, KeyFileOption, SchemeOption, scheme_of, writable_target
from ._screen import Screen

if TYPE_CHECKING:
    from ._scores import ScoreWriter

__all__ = ["score"]

TOKEN_VARIABLE = "BLINDSIGHT_TOKEN"  # noqa: S105 - a variable's name


@command
@safe_after(
    "No scores were written. Bits that a blind scorer had charged stay charged; with --server the same command goes on "
    "where it stopped."
)
def score(
    data: Annotated[Path | None, typer.Argument(help="CSV or Parquet file of records; as --input.")] = None,
    model: Annotated[Path | None, typer.Option(help="Model file.")] = None,
    input_file: Annotated[Path | None, typer.Option("--input", help="CSV or Parquet file of records.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet to write: row, score, alert.  [default, with --server: DATA.scores.csv]"),
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Seal the records; another process scores them without seeing them.")
    ] = False,
    packing: Annotated[str, typer.Option(help="rows (few records) or columns (thousands), with --blind.")] = "rows",
    scheme: SchemeOption = None,
    bit_budget: Annotated[
        int | None, typer.Option(help="Bits of answers that the model's holder releases at most, with --blind.")
    ] = None,
    explain: Annotated[
        int, typer.Option(min=0, help="Add each record's largest contributions, this many, by feature. Costs bits.")
    ] = 0,
    home: Annotated[
        Path | None, typer.Option("--home", help="Keeps the owner's keys and the scorer's count of bits, with --blind.")
    ] = None,
    server: Annotated[str | None, typer.Option(help="URL of a service that has the model, with --blind.")] = None,
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="Model of the service.  [default: its only one]")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help=f"File with the token for --server.  [default: ${TOKEN_VARIABLE}]"),
    ] = None,
    authority: Annotated[
        Path | None, typer.Option(help="PEM that the service's certificate goes back to.  [default: this machine's]")
    ] = None,
    client_certificate: Annotated[
        Path | None, typer.Option("--client-certificate", help="Own certificate, PEM, instead of a token.")
    ] = None,
    client_key: Annotated[Path | None, typer.Option("--client-key", help="Its private key, PEM.")] = None,
    link_host: Annotated[
        str | None,
        typer.Option(
            "--link-host", help="For verdicts: own IP address as the service sees it.  [default: the asking one]"
        ),
    ] = None,
    link_port: Annotated[
        int,
        typer.Option(
            "--link-port", help="For verdicts: own port that the service connects to; 0: a free one.", min=0, max=65535
        ),
    ] = 0,
    allow: AllowOption = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Score records in the clear, or blind: the model's holder then sees neither records nor scores.

    With --server the model's offer says whether scores come back, or verdicts: 0 or 1, or a band.
    """
    from blindsight.errors import ParameterError

    from ._score import PIECE_ROWS

    screen = Screen(as_json=json_output)
    if (data is None) == (input_file is None):
        raise ParameterError("The records are not named, or twice", fix="give one file: as argument, or with --input")
    source = data if data is not None else input_file
    assert source is not None
    if packing not in PIECE_ROWS:
        raise ParameterError("--packing is unknown", got=repr(packing)[:80], rule="rows or columns")
    if scheme_of(scheme) is not None and (not blind or server is not None):
        raise ParameterError("--scheme goes with --blind and --model", fix="leave it out: a service has its own")
    if bit_budget is not None and (not blind or server is not None):
        raise ParameterError("--bit-budget goes with --blind and --model", fix="leave it out")
    if server is not None:
        if not blind or model is not None:
            raise ParameterError("--server goes with --blind, and without --model", fix="--model-name names one there")
        target = output if output is not None else source.with_name(source.stem + ".scores.csv")
        writable_target(target, "--output", sources=[source, key_file])
        from ._remote import Remote

        remote = Remote(
            url=server, model=model_name, token=_token(token_file), certificate=client_certificate,
            private_key=client_key, authority=authority, link_host=link_host, link_port=link_port,
        )  # fmt: skip
        _at_service(screen, remote, source=source, target=target, home=home, key_file=key_file, explain=explain)
        return
    if model is None or output is None:
        raise ParameterError(
            "--model or --output is missing", fix="give both, or --server and --blind to score where the model is"
        )
    writable_target(output, "--output", sources=[model, source, key_file])
    _here(
        screen, model=model, source=source, output=output, blind=blind, packing=packing, bit_budget=bit_budget,
        home=home, key_file=key_file, explain=explain, allowed=frozenset(allow or ()), scheme=scheme,
    )  # fmt: skip


def _here(
    screen: Screen,
    *,
    model: Path,
    source: Path,
    output: Path,
    blind: bool,
    packing: str,
    bit_budget: int | None,
    home: Path | None,
    key_file: Path | None,
    explain: int,
    allowed: frozenset[str],
    scheme: str | None,
) -> None:
    from ._score import score_blind, score_clear

    summary: dict[str, Any] = {"blind": blind}
    expected: float | None = None
    with screen.working(f"Scoring {source}{' blind' if blind else ''}") as progress:
        if blind:
            done = score_blind(
                model_path=model, input_path=source, output=output, key_file=key_file, home=home,
                packing=packing, bit_budget=bit_budget, progress=progress, explain=explain, allowed=allowed,
                scheme=scheme,
            )  # fmt: skip
            writer = done.writer
            summary |= {
                "bits_released": done.bits_released,
                "sealed_bytes": done.sealed_bytes,
                "answer_bytes": done.answer_bytes,
                "rows_to_extract": done.facts.rows_to_extract,
            }
        else:
            clear = score_clear(
                model_path=model, input_path=source, output=output, key_file=key_file, progress=progress,
                explain=explain, allowed=allowed,
            )  # fmt: skip
            writer, expected = clear.writer, clear.contamination
    summary |= writer.summary()
    screen.say(f"Wrote {output}: {writer.rows:,} records, {writer.alerts:,} above {writer.threshold:.4f}.")
    if blind:
        unit = "number" if explain else "record"
        screen.say(
            f"Scored blind: {summary['bits_released']:,} bits released "
            f"({done.facts.bits_per_record:.3g} at most a {unit}, and the threshold). About "
            f"{done.facts.rows_to_extract:,} well-chosen records would reveal every score."
        )
        if bit_budget is not None and home is None:
            screen.say("The bit budget held for this call alone: with --home the count goes on from call to call.")
    _show_alerts(screen, writer)
    _say_if_most_alert(screen, writer, expected)
    screen.result(summary)


def _say_if_most_alert(screen: Screen, writer: ScoreWriter, expected: float | None = None) -> None:
    """Say so where at least half of many records alert: a model is set to alert on few."""
    if writer.rows >= 20 and 2 * writer.alerts >= writer.rows:
        asked = "few" if expected is None else f"about {expected:.3g} of those like its training records"
        screen.say(
            f"{writer.alerts / writer.rows:.0%} of the records alert, and the model is set to alert on {asked}: these "
            "records are unlike them. Check units and columns ('blindsight schema check') before acting on the alerts."
        )


def _at_service(
    screen: Screen, remote: Any, *, source: Path, target: Path, home: Path | None, key_file: Path | None, explain: int
) -> None:
    from ._remote import score_remote
    from ._scores import ScoreWriter

    kept = home if home is not None else Path.home() / ".blindsight" / "owner"
    with _bar(screen, f"Scoring {source} at {remote.url}") as progress:
        done = score_remote(
            remote, input_path=source, output=target, home=kept, key_file=key_file, progress=progress, explain=explain
        )
    writer = done.writer
    if isinstance(writer, ScoreWriter):
        screen.say(f"Wrote {target}: {writer.rows:,} records, {writer.alerts:,} above {writer.threshold:.4f}.")
    else:
        bands = ", ".join(f"{count:,} of {band}" for band, count in enumerate(writer.bands))
        screen.say(f"Wrote {target}: verdicts on {writer.rows:,} records, {bands}. The service learned none of them.")
    if done.resumed_rows:
        screen.say(f"{done.resumed_rows:,} of them had been scored by an earlier call.")
    if done.recharged_rows:
        screen.say(
            f"{done.recharged_rows:,} records were sealed and charged once more: their comparison had broken off, and "
            "an answer is compared once."
        )
    screen.say(
        f"Scored blind by {done.model}, version {done.version}: {done.bits_released:,} bits charged to this account so "
        f"far. About {done.rows_to_extract:,} well-chosen records would reveal every score."
    )
    if explain:
        screen.say("For its contributions each record was charged once more for every block of the encoding.")
    if isinstance(writer, ScoreWriter):
        _show_alerts(screen, writer)
    summary = {"blind": True, "server": remote.url, "model": done.model, "version": done.version}
    summary |= {"resumed_rows": done.resumed_rows, "bits_charged_so_far": done.bits_released}
    if done.recharged_rows:
        summary |= {"recharged_rows": done.recharged_rows}
    screen.result(summary | writer.summary())


def _show_alerts(screen: Screen, writer: ScoreWriter) -> None:
    if writer.alerts:
        shown = [(row, value) for row, value in writer.top if value > writer.threshold]
        screen.table(
            f"Highest {len(shown)} of {writer.alerts:,} alerts",
            [("Row", "right"), ("Score", "right")],
            [(row, f"{value:.4f}") for row, value in shown],
        )


def _token(token_file: Path | None) -> str | None:
    from blindsight.errors import DataError

    if token_file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        return token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("The token file cannot be read", got=str(token_file)) from error


@contextmanager
def _bar(screen: Screen, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, on a terminal; otherwise a line every so often."""
    if screen.as_json or not sys.stderr.isatty():
        with screen.working(what) as line:
            shown = -1

            def tell(done: int, total: int) -> None:
                nonlocal shown
                tenth = 10 * done // total if total else done // 10_000
                if tenth != shown:
                    shown = tenth
                    line(f"{done:,} of {total:,} records" if total else f"{done:,} records", "scored blind")

            yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what.replace("[", "\\["), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
