"""Going on with a fit that was killed, when the same command is given again."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from blindsight.errors import BlindsightWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blindsight.detectors import Detector
    from blindsight.federation import ColumnDescription, Evaluation, Federation, RunHeader, StepRecord
    from blindsight.privacy import DifferentialPrivacy

__all__ = ["describe_or_resume", "evaluate_or_resume", "fit_or_resume", "is_unfinished"]


def fit_or_resume(
    federation: Federation,
    detector: Detector,
    privacy: DifferentialPrivacy | None,
    *,
    evaluates: bool,
    on_step: Callable[[StepRecord], None] | None = None,
    deliver: Callable[[Detector], None] | None = None,
    send_to: Sequence[str] = (),
) -> Detector:
    """Fit; or go on with an unfinished fit of the same detector under the same privacy.

    Where what was interrupted is the evaluation of such a fit, its model is in the journal, and the fit's record in
    ``federation.history`` again.
    """
    from blindsight import modelfile
    from blindsight.federation import RunRecord

    for header in reversed(federation.unfinished()):
        if _fits(header, federation, detector, privacy):
            _say(header, "fit")
            model = federation.resume(header.run, on_step=on_step, deliver=deliver, send_to=send_to)
            assert isinstance(model, type(detector))
            return model
        if evaluates and _evaluates(header, federation, detector, privacy):
            assert header.model is not None
            model = modelfile.loads(header.model)
            assert model.provenance_ is not None
            assert federation.journal is not None
            before = federation.journal.header(str(model.provenance_["run"])).record
            if before is not None:
                federation.history.append(RunRecord.from_json(before))
            return model
    return federation.fit(detector, privacy=privacy, on_step=on_step, deliver=deliver, send_to=send_to)


def is_unfinished(federation: Federation, detector: Detector, privacy: DifferentialPrivacy | None) -> bool:
    """Whether :func:`fit_or_resume` would go on with a fit, and begin none."""
    return any(_fits(header, federation, detector, privacy) for header in federation.unfinished())


def evaluate_or_resume(federation: Federation, model: Detector, privacy: DifferentialPrivacy | None) -> Evaluation:
    """Evaluate; or go on with an unfinished evaluation of this very model."""
    from blindsight import modelfile
    from blindsight.federation import Evaluation

    for header in reversed(federation.unfinished()):
        if header.kind == "evaluate" and header.model == modelfile.dumps(model):
            _say(header, "evaluation")
            measured = federation.resume(header.run)
            assert isinstance(measured, Evaluation)
            return measured
    return federation.evaluate(model, privacy=privacy)


def describe_or_resume(federation: Federation, privacy: DifferentialPrivacy | None) -> list[ColumnDescription]:
    """Describe; or go on with an unfinished description under the same privacy."""
    from blindsight.federation import for_describing
    from blindsight.privacy import DifferentialPrivacy

    for header in reversed(federation.unfinished()):
        asked = None if header.privacy is None else DifferentialPrivacy.from_json(header.privacy)
        if header.kind == "describe" and asked == for_describing(privacy):
            _say(header, "description")
            described = federation.resume(header.run)
            assert isinstance(described, list)
            return described
    return federation.describe(privacy=privacy)


def _fits(header: RunHeader, federation: Federation, detector: Detector, privacy: DifferentialPrivacy | None) -> bool:
    return header.kind == "fit" and _asks_for(header, federation, detector, privacy)


def _asks_for(
    header: RunHeader, federation: Federation, detector: Detector, privacy: DifferentialPrivacy | None
) -> bool:
    from blindsight.detectors import detector_to_json
    from blindsight.federation import as_asked

    wanted = detector_to_json(as_asked(detector, federation.schema, privacy))
    return (header.detector, header.privacy) == (wanted, None if privacy is None else privacy.to_json())


def _evaluates(
    header: RunHeader, federation: Federation, detector: Detector, privacy: DifferentialPrivacy | None
) -> bool:
    """Whether an unfinished evaluation is of a model that this fit would have brought."""
    from blindsight import modelfile

    if header.kind != "evaluate" or header.model is None or federation.journal is None:
        return False
    provenance = modelfile.loads(header.model).provenance_ or {}
    fits = {known.run: known for known in federation.journal.headers() if known.kind == "fit"}
    fit = fits.get(str(provenance.get("run")))
    return fit is not None and _asks_for(fit, federation, detector, privacy)


def _say(header: RunHeader, what: str) -> None:
    warnings.warn(
        f"The {what} of {header.started_utc[:16].replace('T', ' ')} UTC (run {header.run}) was interrupted: it "
        "goes on, and what the parties were charged for it is not charged again.",
        BlindsightWarning,
        stacklevel=3,
    )
