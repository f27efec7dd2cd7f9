"""``blindsight score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._exits import command, safe_after
from ._options import JsonOption, KeyFileOption, writable_target
from ._screen import Screen

__all__ = ["score"]


@command
@safe_after("No scores were written. Bits that a blind scorer had charged stay charged.")
def score(
    model: Annotated[Path, typer.Option(help="Model file.")],
    input_file: Annotated[Path, typer.Option("--input", help="CSV or Parquet file of records.")],
    output: Annotated[Path, typer.Option(help="CSV or Parquet file to write: row, score, alert.")],
    blind: Annotated[
        bool, typer.Option("--blind", help="Seal the records; another process scores them without seeing them.")
    ] = False,
    packing: Annotated[str, typer.Option(help="rows (few records) or columns (thousands), with --blind.")] = "rows",
    bit_budget: Annotated[
        int | None, typer.Option(help="Bits of answers that the model's holder releases at most, with --blind.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option("--home", help="Keeps the owner's keys and the scorer's count of bits, with --blind.")
    ] = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Score records in the clear, or blind: the model's holder then sees neither records nor scores."""
    from blindsight.errors import ParameterError

    from ._score import PIECE_ROWS, score_blind, score_clear

    screen = Screen(as_json=json_output)
    writable_target(output, "--output", sources=[model, input_file, key_file])
    if bit_budget is not None and not blind:
        raise ParameterError("--bit-budget goes with --blind", fix="add --blind, or leave it out")
    if packing not in PIECE_ROWS:
        raise ParameterError("--packing is unknown", got=repr(packing)[:80], rule="rows or columns")
    summary: dict[str, Any] = {"blind": blind}
    with screen.working(f"Scoring {input_file}{' blind' if blind else ''}") as progress:
        if blind:
            done = score_blind(
                model_path=model, input_path=input_file, output=output, key_file=key_file, home=home,
                packing=packing, bit_budget=bit_budget, progress=progress,
            )  # fmt: skip
            writer = done.writer
            summary |= {
                "bits_released": done.bits_released,
                "sealed_bytes": done.sealed_bytes,
                "answer_bytes": done.answer_bytes,
                "rows_to_extract": done.facts.rows_to_extract,
            }
        else:
            writer = score_clear(
                model_path=model, input_path=input_file, output=output, key_file=key_file, progress=progress
            ).writer
    summary |= writer.summary()
    screen.say(f"Wrote {output}: {writer.rows:,} records, {writer.alerts:,} above {writer.threshold:.4f}.")
    if blind:
        screen.say(
            f"Scored blind: {summary['bits_released']:,} bits released "
            f"({done.facts.bits_per_record:.3g} at most a record, and the threshold). About "
            f"{done.facts.rows_to_extract:,} well-chosen records would reveal every score."
        )
    if writer.alerts:
        shown = [(row, value) for row, value in writer.top if value > writer.threshold]
        screen.table(
            f"Highest {len(shown)} of {writer.alerts:,} alerts",
            [("Row", "right"), ("Score", "right")],
            [(row, f"{value:.4f}") for row, value in shown],
        )
    screen.result(summary)
