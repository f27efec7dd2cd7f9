"""``demo``: the main job on real and on simulated records, through the code of ``fit`` and ``score``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError, StoreError
from blindsight.privacy import shown_epsilon
from blindsight.report import Blind, Comparison, Curve, RunFile, describe_rate, write_report, write_run

from ._fit import Fitting, fit_parties, run_file
from ._score import BlindScoring, ClearScoring, score_blind, score_clear
from ._screen import Screen

if TYPE_CHECKING:
    import polars as pl

    from blindsight.data import Schema
    from blindsight.detectors import Detector

__all__ = ["run_demo"]

MARK = "DEMO.txt"
PAYMENTS, QUICK_PAYMENTS = 60_000, 12_000
BLIND_RECORDS, QUICK_BLIND_RECORDS = 1_000, 100
EPSILON, DELTA = 1.0, 1e-6
CONTAMINATION = 0.02
MAX_RECORDS_PER_PERSON = 4
TEST_SHARE = 0.3
CURVE_POINTS = 160
SAMPLE_POINTS = 200

DATA_NOTE = "The records are simulated: invented card payments and persons; nothing here describes anybody."
COMPARISON_NOTE = (
    "The demo owns all these simulated records, so it can draw these curves; "
    "the parties of a real federation could not."
)


def run_demo(output: Path, screen: Screen, *, quick: bool) -> dict[str, Any]:
    """Run everything and write it below ``output``; return a summary as plain values."""
    started = time.perf_counter()
    _prepare(output)
    hospitals = _hospitals(output / "hospitals", screen)
    banks = _banks(output, screen, quick=quick)
    seconds = time.perf_counter() - started
    screen.say()
    screen.say(f"Report: {output / 'report.html'}")
    screen.say(f"Model:  {output / 'fraud.blindsight'}   (the whole demo took {seconds:.0f} s)")
    return {"hospitals": hospitals, "banks": banks, "seconds": seconds, "report": str(output / "report.html")}


def _prepare(output: Path) -> None:
    """Make the folder; one that an earlier demo made is emptied, any other is left alone."""
    try:
        if output.exists() and any(output.iterdir()):
            if not (output / MARK).is_file():
                raise ParameterError(
                    "The demo's folder holds something else",
                    got=str(output)[:300],
                    rule="an empty folder, or one that an earlier demo made",
                    fix="name another folder with --output",
                )
            for name in ("hospitals", "banks"):
                shutil.rmtree(output / name, ignore_errors=True)
        output.mkdir(parents=True, exist_ok=True)
        (output / MARK).write_text("Made by 'blindsight demo', which replaces what is here.\n", encoding="utf-8")
    except OSError as error:
        raise StoreError("The demo's folder cannot be used", got=error.strerror or "an error") from error


# -- hospitals: real records, and what differential privacy costs at their size -----------------------------------


def _hospitals(folder: Path, screen: Screen) -> dict[str, Any]:
    import polars as pl

    from blindsight import ECOD, DifferentialPrivacy, Policy, load_hospitals

    tables, schema = load_hospitals()
    data = _write(tables, folder / "data")
    everything = pl.concat(tables.values())
    labels = everything["malignant"].to_numpy()
    screen.say("1. Three hospitals (real records: Wisconsin diagnostic breast cancer, divided among hospitals by us)")
    screen.say(
        f"   {', '.join(f'{name} {len(t)}' for name, t in tables.items())} records; {labels.sum()} are malignant"
    )
    result: dict[str, Any] = {"records": len(everything), "malignant": int(labels.sum()), "auroc": {}}
    for name, privacy in (
        ("exact", None),
        ("epsilon 1", DifferentialPrivacy(epsilon=EPSILON, delta=DELTA, unit="record")),
    ):
        with screen.working(f"   fitting, {name}") as progress:
            fitting = fit_parties(
                ECOD(contamination=0.05),
                schema=schema,
                data=data,
                evaluation={},
                evaluate=False,
                privacy=privacy,
                policy=Policy(allow_exact_sums=True),
                home=folder / "parties",
                key_file=None,
                progress=progress,
            )
        auroc = _auroc(labels, fitting.model.decision_function(everything))
        result["auroc"][name] = auroc
        words = "exact sums, no differential privacy" if privacy is None else "epsilon 1 per record"
        screen.say(f"   {words:<36} AUROC {auroc:.3f}")
    centralised = ECOD(contamination=0.05, schema=schema).fit(everything)
    result["auroc"]["centralised"] = _auroc(labels, centralised.decision_function(everything))
    result["equal_to_centralised"] = bool(result["auroc"]["centralised"] == result["auroc"]["exact"])
    screen.say(f"   {'centralised, for comparison':<36} AUROC {result['auroc']['centralised']:.3f}")
    loss = result["auroc"]["exact"] - result["auroc"]["epsilon 1"]
    screen.say(
        f"   At {len(everything)} records epsilon 1 "
        + (f"costs {loss:.2f} of AUROC" if loss > 0.005 else "happened to cost nothing this time")
        + ": noise that hides any record is large beside so few."
    )
    screen.say("   (Measured in the clear, on the records that were fitted.)")
    screen.say()
    return result


# -- banks: simulated payments, privacy per person, blind scoring, report --------------------------------------------


def _banks(output: Path, screen: Screen, *, quick: bool) -> dict[str, Any]:
    import polars as pl

    from blindsight import ECOD, DifferentialPrivacy, simulate_card_payments

    folder = output / "banks"
    tables, schema = simulate_card_payments(n=QUICK_PAYMENTS if quick else PAYMENTS)
    train, test = _split(tables)
    schema.write(_made(folder / "data") / "schema.toml")
    train_files, test_files = _write(train, folder / "data" / "train"), _write(test, folder / "data" / "test")
    screen.say("2. Three banks (SIMULATED card payments: nothing here describes anybody)")
    n_train, n_test = (sum(map(len, split.values())) for split in (train, test))
    screen.say(f"   {n_train:,} payments to train on, {n_test:,} of other persons to test on")

    privacy = DifferentialPrivacy(
        epsilon=EPSILON, delta=DELTA, unit="person", max_records_per_person=MAX_RECORDS_PER_PERSON
    )
    with screen.working("   fitting ECOD at epsilon 1 per person, one process a bank") as progress:
        fitting = fit_parties(
            ECOD(contamination=CONTAMINATION),
            schema=schema,
            data=train_files,
            evaluation=test_files,
            evaluate=True,
            privacy=privacy,
            policy=None,
            home=folder / "parties",
            key_file=None,
            progress=progress,
        )
    model_path = output / "fraud.blindsight"
    fitting.model.save(model_path)

    everything = pl.concat(test.values())
    with screen.working("   comparing with each bank alone and with pooled records"):
        comparison = _compare(fitting.model, schema, train, everything)
    rng = np.random.default_rng(0)
    count = QUICK_BLIND_RECORDS if quick else BLIND_RECORDS
    rows = np.sort(rng.choice(len(everything), count, replace=False))
    asked = everything[rows.tolist()]
    asked_file = folder / "data" / "to-score.csv"
    asked.write_csv(asked_file)
    with screen.working(f"   scoring {count:,} test payments blind, in another process") as progress:
        blind = score_blind(
            model_path=model_path,
            input_path=asked_file,
            output=output / "scores.csv",
            key_file=None,
            home=None,
            packing="rows",
            bit_budget=None,
            progress=progress,
        )
        clear = score_clear(
            model_path=model_path,
            input_path=asked_file,
            output=output / "scores-clear.csv",
            key_file=None,
            progress=progress,
        )
    run = run_file(
        fitting,
        title="Card fraud at three banks (simulated)",
        home=folder / "parties",
        key_file=None,
        simulated=True,
        data_note=DATA_NOTE,
        comparison=comparison,
        blind=compare_blind(blind, clear),
    )
    write_run(run, output)
    write_report(run, output / "report.html")
    return _summary(run, fitting, blind, asked, screen)


def _summary(
    run: RunFile, fitting: Fitting, blind: BlindScoring, asked: pl.DataFrame, screen: Screen
) -> dict[str, Any]:
    assert run.comparison is not None
    assert run.blind is not None
    assert run.privacy is not None
    evaluation = run.evaluation
    screen.table(
        "Ranking of fraud on the test payments (simulated), in the clear: the demo owns them all",
        [("Model", "left"), ("AUROC", "right")],
        [(f"{curve.kind}: {curve.name}", f"{curve.auroc:.3f}") for curve in run.comparison.curves],
    )
    if evaluation is not None:
        noise = f" ± {2 * evaluation.auroc_stddev:.2f}" if evaluation.auroc_stddev else ""
        ranking = (
            f"AUROC {evaluation.auroc:.2f}{noise}"
            if evaluation.measurable
            else "too few labelled frauds to measure the AUROC under this much noise"
        )
        screen.say("   From private sums, which is all that a real federation has:")
        screen.say(f"   {ranking};")
        alerts = describe_rate(evaluation.false_positive_rate, evaluation.false_positive_rate_stddev)
        screen.say(f"   {alerts} of normal payments would alert.")
    screen.say(
        f"   Privacy: epsilon {shown_epsilon(run.privacy.epsilon_spent)} per person at delta {run.privacy.delta:g}, "
        "for model, threshold and evaluation together."
    )
    difference = run.blind.max_difference
    screen.say(
        f"   Blind scores of {run.blind.records:,} payments "
        + ("equal the clear ones exactly" if difference == 0 else f"DIFFER from the clear ones by {difference}")
        + f"; {run.blind.bits_released:,} bits released."
    )
    top = [(row, value) for row, value in blind.writer.top if value > blind.writer.threshold]
    rows = [asked.row(row, named=True) for row, _ in top]
    screen.table(
        f"Top {len(top)} of {run.blind.alerts} alerts among {run.blind.records:,} payments, scored blind (simulated)",
        [("Row", "right"), ("Score", "right"), ("Amount EUR", "right"), ("Merchant", "left"), ("Country", "left"),
         ("Truth", "left")],
        [
            (row, f"{score:.2f}", f"{record['amount']:.2f}", record["merchant"], record["country"],
             "fraud" if record["fraud"] else "honest")
            for (row, score), record in zip(top, rows, strict=True)
        ],
    )  # fmt: skip
    return {
        "simulated": True,
        "auroc": {f"{curve.kind}: {curve.name}": curve.auroc for curve in run.comparison.curves},
        "epsilon_spent": run.privacy.epsilon_spent,
        "private_evaluation": None
        if evaluation is None
        else {
            "auroc": evaluation.auroc if evaluation.measurable else None,
            "auroc_stddev": evaluation.auroc_stddev,
            "false_positive_rate": evaluation.false_positive_rate,
            "false_positive_rate_stddev": evaluation.false_positive_rate_stddev,
        },
        "blind_equals_clear": difference == 0,
        "alerts": run.blind.alerts,
        "parties": list(run.parties),
        "run": fitting.history[0].run,
    }


def compare_blind(blind: BlindScoring, clear: ClearScoring) -> Blind:
    """Hold the two score files against each other.

    Raises
    ------
    StoreError
        They do not have the same rows.
    """
    import polars as pl

    a, b = pl.read_csv(blind.writer.path), pl.read_csv(clear.writer.path)
    if len(a) != len(b):
        raise StoreError("The blind and the clear scores have different rows", got=f"{len(a)} and {len(b)}")
    opened, plain = a["score"].to_numpy(), b["score"].to_numpy()
    step = max(1, len(plain) // SAMPLE_POINTS)
    pairs = np.column_stack([plain, opened])[::step][:SAMPLE_POINTS]
    return Blind(
        records=len(a),
        packing=blind.packing,
        parameters=blind.facts.parameters,
        max_difference=float(np.abs(opened - plain).max()),
        bits_released=blind.bits_released,
        bits_per_record=blind.facts.bits_per_record,
        rows_to_extract=blind.facts.rows_to_extract,
        sealed_bytes=blind.sealed_bytes,
        answer_bytes=blind.answer_bytes,
        seal_seconds=blind.seal_seconds,
        score_seconds=blind.score_seconds,
        open_seconds=blind.open_seconds,
        clear_seconds=clear.seconds,
        sample=tuple((float(x), float(y)) for x, y in pairs),
        alerts=blind.writer.alerts,
    )


def _split(tables: Mapping[str, pl.DataFrame]) -> tuple[dict[str, pl.DataFrame], dict[str, pl.DataFrame]]:
    """Put every person wholly into training or test."""
    import polars as pl

    rng = np.random.default_rng(1)
    train, test = {}, {}
    for name, table in tables.items():
        persons = table["person_id"].unique().sort()
        held_out = persons.filter(pl.Series(rng.random(len(persons)) < TEST_SHARE))
        is_test = table["person_id"].is_in(held_out.implode())
        train[name], test[name] = table.filter(~is_test), table.filter(is_test)
    return train, test


def _compare(model: Detector, schema: Schema, train: Mapping[str, pl.DataFrame], test: pl.DataFrame) -> Comparison:
    """Draw ROC curves in the clear: the federated model, each party alone, all records pooled."""
    import polars as pl

    from blindsight import ECOD

    labels = test["fraud"].to_numpy()
    scores: dict[tuple[Literal["local", "federated", "centralised"], str], npt.NDArray[np.float64]] = {
        ("federated", "epsilon 1 per person"): model.decision_function(test)
    }
    pooled = ECOD(contamination=CONTAMINATION, schema=schema).fit(pl.concat(train.values()))
    scores["centralised", "pooled, no privacy"] = pooled.decision_function(test)
    for name, table in train.items():
        alone = ECOD(contamination=CONTAMINATION, schema=schema).fit(table)
        scores["local", f"{name} alone"] = alone.decision_function(test)
    return Comparison(
        records=len(labels),
        anomalous=int(labels.sum()),
        note=COMPARISON_NOTE,
        curves=tuple(
            Curve(name=name, kind=kind, auroc=_auroc(labels, values), roc=_curve(labels, values))
            for (kind, name), values in scores.items()
        ),
    )


def _auroc(labels: npt.NDArray[Any], scores: npt.NDArray[np.float64]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def _curve(labels: npt.NDArray[Any], scores: npt.NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """ROC at evenly chosen points, close together where false positives are few."""
    from sklearn.metrics import roc_curve

    false_positive, true_positive, _ = roc_curve(labels, scores)
    grid = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, CURVE_POINTS // 2), np.linspace(0, 1, CURVE_POINTS // 2)])
    grid = np.unique(grid)
    at = np.interp(grid, false_positive, true_positive)
    at[0] = 0.0
    return tuple((float(x), float(y)) for x, y in zip(grid, np.clip(at, 0.0, 1.0), strict=True))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(tables: Mapping[str, pl.DataFrame], folder: Path) -> dict[str, Path]:
    _made(folder)
    for name, table in tables.items():
        table.write_csv(folder / f"{name}.csv")
    return {name: folder / f"{name}.csv" for name in tables}
