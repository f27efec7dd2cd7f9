"""What a report is made from: one run as frozen plain values, parsed strictly because files travel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from blindsight.errors import FormatError, StoreError
from blindsight.keys import write_atomic

__all__ = [
    "Blind",
    "Budget",
    "Charge",
    "Comparison",
    "Curve",
    "Histogram",
    "MeasuredEvaluation",
    "ModelFacts",
    "Privacy",
    "RunFile",
    "Stage",
    "read_run",
    "write_run",
]

RUN_FILE_NAME = "run.json"
MAX_FILE_BYTES = 1 << 24

Short = Annotated[str, msgspec.Meta(max_length=256)]
Long = Annotated[str, msgspec.Meta(max_length=4000)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Size = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
Real = Annotated[float, msgspec.Meta(ge=-1e18, le=1e18)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Points = Annotated[tuple[tuple[Share, Share], ...], msgspec.Meta(min_length=2, max_length=2000)]
Names = Annotated[tuple[Short, ...], msgspec.Meta(max_length=10_000)]


class Privacy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was asked for and what it cost; None in its place means exact sums.

    Parameters
    ----------
    epsilon_asked, epsilon_spent, delta : float
        ``epsilon_spent`` is of everything released in this run together, fit to evaluation.
    unit : {"record", "person", "party"}
    max_records_per_person, max_records_per_party : int or None
    trust : {"federation", "local"}
        Whether the parties' noise protects together, or each party's by itself.
    statement : str
        The guarantee in one paragraph.
    """

    epsilon_asked: Size
    epsilon_spent: Size
    delta: Share
    unit: Literal["record", "person", "party"]
    max_records_per_person: Count | None
    statement: Long
    max_records_per_party: Count | None = None
    trust: Literal["federation", "local"] = "federation"


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model, as it describes itself. No weight, no count.

    ``alert_interval`` is that of ``ScoreHistogram``: shares that the noise leaves for ``contamination``; None where
    there was none, and in runs written before it was stated.
    """

    detector: Short
    parameters: Annotated[dict[Short, str | int | float | bool | None], msgspec.Meta(max_length=100)]
    features: Names
    records: Count
    ranges: Literal["declared", "learned"]
    schema_digest: Short
    score_bits: Count
    encoding: Short
    threshold: Real
    contamination: Share
    alert_interval: tuple[Share, Share] | None = None


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One private sum: what crossed and how long it took.

    ``noise_stddev`` is of the total that was opened: the noise of all survivors, in the sum's own unit.
    """

    kind: Short
    step: Short
    purpose: Short
    coordinates: Count
    participants: Names
    survivors: Names
    dropped: Annotated[dict[Short, Long], msgspec.Meta(max_length=10_000)]
    sent_bytes: Count
    received_bytes: Count
    seconds: Size
    exact: bool
    noise_stddev: Size
    guarantee: Long
    loss: Real | None = None


class Charge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a party's ledger.

    ``noise_stddev`` is the part that the guarantee counts on: of the fewest survivors, without those who may collude.
    """

    party: Short
    release: Short
    time_utc: Short
    purpose: Short
    query: Short
    unit: Short
    exact: bool
    rho: Size
    noise_stddev: Size
    output_stored: bool
    this_run: bool


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One account of one party: what it has spent, of what."""

    party: Short
    unit: Short
    spent: Size
    spent_before: Size
    limit: Size
    delta: Share
    exact_releases: Count


class MeasuredEvaluation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Figures from private sums of labelled records; the stddevs are what the noise leaves unknown.

    A rate is None where there is no record of its class, and the average precision where one of both has none.
    """

    auroc: Share
    auroc_stddev: Size
    false_positive_rate: Share | None
    false_positive_rate_stddev: Size
    false_negative_rate: Share | None
    false_negative_rate_stddev: Size
    average_precision: Share | None
    normal: Size
    anomalous: Size
    roc: Points
    in_sample: bool

    @property
    def measurable(self) -> bool:
        """Whether the noise leaves the AUROC known to within .1 (one standard deviation)."""
        return self.auroc_stddev <= 0.1

    @property
    def both_classes(self) -> bool:
        """Whether there are normal and anomalous records, as released."""
        return min(self.normal, self.anomalous) > 0


class Curve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ROC curve measured in the clear."""

    name: Short
    kind: Literal["local", "federated", "centralised"]
    auroc: Share
    roc: Points


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ROC curves that only somebody who owns all records can draw."""

    records: Count
    anomalous: Count
    note: Long
    curves: Annotated[tuple[Curve, ...], msgspec.Meta(min_length=1, max_length=40)]


class Histogram(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Released score histogram: counts between edges, in score units."""

    edges: Annotated[tuple[Real, ...], msgspec.Meta(min_length=1, max_length=5000)]
    counts: Annotated[tuple[Real, ...], msgspec.Meta(min_length=2, max_length=5001)]
    noise_stddev: Size


class Blind(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Records scored blind in another process, compared with the clear scores."""

    records: Count
    packing: Short
    parameters: Long
    max_difference: Size
    bits_released: Count
    bits_per_record: Size
    rows_to_extract: Count
    sealed_bytes: Count
    answer_bytes: Count
    seal_seconds: Size
    score_seconds: Size
    open_seconds: Size
    clear_seconds: Size
    sample: Annotated[tuple[tuple[Real, Real], ...], msgspec.Meta(max_length=400)]
    alerts: Count


class RunFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a report says.

    Parameters
    ----------
    title : str
    created_utc : str
    simulated : bool
        Whether the records were invented; the report then says so wherever a figure stands.
    data_note : str
        What the records are, in a sentence.
    separation : str
        How the parties were kept apart in this run.
    parties : tuple of str
    trust : str
        Who must be trusted for the sums to stay private.
    model, privacy, stages, budgets, ledger, evaluation, comparison, histogram, blind
        None or empty where the run has none.
    notes : tuple of str
        Warnings that came up.
    versions : dict of str to str
    runs : tuple of str
        Ids of the runs that this is about: what ledgers name releases by.
    delivered : dict of party to text
        Who got the model from the coordinator, and what became of it there.
    coordinated : bool
        Whether ``blindsight coordinator`` ran it, with parties elsewhere.
    """

    format: Literal["blindsight-run"] = "blindsight-run"
    version: Literal[1] = 1
    title: Short
    created_utc: Short
    simulated: bool
    data_note: Long
    separation: Long
    parties: Names
    trust: Long
    model: ModelFacts
    privacy: Privacy | None
    stages: Annotated[tuple[Stage, ...], msgspec.Meta(max_length=25_000)]
    budgets: Annotated[tuple[Budget, ...], msgspec.Meta(max_length=10_000)] = ()
    ledger: Annotated[tuple[Charge, ...], msgspec.Meta(max_length=100_000)] = ()
    evaluation: MeasuredEvaluation | None = None
    comparison: Comparison | None = None
    histogram: Histogram | None = None
    blind: Blind | None = None
    notes: Annotated[tuple[Long, ...], msgspec.Meta(max_length=1000)] = ()
    versions: Annotated[dict[Short, Short], msgspec.Meta(max_length=200)] = {}
    runs: Annotated[tuple[Short, ...], msgspec.Meta(max_length=100)] = ()
    delivered: Annotated[dict[Short, Long], msgspec.Meta(max_length=10_000)] = {}
    coordinated: bool = False

    def __post_init__(self) -> None:
        if self.histogram is not None and len(self.histogram.counts) != len(self.histogram.edges) + 1:
            raise ValueError("a score histogram has one count more than edges")


def read_run(path: str | os.PathLike[str]) -> RunFile:
    """Read ``run.json``, given the file or the folder that holds it.

    Raises
    ------
    StoreError
        It cannot be read.
    FormatError
        It is not a run: syntax, unknown or missing field, wrong type, too long, out of range.
    """
    path = Path(path)
    if path.is_dir():
        path = path / RUN_FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise StoreError(
            f"The run '{path.name}' cannot be read",
            got=error.strerror or "an error",
            fix="give the folder that 'blindsight fit --home' wrote, or its run.json",
        ) from error
    return parse_run(data)


def parse_run(data: bytes) -> RunFile:
    """Parse untrusted bytes; FormatError for anything that is not exactly a run."""
    try:
        if len(data) > MAX_FILE_BYTES:
            raise ValueError("longer than 16 MiB")
        return msgspec.json.decode(data, type=RunFile)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        from blindsight.modelfile import is_model_file

        model = is_model_file(data)
        raise FormatError(
            "This is a model file, not a run" if model else "The run file is malformed",
            got=None if model else str(error)[:300],
            rule="what 'blindsight fit' of this version writes",
            fix="give run.json, or the folder that 'blindsight fit --home' wrote it into"
            if model
            else "run 'blindsight fit' again",
        ) from error


def write_run(run: RunFile, path: str | os.PathLike[str]) -> Path:
    """Write ``run.json`` atomically; mode 0600, since a ledger names releases. Returns its path."""
    path = Path(path)
    if path.is_dir():
        path = path / RUN_FILE_NAME
    data = msgspec.json.format(msgspec.json.encode(run), indent=1)
    parse_run(data)  # what we write, we read
    write_atomic(path, data)
    return path
