"""Runs to make reports from."""

from __future__ import annotations

from typing import Any

from blindsight.report import (
    Blind,
    Budget,
    Charge,
    Comparison,
    Curve,
    Histogram,
    MeasuredEvaluation,
    ModelFacts,
    Privacy,
    RunFile,
    Stage,
)

ROC = ((0.0, 0.0), (0.1, 0.6), (1.0, 1.0))
PARTIES = ("bank-a", "bank-b", "bank-c")


def evaluation(**changes: Any) -> MeasuredEvaluation:
    values: dict[str, Any] = {
        "auroc": 0.8125,
        "auroc_stddev": 0.02,
        "false_positive_rate": 0.0142,
        "false_positive_rate_stddev": 0.002,
        "false_negative_rate": 0.45,
        "false_negative_rate_stddev": 0.05,
        "average_precision": 0.4,
        "normal": 10_000.0,
        "anomalous": 600.0,
        "roc": ROC,
        "in_sample": False,
    }
    return MeasuredEvaluation(**(values | changes))


def comparison(federated: float = 0.787, local: tuple[float, ...] = (0.781, 0.792)) -> Comparison:
    curves = [
        Curve(name="epsilon 1", kind="federated", auroc=federated, roc=ROC),
        Curve(name="pooled", kind="centralised", auroc=0.801, roc=ROC),
        *(Curve(name=f"party {i}", kind="local", auroc=value, roc=ROC) for i, value in enumerate(local)),
    ]
    return Comparison(records=17_960, anomalous=176, note="Whoever drew this owns all records.", curves=tuple(curves))


def blind(**changes: Any) -> Blind:
    values: dict[str, Any] = {
        "records": 1000,
        "packing": "rows",
        "parameters": "BFV rows, N=4096",
        "max_difference": 0.0,
        "bits_released": 20_002,
        "bits_per_record": 20.0,
        "rows_to_extract": 468,
        "sealed_bytes": 6_496_718,
        "answer_bytes": 6_156_174,
        "seal_seconds": 0.15,
        "score_seconds": 0.66,
        "open_seconds": 0.17,
        "clear_seconds": 0.001,
        "sample": tuple((float(i), float(i)) for i in range(200)),
        "alerts": 15,
    }
    return Blind(**(values | changes))


def stage(**changes: Any) -> Stage:
    values: dict[str, Any] = {
        "kind": "fit",
        "step": "fit",
        "purpose": "fit",
        "coordinates": 477,
        "participants": PARTIES,
        "survivors": PARTIES,
        "dropped": {},
        "sent_bytes": 7_700,
        "received_bytes": 15_800,
        "seconds": 0.5,
        "exact": False,
        "noise_stddev": 74.0,
        "guarantee": "0.0146-zCDP",
    }
    return Stage(**(values | changes))


def charge(**changes: Any) -> Charge:
    values: dict[str, Any] = {
        "party": "bank-a",
        "release": "7083f32bdd105fad/fit",
        "time_utc": "2030-01-01T00:00:00Z",
        "purpose": "fit",
        "query": "fit",
        "unit": "person",
        "exact": False,
        "rho": 0.01461,
        "noise_stddev": 74.0,
        "output_stored": True,
        "this_run": True,
    }
    return Charge(**(values | changes))


def budget(**changes: Any) -> Budget:
    values: dict[str, Any] = {
        "party": "bank-a",
        "unit": "person",
        "spent": 2.0,
        "spent_before": 1.0,
        "limit": 10.0,
        "delta": 1e-6,
        "exact_releases": 0,
    }
    return Budget(**(values | changes))


def full_run(**changes: Any) -> RunFile:
    values: dict[str, Any] = {
        "title": "Card fraud",
        "created_utc": "2030-01-01 00:00 UTC",
        "simulated": True,
        "data_note": "The records are simulated.",
        "separation": "Every party was a process of its own.",
        "parties": PARTIES,
        "trust": "up to 2 of 3 parties may collude with the coordinator",
        "model": ModelFacts(
            detector="ECOD",
            parameters={"bins": 64, "contamination": 0.02},
            features=("amount", "hour"),
            records=23_994,
            ranges="declared",
            schema_digest="ab" * 32,
            score_bits=17,
            encoding="one-hot bins, 477 entries",
            threshold=25.27,
            contamination=0.02,
        ),
        "privacy": Privacy(
            epsilon_asked=1.0,
            epsilon_spent=0.9999,
            delta=1e-6,
            unit="person",
            max_records_per_person=4,
            statement="Adding or removing one person changes little, up to a probability of 1e-06.",
        ),
        "stages": (stage(), stage(step="threshold", dropped={"bank-c": "gone"}, survivors=PARTIES[:2])),
        "budgets": (budget(), budget(party="bank-b"), budget(party="bank-c")),
        "ledger": (charge(), charge(party="bank-b", output_stored=False), charge(party="bank-c", exact=True)),
        "evaluation": evaluation(),
        "comparison": comparison(),
        "histogram": Histogram(
            edges=tuple(float(i) for i in range(1, 42)),
            counts=tuple(float(max(0, 1000 - 25 * i)) for i in range(42)),
            noise_stddev=40.0,
        ),
        "blind": blind(),
        "notes": ("Two values lie outside the ranges.",),
        "versions": {"Python": "3.11"},
    }
    return RunFile(**(values | changes))


def bare_run(**changes: Any) -> RunFile:
    """Everything that may be missing is missing."""
    missing: dict[str, Any] = {
        "simulated": False,
        "data_note": "",
        "privacy": None,
        "stages": (),
        "budgets": (),
        "ledger": (),
        "evaluation": None,
        "comparison": None,
        "histogram": None,
        "blind": None,
        "notes": (),
        "versions": {},
    }
    return full_run(**(missing | changes))
