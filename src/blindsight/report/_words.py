"""What a run means, in plain sentences: every claim with its unit, its trust model and what it leaves out."""

from __future__ import annotations

from dataclasses import dataclass

from blindsight.privacy import shown_epsilon

from ._columns import records_used
from ._record import Curve, MeasuredEvaluation, ModelFacts, RunFile

__all__ = [
    "Role",
    "Sentence",
    "assumptions",
    "describe_alerts",
    "describe_bytes",
    "describe_noise",
    "describe_rate",
    "describe_small",
    "not_covered",
    "not_measured",
    "roles",
    "verdict",
]


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One line of the verdict: a question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Role:
    """Who held what and learned what."""

    name: str
    held: str
    learned: str
    not_learned: str


def describe_bytes(count: float) -> str:
    """Return a size for people, in powers of ten."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def describe_alerts(model: ModelFacts) -> str:
    """Return the share of records that a model was asked to alert on, and what the noise leaves of it."""
    text = f"about {100 * model.contamination:.3g}% of records like those it was trained on"
    if model.alert_interval is None:
        return text
    low, high = model.alert_interval
    between = f"between {100 * low:.3g}% and {100 * high:.3g}%"
    return f"{text}; the noise of its counts moves that to {between} in about nineteen fits of twenty"


def describe_small(value: float) -> str:
    """Return a small probability without a leading zero in its exponent, and never broken over two lines."""
    return f"{value:g}".replace("e-0", "e-").replace("-", "\N{NON-BREAKING HYPHEN}")


def describe_noise(stddev: float) -> str:
    """Return a standard deviation in a sum's own unit: counts have large ones, weights of a network small ones."""
    return f"{stddev:.1f}" if stddev >= 10 else f"{stddev:.3g}"


def join_names(names: tuple[str, ...], most: int = 6) -> str:
    """Return 'a, b and c', or the first few and how many more."""
    if len(names) > most:
        return ", ".join(names[:most]) + f" and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def not_measured(run: RunFile) -> str:
    """Return what stands in place of figures, and the command that measures."""
    if run.coordinated:
        return (
            "Not measured in this run. 'blindsight coordinator evaluate KIT --model MODEL' measures the model on the "
            "parties' labelled records, by sums of the same kind; what it found then stands in the kit's "
            "evaluation.json, and not here."
        )
    return (
        "Not measured: no evaluation was asked for. 'blindsight fit --evaluate NAME=FILE' measures the model on "
        "labelled test records, by sums of the same kind."
    )


def verdict(run: RunFile) -> list[Sentence]:
    """Five questions that a privacy officer asks first."""
    return [
        Sentence(question="What was trained?", answer=_trained(run)),
        Sentence(question="Did records move?", answer=_moved(run)),
        Sentence(question="How good is it?", answer=_quality(run)),
        Sentence(question="What did it cost in privacy?", answer=_cost(run)),
        Sentence(question="What is not protected?", answer=_gaps(run)),
    ]


def _trained(run: RunFile) -> str:
    noisy = run.privacy is not None
    records = f"about {float(f'{run.model.records:.3g}'):,.0f}" if noisy else f"{run.model.records:,}"
    simulated = "simulated " if run.simulated else ""
    bound = records_used(run)
    used = f" ({bound})" if bound else ""
    text = (
        f"One {run.model.detector} anomaly detector, from {records} {simulated}records{used} with "
        f"{len(run.model.features)} features, held by {len(run.parties)} parties: {join_names(run.parties)}. "
        f"It is set to alert on {describe_alerts(run.model)}."
    )
    return f"{text} {run.data_note}" if run.data_note else text


def _moved(run: RunFile) -> str:
    fewest = min((len(stage.survivors) for stage in run.stages), default=0)
    total = sum(stage.sent_bytes + stage.received_bytes for stage in run.stages)
    crossed = f"({describe_bytes(total)} crossed in all). {run.separation}"
    if is_unmasked(run):
        text = (
            "No record left its party, but masking was given up: the coordinator read each party's update of every "
            f"round by itself{_noise_added(run).replace(', added noise to them', ', with noise')} {crossed}"
        )
    else:
        text = (
            f"No record left its party. Each party computed sums over its own records{_noise_added(run)}, "
            f"{'encrypted' if _shared_key(run) else 'masked'} them, and sent the "
            f"{'encrypted' if _shared_key(run) else 'masked'} numbers; only their total over at least {fewest} parties "
            f"was opened {crossed}"
        )
    if run.blind is not None:
        text += (
            f" For scoring, {run.blind.records:,} records were encrypted by their owner and scored by a process that "
            "has the model but no key to read them."
        )
    return text


def is_unmasked(run: RunFile) -> bool:
    """Whether an update went to the coordinator in the clear; see ``federation``'s certificate."""
    return "masking was given up" in run.trust


def _shared_key(run: RunFile) -> bool:
    """Whether sums were encrypted under one key that all parties hold; see ``securesum.names_shared_key``."""
    return "the parties share one key" in run.trust


def _messages(run: RunFile) -> str:
    """What the coordinator passed on."""
    if is_unmasked(run):
        return "messages, updates among them"
    return "encrypted messages" if _shared_key(run) else "masked messages"


def _noise_added(run: RunFile) -> str:
    if run.privacy is None:
        return ""
    return ", added noise to them" + (" that is enough by itself" if run.privacy.trust == "local" else "")


def _quality(run: RunFile) -> str:
    parts = []
    comparison, evaluation = run.comparison, run.evaluation
    what = "simulated test records" if run.simulated else "test records"
    if comparison is not None:
        best = {
            kind: [c for c in comparison.curves if c.kind == kind] for kind in ("federated", "centralised", "local")
        }
        shown = [f"the {kind} model {curve.auroc:.3f}" for kind in ("federated", "centralised") for curve in best[kind]]
        if best["local"]:
            values = [curve.auroc for curve in best["local"]]
            span = f"{min(values):.3f} to {max(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"
            shown.append(f"the parties alone {span}")
        parts.append(
            f"Measured in the clear on {comparison.records:,} {what} ({comparison.anomalous:,} anomalies), the AUROC "
            f"(1 is perfect, .5 is chance) is: {', '.join(shown)}. {comparison.note}"
        )
        parts.append(_federation_gain(best))
    if evaluation is not None:
        where = " (the training records themselves, which flatters)" if evaluation.in_sample else ""
        share = describe_rate(evaluation.false_positive_rate, evaluation.false_positive_rate_stddev)
        alerts = f"{share} of normal records would alert"
        noisy = evaluation.auroc_stddev > 0
        sums = "private sums" if run.privacy is not None else "exact sums, under masks,"
        if not evaluation.both_classes:
            parts.append(_one_class(evaluation, sums, where, alerts))
        elif evaluation.measurable:
            parts.append(
                f"Measured from {sums} of labelled records{where}: AUROC {evaluation.auroc:.3f}"
                f"{_pm(evaluation.auroc_stddev, '', 3)}; at the threshold {alerts} and "
                f"{_found(evaluation)} of the "
                "anomalies are found" + (" (within two standard deviations of the noise)." if noisy else ".")
            )
        else:
            parts.append(
                f"Private sums of labelled records{where}, which are all that a real federation has, cannot judge the "
                "ranking here: the noise at this epsilon is larger than what so few labelled anomalies (about "
                f"{evaluation.anomalous:,.0f}, as released) can show. They do say that at the threshold {alerts} "
                "(within two standard deviations of the noise)."
            )
    return " ".join(part for part in parts if part) or not_measured(run)


def _one_class(evaluation: MeasuredEvaluation, sums: str, where: str, alerts: str) -> str:
    text = (
        f"Not measurable: {sums} of labelled records{where} hold about {evaluation.normal:,.0f} normal and "
        f"{evaluation.anomalous:,.0f} anomalous records, as released, and a ranking needs both kinds."
    )
    return text + (f" At the threshold {alerts}." if evaluation.false_positive_rate is not None else "")


def _found(evaluation: MeasuredEvaluation) -> str:
    missed = evaluation.false_negative_rate
    return describe_rate(None if missed is None else 1 - missed, evaluation.false_negative_rate_stddev)


def _pm(stddev: float, unit: str, digits: int) -> str:
    return f" ± {2 * stddev:.{digits}f}{unit}" if stddev > 0 else ""


def describe_rate(rate: float | None, stddev: float) -> str:
    """Return a share in per cent with two standard deviations of its noise, or the bound that is left of it."""
    if rate is None:
        return "an unknown share"
    low, high = rate - 2 * stddev, rate + 2 * stddev
    if stddev > 0 and low <= 0 and high < 1:
        return f"at most {100 * high:.1f}%"
    if stddev > 0 and high >= 1:
        return f"at least {100 * max(low, 0.0):.0f}%" if low > 0 else "an unknown share"
    return f"{100 * rate:.1f}%{_pm(100 * stddev, '%', 1)}"


def _federation_gain(best: dict[str, list[Curve]]) -> str:
    federated = max((curve.auroc for curve in best["federated"]), default=None)
    local = [curve.auroc for curve in best["local"]]
    if federated is None or not local:
        return ""
    if federated > max(local) + 0.005:
        return "The federated model ranks better than every party alone."
    if federated < min(local) - 0.005:
        return (
            "On these records every party alone ranks better than the federated model: noise costs more than it gains."
        )
    return "On these records federating makes little difference to the ranking: the parties alone do about as well."


def _cost(run: RunFile) -> str:
    if run.privacy is None:
        return (
            "There is no differential privacy in this run: every party's policy allowed exact sums. Single records "
            "can show in the totals: a count of one says that somebody is there."
        )
    p = run.privacy
    delta = describe_small(p.delta)
    text = f"Epsilon {shown_epsilon(p.epsilon_spent)} per {p.unit} at delta {delta}, for the model" + (
        ", its threshold and its evaluation together." if run.evaluation is not None else " and its threshold."
    )
    if p.unit == "party":
        text += " It hides all that one party adds, whatever its records are; that the party takes part is public."
    if p.trust == "local":
        text += " Every party's own noise is enough (local differential privacy between organisations)."
    # each account is one party's own; the tightest is the one that matters
    if run.budgets:
        which = "parties'" if {b.party for b in run.budgets} >= set(run.parties) else "known"
        tightest = max(run.budgets, key=lambda b: b.spent / b.limit if b.limit else 0.0)
        text += (
            f" Of the {which} budgets the fullest is {tightest.party}'s: {shown_epsilon(tightest.spent)} of "
            f"{tightest.limit:g} spent per {tightest.unit}."
        )
    return f"{text} {p.statement.replace(f'{p.delta:g}', delta)}"


def _gaps(run: RunFile) -> str:
    gaps = []
    if run.privacy is None:
        gaps.append("records against whoever sees the model")
    elif run.privacy.unit == "record":
        gaps.append("a person with several records (the guarantee counts single records)")
    elif run.privacy.unit == "party":
        gaps.append("that a party takes part, which is public")
    if _shared_key(run):
        gaps.append("single parties' sums against the coordinator and any one party together")
    else:
        gaps.append("a person known to several parties beyond one of them")
    gaps.append("what all records have in common, which is what a model is for")
    gaps.append("the model against somebody who collects enough of its scores")
    gaps.append("the result against a party that lies about its own records")
    if run.model.ranges == "learned":
        gaps.append("the column ranges, which were learned from records and travel in the clear")
    return (
        "Not protected: " + "; ".join(gaps) + ". The cryptographic code has not yet been audited. "
        "See 'Assumptions' and 'Not covered' below."
    )


def roles(run: RunFile) -> list[Role]:
    """Who held what and learned what in this run."""
    totals = "exact totals" if run.privacy is None else "noisy totals"
    total = sum(stage.sent_bytes + stage.received_bytes for stage in run.stages)
    bare = is_unmasked(run)
    unless = ", unless one party gives it the key that all of them share" if _shared_key(run) else ""
    table = [
        Role(
            name="Party (data owner)",
            held="its own records, keys, policy and ledger",
            learned="who takes part; the model, if it is given to it",
            not_learned="any other party's records, sums or labels",
        ),
        Role(
            name="Coordinator",
            held="the participant list and the messages it passes on",
            learned=f"{describe_bytes(total)} of {_messages(run)}; "
            f"{len(run.stages)} {totals}, hence the model; who dropped out",
            not_learned=("" if bare else f"any single party's sums{unless}; ")
            + "any record (under the assumptions below)",
        ),
    ]
    blind = run.blind
    if blind is None:
        holder = "nothing in this run: no record was scored blind"
        owner, held = "nothing in this run", "its records"
    else:
        holder = f"that {blind.records:,} records were scored, when, and their number of columns"
        held = "its records and its secret key"
        owner = (
            f"{blind.records:,} scores: at most {blind.bits_per_record:.3g} bits each, {blind.bits_released:,} bits in "
            f"all; the threshold; column names and public ranges. About {blind.rows_to_extract:,} well-chosen records "
            "would be enough to compute every score itself: the bit budget is what limits that"
        )
    return [
        *table,
        Role(
            name="Model holder (scorer)",
            held="the model; no secret key of a record's owner",
            learned=holder,
            not_learned="the records, their scores, or which of them alert",
        ),
        Role(
            name="Record owner",
            held=held,
            learned=owner,
            not_learned="the model's table as such" if blind is not None else "the model",
        ),
    ]


def assumptions(run: RunFile) -> list[str]:
    """What must hold for the claims above."""
    result = [f"Secret sums, as set up in this run: {run.trust}."]
    if run.privacy is not None and run.privacy.trust == "local":
        result.append(
            "Differential privacy: each party draws its own noise from the operating system's randomness, and that is "
            "enough. It trusts neither the other parties nor the masking with its privacy."
        )
    elif run.privacy is not None:
        result.append(
            "Differential privacy: the surviving parties draw their noise as agreed, from the operating system's "
            "randomness. The noise was chosen for the smallest number of survivors that could have been opened."
        )
    result.append(
        "Column names, ranges and categories are public: they were "
        + ("declared by the parties." if run.model.ranges == "declared" else "learned from records, which is a leak.")
    )
    if run.blind is not None:
        result.append(
            "Blind scoring: the encryption holds. It rests on a lattice problem, with parameters chosen for 128-bit "
            "security; they stand under 'Model and versions'."
        )
    result.append("Participants' public keys were exchanged truthfully when the participant lists were pinned.")
    return result


def _left_to_the_last(run: RunFile) -> str:
    if run.privacy is None:
        return "nothing: these sums were exact."
    if run.privacy.trust == "local":
        return "its own noise, which is all that the guarantee counts on."
    return "its own share of the noise."


def not_covered(run: RunFile) -> list[str]:
    """What no line above protects."""
    result = [
        "The cryptographic code (secure sums, blind scoring, sealing at rest) is not yet audited.",
        "A party can lie: nothing proves that it summed real records. Nobody else can check or bound its sums.",
        "The model's parameters are never sent to a record's owner, but they can be learned from enough scores.",
        "All other parties together can subtract their own sums from a total. What then protects the last one is "
        + _left_to_the_last(run),
        "Timing, memory and other side channels of the machines on which this ran.",
    ]
    if run.privacy is None:
        result.insert(0, "Exact sums are releases about persons. Anyone with the model can look for counts of one.")
    elif run.privacy.unit == "person":
        result.insert(0, "Somebody who is a customer of m parties counts m times: the epsilon for them is larger.")
    elif run.privacy.unit == "party":
        result.insert(0, "The guarantee is about one party's part. What several parties have in common is not hidden.")
    else:
        result.insert(0, "Somebody with k records is protected by a guarantee that is about k times weaker.")
    if run.comparison is not None:
        result.append(
            "The curves of local and centralised models: they were drawn in the clear by whoever owns all these "
            "records. In a real federation nobody could, and they are not covered by the epsilon above."
        )
    if run.simulated:
        result.append("Simulated records say nothing about how well this works on yours.")
    return result
