"""Several detectors over one federation or one file: fitted and measured alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindsight.errors import BlindsightError, ParameterError, RefusedError
from blindsight.report import About, Absent, Compared

from ._fit import charged_events, collected_warnings, fit_parties, total_epsilon

if TYPE_CHECKING:
    from blindsight.data import Schema
    from blindsight.detectors import Detector
    from blindsight.federation import Evaluation, Policy, RunRecord
    from blindsight.privacy import DifferentialPrivacy

__all__ = ["ComparedAll", "compare_file", "compare_parties"]


IN_SAMPLE = ", measured on training records: such figures flatter"


@dataclass(frozen=True, kw_only=True)
class ComparedAll:
    """What every detector came to.

    Parameters
    ----------
    compared : list of Compared
        In the order asked for.
    about : About
        Whose records, when, how many, how they were measured, and what warnings came up.
    absent : tuple of Absent
        Detectors that schema or privacy rule out, and those that a party refused.
    """

    compared: list[Compared]
    about: About
    absent: tuple[Absent, ...] = ()


def _suitable(
    detectors: Sequence[Detector], check: Callable[[Detector], None]
) -> tuple[list[Detector], tuple[Absent, ...]]:
    """Part the detectors into those that can be fitted and those that cannot, with why; before anything is charged."""
    kept, left_out = [], []
    for detector in detectors:
        try:
            check(detector)
        except BlindsightError as error:
            left_out.append(Absent(name=detector.name, kind="left out", reason=_reason(error)))
        else:
            kept.append(detector)
    if not kept:
        raise ParameterError(
            "None of these detectors can be fitted",
            got="; ".join(f"{a.name}: {a.reason}" for a in left_out)[:600],
            rule="schema, privacy and what is installed decide; nothing was charged",
            fix="'blindsight detectors --schema' says which can",
        )
    return kept, tuple(left_out)


def _reason(error: BlindsightError) -> str:
    return error.what + (f" ({error.rule})" if error.rule else "")


def compare_parties(
    detectors: Sequence[Detector],
    *,
    schema: Schema,
    data: Mapping[str, Path],
    evaluation: Mapping[str, Path],
    privacy: DifferentialPrivacy | None,
    policy: Policy | None,
    home: Path,
    key_file: Path | None,
    progress: Callable[[str, str], None],
) -> ComparedAll:
    """Fit and evaluate one detector after the other, each a run of its own that every party charges.

    Raises
    ------
    RefusedError
        Every detector was refused; where only some are, the others go on.
    """
    from blindsight.federation import check_suits

    kept, left_out = _suitable(detectors, lambda detector: check_suits(detector, schema, privacy))
    compared: list[Compared] = []
    events: list[dict[str, Any]] = []
    refused: dict[str, RefusedError] = {}
    absent = list(left_out)
    told: list[str] = []
    fitted, measured = 0.0, None
    for detector in kept:
        history: list[RunRecord] = []
        try:
            fitting = fit_parties(
                detector,
                schema=schema,
                data=data,
                evaluation=evaluation,
                evaluate=True,
                privacy=privacy,
                policy=policy,
                home=home,
                key_file=key_file,
                progress=lambda step, phase, name=detector.name: progress(f"{name}: {step}", phase),  # type: ignore[misc]
                history=history,
            )
        except RefusedError as error:
            refused[detector.name] = error
            own = charged_events(home, key_file, frozenset(record.run for record in history))
            events += own
            absent.append(
                Absent(
                    name=detector.name,
                    kind="refused",
                    reason=_reason(error),
                    sums=len(own),
                    epsilon=None if privacy is None or not own else total_epsilon(own, privacy.delta),
                )
            )
            continue
        assert fitting.evaluation is not None
        fitted, measured = fitting.model.n_records_, fitting.evaluation
        told += [f"{detector.name}: {text}" for text in fitting.warnings]
        own = [step.event for record in fitting.history for step in record.steps]
        events += own
        compared.append(
            _compared(
                detector.name,
                fitting.evaluation,
                seconds=fitting.history[0].seconds,
                sums=sum(len(record.steps) for record in fitting.history),
                bytes_total=sum(record.bytes_total for record in fitting.history),
                epsilon=None if privacy is None else total_epsilon(own, privacy.delta),
            )
        )
    if not compared:
        raise _all_refused(refused, absent)
    return ComparedAll(
        compared=compared,
        about=About(
            note=f"{len(data)} parties, {'exact' if privacy is None else 'private'} sums"
            + ("" if evaluation else IN_SAMPLE),
            created_utc=_now(),
            records=_counted(fitted, measured, about=privacy is not None),
            epsilon=None if privacy is None else total_epsilon(events, privacy.delta),
            warnings=tuple(dict.fromkeys(told)),
        ),
        absent=tuple(absent),
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _counted(fitted: float, measured: Evaluation | None, *, about: bool) -> str:
    """``Fitted on 8,000 records, measured on 2,000 normal and 40 anomalous.``"""
    if measured is None:
        return ""
    word = "about " if about else ""
    return (
        f"Fitted on {word}{fitted:,.0f} records; measured on {word}{measured.normal:,.0f} normal and "
        f"{measured.anomalous:,.0f} anomalous ones."
    )


def _all_refused(refused: Mapping[str, RefusedError], absent: Sequence[Absent]) -> RefusedError:
    first = next(iter(refused.values()))
    if len(refused) == 1 or len({_reason(error) for error in refused.values()}) == 1:
        return first  # says all there is to say, with its fix
    return type(first)(
        "Every detector was refused",
        got="; ".join(f"{a.name} {a.remark}" for a in absent)[:1500],
        rule="every party's policy and budget",
        fix="ask for what the policies allow, or have the data owners change them",
    )


def compare_file(
    detectors: Sequence[Detector],
    *,
    schema: Schema,
    records: Path,
    test: Path | None,
    progress: Callable[[str, str], None],
) -> ComparedAll:
    """Fit and measure every detector on files of one's own, exactly."""
    from blindsight.federation import evaluate_locally, warn_of_few

    def check(detector: Detector) -> None:
        model = detector.unfitted_copy()
        model.begin(schema)
        model.next_query()

    kept, left_out = _suitable(detectors, check)
    compared, told = [], []
    fitted, measured = 0.0, None
    for detector in kept:
        with collected_warnings() as texts:
            progress(detector.name, "fit")
            began = time.perf_counter()
            model = detector.set_params(schema=schema).fit(records)
            seconds = time.perf_counter() - began
            progress(detector.name, "evaluate")
            measured = evaluate_locally(model, schema, records if test is None else test)
            warn_of_few(model, whose=f"'{records.name}'")
        fitted = model.n_records_
        told += texts
        compared.append(_compared(detector.name, measured, seconds=seconds))
    return ComparedAll(
        compared=compared,
        about=About(
            note="one file, read exactly" + (IN_SAMPLE if test is None else ""),
            created_utc=_now(),
            records=_counted(fitted, measured, about=False),
            warnings=tuple(dict.fromkeys(told)),
        ),
        absent=left_out,
    )


def _compared(name: str, evaluation: Evaluation, *, seconds: float, **more: Any) -> Compared:
    from blindsight.federation import known

    low, high = evaluation.intervals.get("auroc", (0.0, 1.0))
    return Compared(
        name=name,
        measurable=evaluation.measurable,
        auroc=evaluation.auroc,
        auroc_low=low,
        auroc_high=high,
        average_precision=known(evaluation.average_precision),
        false_positive_rate=known(evaluation.false_positive_rate),
        false_negative_rate=known(evaluation.false_negative_rate),
        seconds=seconds,
        roc=tuple((float(x), float(y)) for x, y in evaluation.roc),
        **more,
    )
