"""``blindsight coordinator``: run a federation whose parties dial in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._blocks import with_blocks
from ._coordinating import Meeting, Running, WaitOption, coordinating, terminated_as_interrupted, where
from ._exits import FINDING, command, safe_after
from ._options import ContaminationOption, JsonOption, PrivacyOptions, sealer_of, writable_target
from ._screen import Screen

if TYPE_CHECKING:
    from blindsight.detectors import Detector
    from blindsight.federation import CoordinatorSite, Federation
    from blindsight.report import RunFile

__all__ = ["coordinator_app"]

SEPARATION = (
    "Every party kept its own folder, {how} over mutual TLS and judged each request by its own policy; its ledger is "
    "kept there."
)

coordinator_app = typer.Typer(
    help="Run a federation whose parties dial in.", no_args_is_help=True, rich_markup_mode=None
)


@coordinator_app.command(
    "fit",
    short_help="Wait for the parties, fit one detector with them.",
    epilog="Example: blindsight coordinator fit kits/coordinator --detector ecod --epsilon 1 --output fraud.blindsight",
)
@command
@safe_after("No model was written. The same command goes on where this one was; nobody is charged twice.")
@with_blocks
def coordinator_fit(
    kit: Annotated[Path, typer.Argument(help="The coordinator's kit; journal, rounds.jsonl, run.json are put there.")],
    output: Annotated[Path, typer.Option(help="Model file to write; a new fit replaces none.")],
    detector: Annotated[str, typer.Option(help="Name; 'blindsight detectors' lists them.")] = "ecod",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the detector, e.g. bins=32 or training.rounds=20; repeatable."),
    ] = None,
    *,
    epsilon: Annotated[float | None, typer.Option(help="Privacy of fit, threshold and evaluation together.")] = None,
    asked: PrivacyOptions,
    contamination: ContaminationOption = 0.02,
    running: Running,
    meeting: Meeting,
    send_to: Annotated[
        str | None,
        typer.Option("--deliver", help="'all' or NAME,NAME,...: parties that get the model; each checks and keeps it."),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Federated anomaly detection",
    json_output: JsonOption = False,
) -> None:
    """Fit one detector with parties that dial in. Killed at any point, the same command goes on with the same run."""
    from blindsight.errors import ParameterError
    from blindsight.federation import check_suits
    from blindsight.privacy import shown_epsilon
    from blindsight.report import describe_alerts, write_run

    from ._choose import choose_detector, read_settings
    from ._fit import Fitting, collected_warnings, run_file
    from ._resume import fit_or_resume, is_unfinished

    screen = Screen(as_json=json_output)
    privacy = asked.privacy(epsilon)
    writable_target(output, "--output", sources=[meeting.key_file, *(kit.iterdir() if kit.is_dir() else ())])
    sealer = sealer_of(meeting.key_file)
    chosen = choose_detector(detector, read_settings(settings or ()), contamination=contamination)
    receivers: list[str] = []
    params = {f"detector.{name}": str(value) for name, value in chosen.get_params().items()}

    def before(federation: Federation) -> None:
        check_suits(chosen, federation.schema, privacy)
        if output.exists() and not is_unfinished(federation, chosen, privacy):
            raise ParameterError(
                "There is a file at --output already, and no unfinished run asks for this fit",
                got=str(output)[:200],
                rule="another fit is a new release, which is charged anew, and its model would replace this file",
                fix="give another --output, or move the file away",
            )
        receivers.extend(_receivers(send_to, federation))

    with (
        collected_warnings() as told,
        coordinating(
            kit, screen, privacy, running, meeting, before=before,
            about={"what": "fit", "detector": type(chosen).__name__, **params},
        ) as (site, federation, rounds),
    ):  # fmt: skip
        separation = SEPARATION.format(how=_reached(site))

        def facts(fitted: Detector, notes: list[str]) -> RunFile:
            fitting = Fitting(
                model=fitted,
                evaluation=None,
                in_sample=False,
                history=federation.history,
                privacy=privacy,
                warnings=notes,
            )
            return run_file(
                fitting, title=title, home=None, key_file=meeting.key_file, separation=separation, coordinated=True
            )

        def deliver(fitted: Detector) -> None:
            fitted.save(output, sealer=sealer)
            write_run(facts(fitted, []), kit)

        model = fit_or_resume(
            federation, chosen, privacy, evaluates=False, on_step=rounds.done, deliver=deliver, send_to=receivers
        )
        sent = federation.history[-1].sent
        rounds.ends("done", model=str(output), **({"delivered": sent} if sent else {}))
    run = facts(model, told)
    path = write_run(run, kit)
    screen.say(f"Wrote {output}, from about {run.model.records:,} records of {', '.join(run.parties)}.")
    if run.privacy is None:
        screen.say("Exact sums: there is no differential privacy in this model.")
    else:
        screen.say(
            f"Spent epsilon {shown_epsilon(run.privacy.epsilon_spent)} of {epsilon:g} "
            f"per {asked.unit} at delta {asked.delta:g}."
        )
        screen.say(f"The model is set to alert on {describe_alerts(run.model)}.")
    _tell_sent(screen, sent)
    screen.say(f"Next: blindsight report {path} --output report.html")
    screen.result(
        {
            "model": str(output),
            "run": str(path),
            "records": run.model.records,
            "threshold": run.model.threshold,
            "alert_interval": run.model.alert_interval,
            "parties": list(run.parties),
            "survivors": [list(stage.survivors) for stage in run.stages],
            "certificate": {k: v for k, v in (model.certificate_ or {}).items() if k != "events"},
            "epsilon_spent": None if run.privacy is None else run.privacy.epsilon_spent,
            "delivered": sent,
        }
    )


@coordinator_app.command(
    "flower-app",
    short_help="Write the app that carries messages inside Flower.",
    epilog="Example: blindsight coordinator flower-app flower-app; then flwr run flower-app ...: docs/flower.md",
)
@command
def coordinator_flower_app(
    output: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    json_output: JsonOption = False,
) -> None:
    """Write the Flower app of a federation whose address is flower://...; the same for every federation."""
    from blindsight.channels import write_flower_app

    folder = write_flower_app(output)
    screen = Screen(as_json=json_output)
    screen.say(f"Wrote {folder}. It reads nothing that it carries.")
    screen.say(f"Next: flwr run {folder} LINK --run-config 'socket=\"/path/to/the/kit/flower.sock\"'")
    screen.result({"app": str(folder)})


@coordinator_app.command(
    "evaluate",
    short_help="Measure a model on the parties' labelled records.",
    epilog="Example: blindsight coordinator evaluate kits/coordinator --model fraud.blindsight --epsilon 1",
)
@command
@safe_after("The same command goes on where this one was; nobody is charged twice.")
@with_blocks
def coordinator_evaluate(
    kit: Annotated[Path, typer.Argument(help="The coordinator's kit; evaluation.json is put there.")],
    model: Annotated[Path, typer.Option(help="Model file to measure.")],
    *,
    epsilon: Annotated[
        float | None, typer.Option(help="That of the fit: its share for the evaluation is spent here.")
    ] = None,
    asked: PrivacyOptions,
    running: Running,
    meeting: Meeting,
    json_output: JsonOption = False,
) -> None:
    """Measure a model from private sums of labelled records: each party's evaluation file, or its training records.

    Each party keeps exact figures of its own, which nobody else gets: blindsight ledger figures.
    """
    import json
    import math
    from datetime import UTC, datetime

    from blindsight import modelfile
    from blindsight.keys import write_atomic

    from ._resume import evaluate_or_resume

    screen = Screen(as_json=json_output)
    privacy = asked.privacy(epsilon)
    measured = modelfile.load(model, sealer=sealer_of(meeting.key_file))
    about = {"what": "evaluate", "model": str(model)}
    with coordinating(kit, screen, privacy, running, meeting, about=about) as (_, federation, rounds):
        found = evaluate_or_resume(federation, measured, privacy)
        for step in federation.history[-1].steps:
            rounds.done(step)
        rounds.ends("done", model=str(model))
    measures = ("auroc", "average_precision", "false_positive_rate", "false_negative_rate")
    result = {
        "run": federation.history[-1].run,
        "model_run": (measured.provenance_ or {}).get("run"),
        "measured_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "measurable": found.measurable,
        "normal": found.normal,
        "anomalous": found.anomalous,
        **{
            name: {"value": value, "interval": list(found.intervals.get(name, ())) or None}
            for name in measures
            if math.isfinite(value := float(getattr(found, name)))
        },
        "survivors": federation.history[-1].steps[0].survivors,
        "certificate": {k: v for k, v in (found.certificate or {}).items() if k != "events"},
    }
    write_atomic(kit / "evaluation.json", json.dumps(result, indent=1).encode() + b"\n")
    screen.say(f"About {found.normal:,.0f} normal and {found.anomalous:,.0f} anomalous records, as released.")
    if not found.measurable:
        screen.say("Under this much noise, or without both classes, the ranking cannot be judged.")
    for name in measures if found.measurable else measures[2:]:
        value = float(getattr(found, name))
        low, high = found.intervals.get(name, (math.nan, math.nan))
        known = f", 95% interval {low:.3f} to {high:.3f}" if math.isfinite(low) else ""
        screen.say(f"{name.replace('_', ' ')}: {value:.3f}{known}")
    screen.say("Each party's own exact figures stay there: blindsight ledger figures --home FOLDER")
    screen.result(result)


@coordinator_app.command(
    "describe",
    short_help="Private statistics of every feature.",
    epilog="Example: blindsight coordinator describe kits/coordinator --epsilon 0.5",
)
@command
@safe_after("What was released so far is charged; the same command goes on where this one was.")
@with_blocks
def coordinator_describe(
    kit: Annotated[Path, typer.Argument(help="The coordinator's kit; description.json is put there.")],
    *,
    epsilon: Annotated[float | None, typer.Option(help="All of it is spent on this.")] = None,
    asked: PrivacyOptions,
    running: Running,
    meeting: Meeting,
    json_output: JsonOption = False,
) -> None:
    """Count, mean, deviation and quartiles of every feature over everybody's records, from two private sums."""
    import json

    from blindsight.keys import write_atomic

    from ._resume import describe_or_resume

    screen = Screen(as_json=json_output)
    privacy = asked.privacy(epsilon)
    with coordinating(kit, screen, privacy, running, meeting, about={"what": "describe"}) as (_, federation, rounds):
        columns = describe_or_resume(federation, privacy)
        for step in federation.history[-1].steps:
            rounds.done(step)
        rounds.ends("done")
    result = {
        "run": federation.history[-1].run,
        "columns": [
            {
                "name": column.name,
                "count": column.count,
                "mean": column.mean,
                "variance": column.variance,
                "quantiles": {f"{share:g}": value for share, value in column.quantiles.items()},
                "edges": column.edges.tolist(),
                "histogram": column.histogram.tolist(),
                "labels": list(column.labels),
            }
            for column in columns
        ],
    }
    write_atomic(kit / "description.json", json.dumps(result, indent=1, allow_nan=False).encode() + b"\n")
    screen.table(
        f"Of everybody's records, as released: {kit / 'description.json'}",
        [("Feature", "left"), ("Count", "right"), ("Mean", "right"), ("Deviation", "right"), ("Quantiles", "left")],
        [
            (
                column.name,
                f"{column.count:,.0f}",
                "" if column.mean is None else f"{column.mean:,.4g}",
                "" if column.variance is None else f"{max(column.variance, 0.0) ** 0.5:,.4g}",
                ", ".join(f"{share:g}: {value:,.4g}" for share, value in column.quantiles.items()),
            )
            for column in columns
        ],
    )
    screen.result(result)


@coordinator_app.command(
    "deliver",
    short_help="Deliver a fitted model to parties.",
    epilog="Example: blindsight coordinator deliver kits/coordinator --model fraud.blindsight --to bank-c",
)
@command
@safe_after("Who has kept the model has it; the same command again changes nothing there.")
@with_blocks
def coordinator_deliver(
    kit: Annotated[Path, typer.Argument(help="The coordinator's kit.")],
    model: Annotated[Path, typer.Option(help="Model file that 'coordinator fit' wrote.")],
    *,
    to: Annotated[str, typer.Option(help="'all' or NAME,NAME,...")] = "all",
    wait_s: WaitOption = 600.0,
    meeting: Meeting,
    json_output: JsonOption = False,
) -> None:
    """Send a model to parties of its run; each checks it against what it knows of the run before it keeps it."""
    from blindsight import modelfile
    from blindsight.federation import Federation

    screen = Screen(as_json=json_output)
    fitted = modelfile.load(model, sealer=sealer_of(meeting.key_file))
    with (
        terminated_as_interrupted(),
        meeting.open(kit) as site,
    ):
        federation = Federation(
            site.channel,
            participants=site.listing.participants,
            schema=site.schema,
            name=site.listing.federation,
            timeout_s=wait_s,
        )
        receivers = _receivers(to, federation)
        screen.say(f"{where(site)} for {len(receivers)} parties.")
        sent = federation.send_model(fitted, receivers)
    _tell_sent(screen, sent)
    screen.result({"model": str(model), "delivered": sent})
    if not all(word.startswith("kept") for word in sent.values()):
        raise typer.Exit(FINDING)


def _reached(site: CoordinatorSite) -> str:
    """How parties came to the coordinator."""
    ways = {"mqtts": "met the coordinator at a broker", "flower": "answered through Flower"}
    return ways.get(site.channel.url.partition(":")[0], "dialled the coordinator")


def _receivers(text: str | None, federation: Federation) -> list[str]:
    """Whom ``--deliver`` or ``--to`` names; before anything is asked of anybody."""
    if text is None:
        return []
    return federation.receivers("all" if text == "all" else text.split(","))


def _tell_sent(screen: Screen, sent: dict[str, str]) -> None:
    for name, word in sent.items():
        screen.say(f"{name}: {word}")
