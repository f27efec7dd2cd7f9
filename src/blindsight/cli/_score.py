"""Scoring a file, in the clear or blind; the same two functions serve ``score`` and ``demo``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from blindsight.errors import CapacityError, FormatError, ProtocolError, UnavailableError

from ._frames import FACTS, OFFER, SCORE, ScorerFacts, decode_answer
from ._options import sealer_of
from ._scores import ScoreWriter, largest

if TYPE_CHECKING:
    import numpy.typing as npt

    from blindsight.blind import RecordOwner

__all__ = ["BlindScoring", "ClearScoring", "score_blind", "score_clear"]

PIECE_ROWS = {"rows": 512, "columns": 4096}
"""Records of one message: enough to be quick, few enough that a message stays in tens of megabytes."""
EXPLAINED_BYTES = 1 << 26
"""Of one answer with contributions, unless a single group takes more."""
TIMEOUT_S = 600.0
Progress = Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class ClearScoring:
    """What scoring in the clear did."""

    writer: ScoreWriter
    seconds: float
    contamination: float | None = None


@dataclass(frozen=True, kw_only=True)
class BlindScoring:
    """What scoring blind did.

    Parameters
    ----------
    writer : ScoreWriter
    facts : ScorerFacts
        As the scorer told them before the first record.
    packing : str
    bits_released : int
        By this call.
    sealed_bytes, answer_bytes : int
        What crossed, registration included.
    seal_seconds, score_seconds, open_seconds : float
    """

    writer: ScoreWriter
    facts: ScorerFacts
    packing: str
    bits_released: int
    sealed_bytes: int
    answer_bytes: int
    seal_seconds: float
    score_seconds: float
    open_seconds: float


def score_clear(
    *,
    model_path: Path,
    input_path: Path,
    output: Path,
    key_file: Path | None,
    progress: Progress,
    explain: int = 0,
    allowed: frozenset[str] = frozenset(),
) -> ClearScoring:
    """Score a file with a model that this process may see; with the largest contributions, if that is asked for."""
    from blindsight import modelfile
    from blindsight.detectors import CircuitDetector

    model = modelfile.load(model_path, sealer=sealer_of(key_file), allowed=allowed)
    seconds = 0.0
    with ScoreWriter(output, model.threshold_) as writer:
        # a detector of windows reads whole series
        for chunk in model._chunks(model.schema_, input_path, for_scoring=True):
            started = time.perf_counter()
            scores = model._scores_of(chunk) * model.score_scale_
            seconds += time.perf_counter() - started
            more = None
            if explain:
                if not isinstance(model, CircuitDetector):
                    raise CapacityError(f"{model.name} has no contributions", rule="detectors on one-hot encodings do")
                more = largest(model.contributions(chunk.X), model.contribution_names, explain)
            writer.add(scores, more)
            progress(f"{writer.rows:,} records", "scored")
    return ClearScoring(writer=writer, seconds=seconds, contamination=model.contamination)


def score_blind(
    *,
    model_path: Path,
    input_path: Path,
    output: Path,
    key_file: Path | None,
    home: Path | None,
    packing: str,
    bit_budget: int | None,
    progress: Progress,
    explain: int = 0,
    allowed: frozenset[str] = frozenset(),
    scheme: str | None = None,
) -> BlindScoring:
    """Score a file as its owner: this process reads the records, another one reads the model.

    Parameters
    ----------
    model_path : Path
        Handed on to the scorer's process; never opened here.
    home : Path, optional
        ``home/owner`` keeps the owner's keys, ``home/scorer`` the scorer's registrations and its count of bits.
        Without it both live as long as this call.
    bit_budget : int, optional
        Bits of answers that the scorer releases at most, over all calls with this home.
    explain : int
        How many of each record's largest contributions to write beside its score; each record is then charged once
        more for every block of the encoding.
    allowed : frozenset of str
        Other packages' detectors that the scorer's process may load.
    scheme : {"bfv", "ckks"}, optional
        As for :class:`blindsight.blind.Scorer`.

    Raises
    ------
    BudgetError
        The bit budget does not carry the records.
    UnavailableError
        The scorer's process ended or did not answer.
    """
    from blindsight.blind import RecordOwner
    from blindsight.channels import ProcessChannel
    from blindsight.data import Schema, records
    from blindsight.federation import interrupts_held

    command = [sys.executable, "-m", "blindsight.cli.scorer", str(model_path), "--packing", packing]
    if key_file is not None:
        command += ["--key-file", str(key_file)]
    if home is not None:
        command += ["--home", str(home / "scorer")]
    if bit_budget is not None:
        command += ["--bit-budget", str(bit_budget)]
    if scheme is not None:
        command += ["--scheme", scheme]
    if explain:
        command += ["--explanations"]
    for name in sorted(allowed):
        command += ["--allow", name]
    seal_s = score_s = open_s = 0.0
    with interrupts_held():
        scorer = ProcessChannel({"scorer": command})
    with scorer as channel:

        def ask(request: bytes) -> bytes:
            answer = channel.exchange({"scorer": request}, TIMEOUT_S).get("scorer")
            if answer is None:
                raise UnavailableError(
                    "The scorer's process did not answer",
                    rule=f"an answer within {TIMEOUT_S:.0f} s",
                    fix="read what it wrote to standard error, and try again",
                )
            return decode_answer(answer)

        before = _facts(ask(FACTS))
        owner = RecordOwner(ask(OFFER), home=None if home is None else home / "owner", sealer=sealer_of(key_file))
        try:
            schema = Schema.from_json(owner.schema)
        except FormatError as error:
            raise ProtocolError("The offer's schema cannot be used", got=error.got) from error
        sent, received = channel.traffic.sent_bytes, channel.traffic.received_bytes
        with ScoreWriter(output, before.threshold) as writer:
            for chunk in records(schema, input_path, for_scoring=True, chunk_rows=PIECE_ROWS[packing]):
                started = time.perf_counter()
                sealed = owner.seal(chunk.X)
                seal_s, started = seal_s + time.perf_counter() - started, time.perf_counter()
                answer = ask(SCORE + sealed)
                score_s, started = score_s + time.perf_counter() - started, time.perf_counter()
                scores = owner.open(answer, sealed=sealed)
                open_s += time.perf_counter() - started
                writer.add(scores, _explained(owner, ask, chunk.X, explain) if explain else None)
                progress(f"{writer.rows:,} records", "scored blind")
        sent, received = channel.traffic.sent_bytes - sent, channel.traffic.received_bytes - received
        after = _facts(ask(FACTS))
    return BlindScoring(
        writer=writer,
        facts=before,
        packing=packing,
        bits_released=after.bits_released - before.bits_released,
        sealed_bytes=sent,
        answer_bytes=received,
        seal_seconds=seal_s,
        score_seconds=score_s,
        open_seconds=open_s,
    )


def _explained(owner: RecordOwner, ask: Callable[[bytes], bytes], X: npt.NDArray[np.float64], count: int) -> Any:
    """Columns of the largest contributions; asked for in pieces, since every block of every record has an answer."""
    names = owner.contribution_names
    step = owner.parameters.rows_per_ciphertext
    step *= max(1, EXPLAINED_BYTES // (len(names) * owner.parameters.answer_bytes(step)))
    parts = []
    for start in range(0, len(X), step):
        sealed = owner.seal(X[start : start + step], explain=True)
        parts.append(owner.open_contributions(ask(SCORE + sealed), sealed=sealed))
    return largest(np.concatenate(parts), names, count)


def _facts(payload: bytes) -> ScorerFacts:
    try:
        return msgspec.json.decode(payload, type=ScorerFacts)
    except msgspec.MsgspecError as error:
        raise ProtocolError("The scorer's facts are malformed", got=str(error)[:200]) from error
