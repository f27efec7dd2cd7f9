"""What each kind of run asks for, sum by sum, and what becomes of the totals; begun, or gone on with from a journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeVar

from blindsight import modelfile
from blindsight._version import __version__
from blindsight.detectors import Detector, Total, detector_from_json, detector_to_json
from blindsight.errors import BlindsightError, FormatError
from blindsight.privacy import DifferentialPrivacy

from ._breakdown import kept_breakdown
from ._caveats import warn_of_few
from ._evaluation import Evaluation, evaluation_from_total, evaluation_query
from ._journal import RunHeader
from ._requests import Run, in_step
from ._run import StepRecord
from ._selection import FeatureSelection, select
from ._sending import send_to_parties
from ._statistics import ColumnDescription, describe_column_totals, describe_query
from ._steps import as_asked, check_ahead

if TYPE_CHECKING:
    from ._federation import Federation

__all__ = ["description_run", "evaluation_run", "fit_run", "run_again", "selection_run"]

D = TypeVar("D", bound=Detector)


def fit_run(
    federation: Federation,
    detector: D,
    privacy: DifferentialPrivacy | None,
    on_step: Callable[[StepRecord], None] | None,
    deliver: Callable[[Detector], None] | None,
    again: str | None = None,
    send_to: Sequence[str] = (),
) -> D:
    """Ask a detector for one query after the other until it is fitted; the model goes out before the run ends."""
    model = as_asked(detector, federation.schema, privacy)
    description = detector_to_json(model)
    with Run(federation, "fit", description, privacy, again=again) as run:
        model.begin(federation.schema)
        check_ahead(model, privacy)
        while (query := model.next_query()) is not None:
            total = run.total(
                query,
                purpose="threshold" if query.name == "threshold" else "fit",
                detector=description,
                model=None if model.is_blank else modelfile.dumps(model),
            )
            try:
                model.advance(query, total)
            except BlindsightError as error:
                raise in_step(error, query.name) from error
            step = run.record.steps[-1]
            if query.name.startswith("loss/"):
                step.loss = float(total.values[0]) / max(float(total.values[1]), 1.0)
            if on_step is not None:
                on_step(step)
        model.certificate_ = run.certificate()
        model.provenance_ = {
            "federation": federation.name,
            "run": run.record.run,
            "parties": [name for name, _ in federation._participants],
            "survivors": {step.step: step.survivors for step in run.record.steps},
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "blindsight": __version__,
        }
        if deliver is not None:
            deliver(model)
        run.record.sent = send_to_parties(federation._channel, model, send_to, federation._timeout_s)
    return model


def evaluation_run(
    federation: Federation, model: Detector, privacy: DifferentialPrivacy | None, again: str | None = None
) -> Evaluation:
    """One sum of two score histograms."""
    if privacy is not None:
        model.check_privacy(privacy.unit)
    description, file = detector_to_json(model), modelfile.dumps(model)
    with Run(federation, "evaluate", description, privacy, again=again, model=file) as run:
        query = evaluation_query(model, private=privacy is not None)
        total = run.total(query, purpose="evaluation", detector=description, model=file)
        breakdown = {
            name: own
            for name, party in federation.parties.items()
            if (own := kept_breakdown(party._own.store, run.record.run)) is not None
        }
        return evaluation_from_total(model, total, run.certificate(), breakdown=breakdown)


def description_run(
    federation: Federation, privacy: DifferentialPrivacy | None, again: str | None = None
) -> list[ColumnDescription]:
    """One sum of histograms, and one of moments where there are numbers."""
    totals: dict[str, Total] = {}
    numbers = any(column.type != "category" for column in federation.schema.features)
    with Run(federation, "describe", None, privacy, again=again) as run:
        for part in ("histogram", "moments") if numbers else ("histogram",):
            totals[part] = run.total(describe_query(federation.schema, part), purpose="describe")
    return describe_column_totals(federation.schema, totals["histogram"], totals.get("moments"))


def selection_run(
    federation: Federation, k: int, privacy: DifferentialPrivacy | None, again: str | None = None
) -> FeatureSelection:
    """Two sums, and the choice that both sides make of them alike."""
    with Run(federation, "select", None, privacy, again=again, count=k) as run:
        selection = select(federation.schema, k, lambda query: run.total(query, purpose="describe"))
        return replace(selection, certificate=run.certificate())


def run_again(
    federation: Federation,
    header: RunHeader,
    *,
    on_step: Callable[[StepRecord], None] | None,
    deliver: Callable[[Detector], None] | None,
    send_to: Iterable[str] | Literal["all"],
) -> Detector | Evaluation | FeatureSelection | list[ColumnDescription]:
    """Go on with a run that the journal says was begun, under what it was asked for."""
    privacy = None if header.privacy is None else DifferentialPrivacy.from_json(header.privacy)
    match header.kind:
        case "fit":
            receivers, detector = federation.receivers(send_to), detector_from_json(header.detector)
            model = fit_run(federation, detector, privacy, on_step, deliver, again=header.run, send_to=receivers)
            warn_of_few(model)
            return model
        case "evaluate" if header.model is not None:
            return evaluation_run(federation, modelfile.loads(header.model), privacy, again=header.run)
        case "describe":
            return description_run(federation, privacy, again=header.run)
        case "select" if header.count is not None:
            return selection_run(federation, header.count, privacy, again=header.run)
    raise FormatError("The journal's run is of a kind that this version does not know", got=header.kind[:40])
