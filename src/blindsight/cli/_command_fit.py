"""``blindsight fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._exits import command, safe_after
from ._options import (
    AllowOption,
    ContaminationOption,
    DeltaOption,
    EvaluateOption,
    ExactOption,
    HomeOption,
    JsonOption,
    KeyFileOption,
    PartyRecordsOption,
    PersonRecordsOption,
    PolicyOption,
    TrustOption,
    UnitOption,
    named_paths,
    sealer_of,
    writable_target,
)
from ._screen import Screen

__all__ = ["fit"]


@command
@safe_after("No model was written. The same command, with the same --home, goes on where this one was.")
def fit(
    schema: Annotated[Path, typer.Option(help="Schema that all parties share.")],
    party: Annotated[list[str], typer.Option(help="NAME=PATH of one party's records; at least three times.")],
    output: Annotated[Path, typer.Option(help="Model file to write.")],
    home: HomeOption,
    detector: Annotated[str, typer.Option(help="Name; 'blindsight detectors' lists them.")] = "ecod",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the detector, e.g. bins=32 or training.rounds=20; repeatable."),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Model file that a TableStudent imitates; every party sees it.")
    ] = None,
    evaluate: EvaluateOption = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy of fit, threshold and evaluation together.")] = None,
    delta: DeltaOption = 1e-6,
    unit: UnitOption = "record",
    max_records_per_person: PersonRecordsOption = None,
    max_records_per_party: PartyRecordsOption = None,
    trust: TrustOption = "federation",
    sums: Annotated[
        str,
        typer.Option(
            help="What hides the parties' vectors: masked, he, paillier or auto. All but masks share one key among the "
            "parties, which every policy must allow (allow_shared_key_sums)."
        ),
    ] = "masked",
    exact: ExactOption = False,
    contamination: ContaminationOption = 0.02,
    policy: PolicyOption = None,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Federated anomaly detection",
    allow: AllowOption = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Fit one detector on the records of several parties, each in a process of its own that sees only its own file."""
    from blindsight.data import Schema
    from blindsight.federation import Policy, check_parties, check_suits
    from blindsight.privacy import MIN_LOCAL_VARIANCE, shown_epsilon
    from blindsight.report import describe_alerts, write_run
    from blindsight.securesum import names_shared_key

    from ._choose import choose_detector, choose_privacy, give_teacher, read_settings
    from ._fit import check_files, fit_parties, run_file

    screen = Screen(as_json=json_output)
    privacy = choose_privacy(
        epsilon, delta, unit, max_records_per_person,
        exact=exact, max_records_per_party=max_records_per_party, trust=trust,
    )  # fmt: skip
    data, tests = named_paths(party, "--party"), named_paths(evaluate or (), "--evaluate")
    writable_target(output, "--output", sources=[schema, policy, key_file, teacher, *data.values(), *tests.values()])
    chosen = choose_detector(detector, read_settings(settings or ()), contamination=contamination)
    give_teacher(chosen, teacher, sealer=sealer_of(key_file), allowed=frozenset(allow or ()))
    shared = Schema.read(schema)
    rules = None if policy is None else Policy.read(policy)
    check_parties(data)
    check_files(data, tests)
    check_suits(chosen, shared, privacy)
    with screen.working(f"Fitting {chosen.name} at {len(data)} parties") as progress:
        fitting = fit_parties(
            chosen,
            schema=shared,
            data=data,
            evaluation=tests,
            evaluate=bool(tests),
            privacy=privacy,
            policy=rules,
            home=home,
            key_file=key_file,
            progress=progress,
            sums=sums,
        )
    fitting.model.save(output, sealer=sealer_of(key_file))
    run = run_file(fitting, title=title, home=home, key_file=key_file)
    path = write_run(run, home)
    certificate = fitting.model.certificate_ or {}
    screen.say(f"Wrote {output}, from about {run.model.records:,} records of {', '.join(run.parties)}.")
    for name, log in fitting.remarked.items():
        screen.say(f"{name} has remarks on its records: see {log}.")
    if names_shared_key(run.trust):
        screen.say("The parties shared one key: the coordinator and any one of them together open every party's sums.")
    if run.privacy is None:
        screen.say("Exact sums: there is no differential privacy in this model.")
    else:
        screen.say(
            f"Spent epsilon {shown_epsilon(run.privacy.epsilon_spent)} of {epsilon:g} per {unit} at delta {delta:g}."
        )
        screen.say(f"The model is set to alert on {describe_alerts(run.model)}.")
        assert privacy is not None  # whoever spent had asked
        if any(epsilon > budget.limit for budget in run.budgets if budget.unit == unit):  # type: ignore[operator]
            screen.say(
                "A policy's maximum bounds what is spent, so that more may be asked for than it allows to spend."
            )
        kept = 0.0 if tests else privacy.shares.get("evaluation", 0.0)
        if kept:
            screen.say(f"A share of {kept:.0%} of the budget is kept for an evaluation.")
        events = [step.event for record in fitting.history for step in record.steps]
        if any(0 < event["local_variance"] <= MIN_LOCAL_VARIANCE for event in events):
            screen.say(
                "It could not spend more: no party draws noise of a variance below "
                f"{MIN_LOCAL_VARIANCE:g}, and that least noise caps what a sum spends."
            )
        if unit == "person":
            most = max_records_per_person or 1
            screen.say(f"At most {most} record{'s' * (most > 1)} of each person were used at each party.")
        if unit == "party":
            screen.say(f"At most {run.privacy.max_records_per_party:,} records of each party were used in a sum.")
        if trust == "local":
            screen.say("Each party's own noise is enough: the other parties and the masking need not be trusted.")
    if run.evaluation is not None:
        e = run.evaluation
        spread = f" ± {2 * e.auroc_stddev:.3f} from noise" if e.auroc_stddev else ""
        measured = f"AUROC {e.auroc:.3f}{spread}" if e.measurable else "AUROC not measurable under this much noise"
        if not e.both_classes:
            measured = f"AUROC not measurable: about {e.normal:,.0f} normal and {e.anomalous:,.0f} anomalous records"
        screen.say(
            f"{measured}; from {'exact' if exact else 'private'} sums{' of training records' if e.in_sample else ''}."
        )
    screen.say(f"Next: blindsight report {path} --output report.html")
    screen.result(
        {
            "model": str(output),
            "run": str(path),
            "records": run.model.records,
            "threshold": run.model.threshold,
            "alert_interval": run.model.alert_interval,
            "certificate": {k: v for k, v in certificate.items() if k != "events"},
            "epsilon_spent": None if run.privacy is None else run.privacy.epsilon_spent,
            "auroc": None if run.evaluation is None else run.evaluation.auroc,
            "auroc_stddev": None if run.evaluation is None else run.evaluation.auroc_stddev,
        }
    )
