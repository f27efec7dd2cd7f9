"""Fitting with one process a party, and everything that the report needs to know of it."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindsight.errors import BlindsightError, BlindsightWarning, BudgetError, PolicyError
from blindsight.report import Budget, Charge, Histogram, MeasuredEvaluation, ModelFacts, Privacy, RunFile, Stage

from ._parties import accounts

if TYPE_CHECKING:
    from blindsight.data import Schema
    from blindsight.detectors import Detector
    from blindsight.federation import Evaluation, Policy, RunRecord
    from blindsight.privacy import DifferentialPrivacy, Trust

__all__ = ["Fitting", "charged_events", "fit_parties", "run_file", "total_epsilon"]

SEPARATION = (
    "In this run every party was a process of its own on one machine, given only its own file; between organisations "
    "each would run on its own."
)


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """What a federated fit brought.

    Parameters
    ----------
    model : Detector
    evaluation : Evaluation or None
    in_sample : bool
        Whether the evaluation used training records.
    trust : {"federation", "local"}
        Whose noise is counted on.
    history : list of RunRecord
    warnings : list of str
    """

    model: Detector
    evaluation: Evaluation | None
    in_sample: bool
    history: list[RunRecord]
    trust: Trust = "federation"
    warnings: list[str] = field(default_factory=list)


def fit_parties(
    detector: Detector,
    *,
    schema: Schema,
    data: Mapping[str, Path],
    evaluation: Mapping[str, Path],
    evaluate: bool,
    privacy: DifferentialPrivacy | None,
    policy: Policy | None,
    home: Path,
    key_file: Path | None,
    progress: Callable[[str, str], None],
    history: list[RunRecord] | None = None,
) -> Fitting:
    """Fit, and evaluate if asked, with every party in a process of its own.

    Parameters
    ----------
    detector : Detector
        Unfitted.
    data, evaluation : mapping of party name to path
    evaluate : bool
        Spend the evaluation share on an evaluation; a party without a file of its own uses its training records.
    policy : Policy, optional
        Written into the party folders. None: theirs, or the default in new ones.
    progress : callable (step, phase)
    history : list of RunRecord, optional
        Filled with every run as it begins, for a caller that must know what a refused fit has cost.
    """
    from blindsight.federation import Federation

    with warnings.catch_warnings(record=True) as caught, _naming_logs(home, data):
        warnings.simplefilter("always", BlindsightWarning)
        with Federation.processes(
            data,
            schema=schema,
            home=home,
            evaluation=evaluation,
            policy=policy,
            key_file=key_file,
            progress=progress,
        ) as federation:
            if history is not None:
                federation.history = history
            model = federation.fit(detector, privacy=privacy)
            measured = federation.evaluate(model, privacy=privacy) if evaluate else None
    told = []
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        if issubclass(warning.category, BlindsightWarning):
            told.append(str(warning.message))
    return Fitting(
        model=model,
        evaluation=measured,
        in_sample=evaluate and set(evaluation) != set(data),
        history=federation.history,
        trust="federation" if privacy is None else privacy.trust,
        warnings=told,
    )


@contextlib.contextmanager
def _naming_logs(home: Path, names: Iterable[str]) -> Iterator[None]:
    """Add to an error which parties' logs say more: their processes were started here, by whoever reads it."""
    logs = [home / name / "party.log" for name in sorted(names)]
    before = [_size(log) for log in logs]
    try:
        yield
    except (PolicyError, BudgetError):
        raise  # says all there is to say
    except BlindsightError as error:
        told = [str(log) for log, size in zip(logs, before, strict=True) if _size(log) > size]
        if not told:
            raise
        more = f"read {', '.join(told)} for what a party does not tell the coordinator"
        fix = more if error.fix is None else f"{error.fix}; {more}"
        raise type(error)(error.what, got=error.got, rule=error.rule, fix=fix) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def run_file(
    fitting: Fitting,
    *,
    title: str,
    home: Path,
    key_file: Path | None,
    simulated: bool = False,
    data_note: str = "",
    **more: Any,
) -> RunFile:
    """Collect what the report says, from the run, the model and the parties' ledgers.

    Parameters
    ----------
    **more
        Further fields of RunFile: ``comparison``, ``blind``.
    """
    first = fitting.history[0]
    runs = frozenset(record.run for record in fitting.history)
    ledger, budgets = _ledgers(home, key_file, runs)
    return RunFile(
        title=title,
        created_utc=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        simulated=simulated,
        data_note=data_note,
        separation=SEPARATION,
        parties=tuple(first.steps[0].participants),
        trust=first.trust,
        model=_model(fitting.model),
        privacy=_privacy(fitting),
        stages=tuple(_stage(record, step) for record in fitting.history for step in record.steps),
        budgets=tuple(budgets),
        ledger=tuple(ledger),
        evaluation=_evaluation(fitting),
        histogram=_histogram(fitting.model),
        notes=tuple(fitting.warnings),
        versions=versions(),
        **more,
    )


def versions() -> dict[str, str]:
    """Versions of what computed."""
    import platform
    from importlib import metadata

    result = {"Python": platform.python_version()}
    for name in ("blindsight", "numpy", "scipy", "polars", "cryptography", "dp-accounting", "safetensors", "tenseal"):
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return result


def _model(model: Detector) -> ModelFacts:
    from blindsight import modelfile

    facts = modelfile.inspect(model)
    return ModelFacts(
        detector=facts["detector"]["name"],
        parameters=_flat(facts["detector"]["parameters"]),
        features=tuple(facts["features"]),
        records=max(facts["records"], 0),
        ranges=facts["ranges"],
        schema_digest=facts["schema_digest"],
        score_bits=facts["score_bits"],
        encoding=f"{facts['encoding']}, {facts['encoding_length']} entries",
        threshold=model.threshold_,
        contamination=model.contamination,
    )


def _flat(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters as a report shows them: a part of ``training`` by its own name, a list as text."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{part}": inner for part, inner in value.items()}
        else:
            flat[name] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _privacy(fitting: Fitting) -> Privacy | None:
    # the last certificate covers its own run only, so that the whole is added up from all events
    certificate = fitting.model.certificate_
    if certificate is None or not certificate["differential_privacy"]:
        return None
    events = [step.event for record in fitting.history for step in record.steps]
    return Privacy(
        epsilon_asked=certificate["epsilon_asked"],
        epsilon_spent=total_epsilon(events, certificate["delta"]),
        delta=certificate["delta"],
        unit=certificate["unit"],
        max_records_per_person=certificate["max_records_per_person"],
        statement=certificate["statement"],
        max_records_per_party=certificate["max_records_per_party"],
        trust=fitting.trust,
    )


def total_epsilon(events: list[dict[str, Any]], delta: float) -> float:
    """Epsilon of all events together, as ledgers hold them."""
    import json

    from blindsight.privacy import Event, epsilon_of

    plain = [{key: value for key, value in event.items() if key != "guarantee"} for event in events]
    return float(epsilon_of([Event.from_json(json.dumps(event).encode()) for event in plain], delta))


def charged_events(home: Path, key_file: Path | None, runs: frozenset[str]) -> list[dict[str, Any]]:
    """What these runs had charged to the party that was charged for most sums, as its ledgers hold it."""
    import json

    if not runs:
        return []
    of_party: dict[str, list[dict[str, Any]]] = {}
    for account in accounts(home, key_file=key_file):
        of_party.setdefault(account.party, []).extend(
            json.loads(entry.event.to_json()) for entry in account.charged() if entry.release_id.split("/")[0] in runs
        )
    return max(of_party.values(), key=len, default=[])


def _stage(record: RunRecord, step: Any) -> Stage:
    event = step.event
    return Stage(
        kind=record.kind,
        step=step.step,
        purpose=step.purpose,
        coordinates=step.length,
        participants=tuple(step.participants),
        survivors=tuple(step.survivors),
        dropped=dict(step.dropped),
        sent_bytes=step.sent_bytes,
        received_bytes=step.received_bytes,
        seconds=step.seconds,
        exact=event["mechanism"] == "exact-sum",
        noise_stddev=math.sqrt(event["local_variance"] * len(step.survivors)),
        guarantee=event["guarantee"],
        loss=step.loss,
    )


def _ledgers(home: Path, key_file: Path | None, runs: frozenset[str]) -> tuple[list[Charge], list[Budget]]:
    from blindsight.privacy import epsilon_of

    charges: list[Charge] = []
    budgets: list[Budget] = []
    for account in accounts(home, key_file=key_file):
        entries = account.charged()
        charges += [charge_of(account.party, entry, runs) for entry in entries]
        budget = account.ledger.budget
        if entries and budget is not None:
            before = [entry.event for entry in entries if entry.release_id.split("/")[0] not in runs]
            budgets.append(
                Budget(
                    party=account.party,
                    unit=account.unit,
                    spent=account.ledger.spent(),
                    spent_before=float(epsilon_of(before, budget.delta)) if before else 0.0,
                    limit=budget.epsilon,
                    delta=budget.delta,
                    exact_releases=sum(entry.event.exact for entry in entries),
                )
            )
    return charges, budgets


def charge_of(party: str, entry: Any, runs: frozenset[str] = frozenset()) -> Charge:
    """One ledger entry as plain values."""
    event = entry.event
    return Charge(
        party=party,
        release=entry.release_id,
        time_utc=entry.time_utc,
        purpose=event.purpose,
        query=event.query,
        unit=event.unit,
        exact=event.exact,
        rho=event.rho,
        noise_stddev=0.0 if event.exact else event.total_stddev,
        output_stored=entry.output_sha256 is not None,
        this_run=entry.release_id.split("/")[0] in runs,
    )


def _evaluation(fitting: Fitting) -> MeasuredEvaluation | None:
    e = fitting.evaluation
    if e is None:
        return None
    return MeasuredEvaluation(
        auroc=_share(e.auroc),
        auroc_stddev=e.auroc_stddev,
        false_positive_rate=_share(e.false_positive_rate),
        false_positive_rate_stddev=e.false_positive_rate_stddev,
        false_negative_rate=_share(e.false_negative_rate),
        false_negative_rate_stddev=e.false_negative_rate_stddev,
        average_precision=_share(e.average_precision),
        normal=e.normal,
        anomalous=e.anomalous,
        roc=tuple((_share(x), _share(y)) for x, y in e.roc),
        in_sample=fitting.in_sample,
    )


def _share(value: float) -> float:
    return min(max(float(value), 0.0), 1.0)


def _histogram(model: Detector) -> Histogram:
    released = model.score_histogram_
    return Histogram(
        edges=tuple((released.edges * model.score_scale_).tolist()),
        counts=tuple(float(count) for count in released.counts),
        noise_stddev=math.sqrt(released.noise_variance),
    )
