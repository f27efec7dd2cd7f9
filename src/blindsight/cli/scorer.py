"""The model holder's process: ``python -m blindsight.cli.scorer MODEL [--key-file FILE] [--home DIR] ...``.

Gets the model's path and, over standard input, sealed records; nothing else. It holds no key of a record's owner.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from blindsight.channels import serve_frames
from blindsight.errors import BlindsightError, StoreError, WireError

from ._frames import FACTS, OFFER, SCORE, ScorerFacts, failure, success

if TYPE_CHECKING:
    from blindsight.blind import Scorer
    from blindsight.detectors import Detector

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Answer frames until the input ends."""
    parser = argparse.ArgumentParser(
        prog="blindsight-scorer", description="Score sealed records over standard streams."
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--key-file", type=Path)
    parser.add_argument("--home", type=Path, help="where registrations and the count of bits persist")
    parser.add_argument("--packing", choices=("rows", "columns"), default="rows")
    parser.add_argument("--scheme", choices=("bfv", "ckks"))
    parser.add_argument("--bit-budget", type=int)
    parser.add_argument("--explanations", action="store_true", help="answer with contributions where asked")
    parser.add_argument("--allow", action="append", default=[], help="another package's detector that may be loaded")
    options = parser.parse_args(arguments)
    opened: tuple[Detector, Scorer] | None = None
    trouble: BlindsightError | None = None
    try:
        opened = _open(options)
    except BlindsightError as error:
        trouble = error

    def handle(request: bytes) -> bytes:
        try:
            if opened is None:
                assert trouble is not None
                return failure(trouble)
            return success(_answer(*opened, request))
        except BlindsightError as error:
            return failure(error)

    try:
        serve_frames(handle, sys.stdin.buffer, sys.stdout.buffer)
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    return 0


def _open(options: argparse.Namespace) -> tuple[Detector, Scorer]:
    from blindsight import modelfile
    from blindsight.blind import BitBudget, Scorer
    from blindsight.store import Store

    from ._options import sealer_of

    sealer = sealer_of(options.key_file)
    model = modelfile.load(options.model, sealer=sealer, allowed=frozenset(options.allow))
    table = None
    if options.home is not None:
        try:
            options.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreError("The scorer's folder cannot be made", got=error.strerror or "an error") from error
        table = Store(options.home / "scorer.db", sealer).table("blind")
    return model, Scorer(
        model,
        packing=options.packing,
        scheme=options.scheme,
        budget=BitBudget(bits_total=options.bit_budget),
        table=table,
        explanations=options.explanations,
    )


def _answer(model: Detector, scorer: Scorer, request: bytes) -> bytes:
    kind, body = request[:1], request[1:]
    if kind == OFFER and not body:
        return scorer.offer()
    if kind == FACTS and not body:
        return msgspec.json.encode(
            ScorerFacts(
                threshold=model.threshold_,
                bits_per_record=float(scorer.parameters.answer_bits),
                bits_released=scorer.bits_released(),
                rows_to_extract=scorer.rows_to_extract,
                parameters=scorer.parameters.describe(),
            )
        )
    if kind == SCORE:
        return scorer.score(body)
    raise WireError("A request to the scorer is malformed", got=f"{len(request)} bytes")


if __name__ == "__main__":
    sys.exit(main())
