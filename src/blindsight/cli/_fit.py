"""Fitting with one process a party, and everything that the report needs to know of it."""

from __future__ import annotations

import contextlib
import math
import re
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindsight.errors import (
    BlindsightError,
    BlindsightWarning,
    BudgetError,
    ParameterError,
    PolicyError,
    StoreError,
)
from blindsight.report import Budget, Charge, Histogram, MeasuredEvaluation, ModelFacts, Privacy, RunFile, Stage

from ._exits import DISK_FULL
from ._parties import accounts
from ._resume import evaluate_or_resume, fit_or_resume

if TYPE_CHECKING:
    from blindsight.data import Schema
    from blindsight.detectors import Detector
    from blindsight.federation import Evaluation, Policy, RunRecord
    from blindsight.privacy import DifferentialPrivacy

__all__ = ["Fitting", "charged_events", "check_files", "collected_warnings", "fit_parties", "run_file", "total_epsilon"]

MAX_LOG_BYTES = 1 << 20
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
    privacy : DifferentialPrivacy or None
        As asked for.
    history : list of RunRecord
    warnings : list of str
    remarked : dict of party name to path
        Logs of parties on this machine that have gained a remark on their records.
    """

    model: Detector
    evaluation: Evaluation | None
    in_sample: bool
    history: list[RunRecord]
    privacy: DifferentialPrivacy | None = None
    warnings: list[str] = field(default_factory=list)
    remarked: dict[str, Path] = field(default_factory=dict)


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
    sums: str = "masked",
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
    sums : {"masked", "he", "paillier", "auto"}
        What hides the parties' vectors; see ``Federation``.
    """
    from blindsight.federation import Federation

    check_files(data, evaluation)
    remarks = _remarks_on_files(data, home)
    for remark in remarks:  # before anything is charged
        warnings.warn(remark, BlindsightWarning, stacklevel=2)
    with (
        collected_warnings() as told,
        _naming_logs(home, data) as logs,
        Federation.processes(
            data,
            schema=schema,
            home=home,
            evaluation=evaluation,
            policy=policy,
            key_file=key_file,
            progress=progress,
            sums=sums,
        ) as federation,
    ):
        if history is not None:
            federation.history = history
        model = fit_or_resume(federation, detector, privacy, evaluates=evaluate)
        measured = evaluate_or_resume(federation, model, privacy) if evaluate else None
    return Fitting(
        model=model,
        evaluation=measured,
        in_sample=evaluate and set(evaluation) != set(data),
        history=federation.history,
        privacy=privacy,
        warnings=remarks + told,
        remarked={name: logs.path(name) for name in logs.grown()},
    )


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Give the texts of Blindsight's warnings, once the block has ended; they are shown then as well."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", BlindsightWarning)
        yield told
        told += [str(warning.message) for warning in caught if issubclass(warning.category, BlindsightWarning)]
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def check_files(data: Mapping[str, Path], evaluation: Mapping[str, Path]) -> None:
    """Refuse, before anything is charged, what could not be measured honestly.

    Raises
    ------
    ParameterError
        Test records of some parties only: the others would be measured on the records they were trained on.
    """
    missing = sorted(set(data) - set(evaluation))
    if evaluation and missing:
        raise ParameterError(
            "Only some parties gave test records",
            got=f"none from {', '.join(missing)}: their training records would be used, which flatters",
            rule="--evaluate for every party, or for none",
            fix=" ".join(f"--evaluate {name}=TEST.csv" for name in missing),
        )


def _remarks_on_files(data: Mapping[str, Path], home: Path) -> list[str]:
    """Say where parties share a file, and where a folder goes on with other records than before."""
    remarks = []
    sharing: dict[Path, list[str]] = {}
    for name, path in sorted(data.items()):
        sharing.setdefault(path.resolve(), []).append(name)
    for path, names in sharing.items():
        if len(names) > 1:
            remarks.append(
                f"{', '.join(names)} have the same file, '{path.name}': each of its records counts {len(names)} times, "
                "and the epsilon stated is for one of these times."
            )
    for name, path in sorted(data.items()):
        try:
            before = Path(tomllib.loads((home / name / "party.toml").read_text(encoding="utf-8"))["data"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a new folder, or one that opening it will complain of
        if before != path.resolve():
            remarks.append(
                f"The folder of {name} held other records before ('{before.name}', now '{path.name}'): its ledger goes "
                "on, and what was spent on those counts here too."
            )
    return remarks


@contextlib.contextmanager
def _naming_logs(home: Path, data: Mapping[str, Path]) -> Iterator[PartyLogs]:
    """Add to an error what the parties' logs say of it.

    A coordinator elsewhere is not told. Here whoever reads the error has started the parties' processes and has their
    folders.
    """
    logs = PartyLogs(home, data)
    try:
        yield logs
    except (PolicyError, BudgetError):
        raise  # says all there is to say
    except BlindsightError as error:
        causes = logs.causes()
        full = [name for name, cause in causes.items() if DISK_FULL in cause]
        if full or DISK_FULL in error.what:
            raise StoreError(
                f"{', '.join(full)}: {DISK_FULL}" if full else error.what,
                rule="the ledgers are intact and hold what was charged until then",
                fix="free space and run the same command again",
            ) from error
        if not causes:
            raise
        told = "; ".join(f"{name}'s log says: {cause}" for name, cause in causes.items())
        seen = (error.got or "").partition("Parties said:")[0].rstrip(". ")  # the logs say more than they did
        check = [
            f"blindsight schema check {home / name / 'schema.toml'} {data[name]}"
            for name, cause in causes.items()
            if not cause.startswith("The ")  # what is wrong with records begins with them, not with a store or a policy
        ]
        raise type(error)(
            error.what,
            got=f"{seen}. {told}" if seen else told,
            rule=error.rule,
            fix="; ".join([*check, f"read {', '.join(str(logs.path(name)) for name in causes)}"]),
        ) from error


class PartyLogs:
    """What the parties' own logs on this machine have gained since this was made."""

    def __init__(self, home: Path, names: Iterable[str]) -> None:
        self._home = home
        self._sizes = {name: self._size(self.path(name)) for name in sorted(names)} if home else {}

    def path(self, name: str) -> Path:
        """A party's log."""
        return self._home / name / "party.log"

    def grown(self) -> list[str]:
        """Parties whose log has gained something."""
        return [name for name, size in self._sizes.items() if self._size(self.path(name)) > size]

    def causes(self) -> dict[str, str]:
        """The last reason of each party that refused or failed, without time and name."""
        found = {}
        for name in self.grown():
            with self.path(name).open("rb") as file:
                file.seek(self._sizes[name])
                lines = file.read(MAX_LOG_BYTES).decode("utf-8", "replace").splitlines()
            reasons = [line for line in lines if " refuses: " in line or " cannot start: " in line]
            if reasons:
                found[name] = re.split(r" refuses: | cannot start: ", reasons[-1], maxsplit=1)[1][:600]
        return found

    @staticmethod
    def _size(path: Path) -> int:
        return path.stat().st_size if path.is_file() else 0


def run_file(
    fitting: Fitting,
    *,
    title: str,
    home: Path | None,
    key_file: Path | None,
    simulated: bool = False,
    data_note: str = "",
    separation: str = SEPARATION,
    **more: Any,
) -> RunFile:
    """Collect what the report says, from the run, the model and the parties' ledgers.

    Parameters
    ----------
    home : Path or None
        Folder of the parties' folders; None where they are elsewhere, so that no ledger is here.
    separation : str
        How the parties were kept apart.
    **more
        Further fields of RunFile: ``comparison``, ``blind``.
    """
    first = fitting.history[0]
    runs = frozenset(record.run for record in fitting.history)
    ledger, budgets = ([], []) if home is None else _ledgers(home, key_file, runs)
    return RunFile(
        title=title,
        created_utc=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        simulated=simulated,
        data_note=data_note,
        separation=separation,
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
        runs=tuple(record.run for record in fitting.history),
        delivered={name: word for record in fitting.history for name, word in record.sent.items()},
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
        alert_interval=model.score_histogram_.alert_interval(model.contamination),
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
    if fitting.privacy is None:
        return None
    from blindsight.federation import certificate_of

    # the model's own certificate covers the fit alone; the report's is of everything in this run, under one number
    first = fitting.history[0]
    everything = replace(first, steps=[step for record in fitting.history for step in record.steps])
    certificate = certificate_of(everything, fitting.privacy, first.steps[0].participants)
    return Privacy(
        epsilon_asked=certificate["epsilon_asked"],
        epsilon_spent=certificate["epsilon_spent"],
        delta=certificate["delta"],
        unit=certificate["unit"],
        max_records_per_person=certificate["max_records_per_person"],
        statement=certificate["statement"],
        max_records_per_party=certificate["max_records_per_party"],
        trust=fitting.privacy.trust,
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
        noise_stddev=math.sqrt(event["local_variance"] * len(step.survivors)) * event["grid"],
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
        false_positive_rate=_known_share(e.false_positive_rate),
        false_positive_rate_stddev=e.false_positive_rate_stddev,
        false_negative_rate=_known_share(e.false_negative_rate),
        false_negative_rate_stddev=e.false_negative_rate_stddev,
        average_precision=_known_share(e.average_precision),
        normal=e.normal,
        anomalous=e.anomalous,
        roc=tuple((_share(x), _share(y)) for x, y in e.roc),
        in_sample=fitting.in_sample,
    )


def _share(value: float) -> float:
    return min(max(float(value), 0.0), 1.0)


def _known_share(value: float) -> float | None:
    return None if math.isnan(value) else _share(value)


def _histogram(model: Detector) -> Histogram:
    released = model.score_histogram_
    return Histogram(
        edges=tuple((released.edges * model.score_scale_).tolist()),
        counts=tuple(float(count) for count in released.counts),
        noise_stddev=math.sqrt(released.noise_variance),
    )
