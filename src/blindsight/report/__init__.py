"""The report: one run as plain values, and one self-contained page made from it."""

from ._bundle import Bundle, BundleCheck, check_bundle, make_bundle, read_bundle, write_bundle
from ._compare import OVERLAP, About, Absent, Compared, compared_table, overlap, render_compared, write_compared
from ._fleet import PICTURES, fleet_figure, write_fleet_figure
from ._page import render, write_report
from ._record import (
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
    parse_run,
    read_run,
    write_run,
)
from ._words import Role, Sentence, describe_alerts, describe_rate, verdict

__all__ = [
    "OVERLAP",
    "PICTURES",
    "About",
    "Absent",
    "Blind",
    "Budget",
    "Bundle",
    "BundleCheck",
    "Charge",
    "Compared",
    "Comparison",
    "Curve",
    "Histogram",
    "MeasuredEvaluation",
    "ModelFacts",
    "Privacy",
    "Role",
    "RunFile",
    "Sentence",
    "Stage",
    "check_bundle",
    "compared_table",
    "describe_alerts",
    "describe_rate",
    "fleet_figure",
    "make_bundle",
    "overlap",
    "parse_run",
    "read_bundle",
    "read_run",
    "render",
    "render_compared",
    "verdict",
    "write_bundle",
    "write_compared",
    "write_fleet_figure",
    "write_report",
    "write_run",
]
