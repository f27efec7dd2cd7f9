"""``blindsight coordinator``: run a federation whose parties dial in."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._exits import command, safe_after
from ._options import (
    ContaminationOption,
    DeltaOption,
    ExactOption,
    JsonOption,
    PartyRecordsOption,
    PersonRecordsOption,
    TrustOption,
    UnitOption,
    sealer_of,
    writable_target,
)
from ._screen import Screen

if TYPE_CHECKING:
    from blindsight.detectors import Detector
    from blindsight.report import RunFile

__all__ = ["coordinator_app"]

SEPARATION = (
    "Every party kept its own folder, {how} over mutual TLS and judged each request by its own policy; its ledger is "
    "there and not in this report."
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
def coordinator_fit(
    kit: Annotated[Path, typer.Argument(help="The coordinator's kit; journal, rounds.jsonl, run.json are put there.")],
    output: Annotated[Path, typer.Option(help="Model file to write.")],
    detector: Annotated[str, typer.Option(help="Name; 'blindsight detectors' lists them.")] = "ecod",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the detector, e.g. bins=32 or training.rounds=20; repeatable."),
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy of fit, threshold and evaluation together.")] = None,
    delta: DeltaOption = 1e-6,
    unit: UnitOption = "record",
    max_records_per_person: PersonRecordsOption = None,
    max_records_per_party: PartyRecordsOption = None,
    trust: TrustOption = "federation",
    exact: ExactOption = False,
    contamination: ContaminationOption = 0.02,
    quorum: Annotated[
        int | None, typer.Option(help="Begin once so many parties are connected.  [default: all of the list]", min=3)
    ] = None,
    wait_s: Annotated[float, typer.Option("--wait-s", help="How long to wait for them.", min=0.1)] = 600.0,
    deadline_s: Annotated[
        float,
        typer.Option("--deadline-s", help="For each exchange of a sum; who takes longer is left out of it.", min=0.1),
    ] = 600.0,
    approval_s: Annotated[
        float, typer.Option("--approval-s", help="How long to wait where a person has to approve.", min=0.0)
    ] = 3600.0,
    url: Annotated[
        str | None, typer.Option("--url", help="Which of the list's addresses to serve.  [default: the first]")
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(help="HOST:PORT to listen on, where that is not the address itself."),
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(help="Over Flower: the socket for its app, of mode 0660.  [default: flower.sock in the kit]"),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Federated anomaly detection",
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="Key file that seals model and journal at rest.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Fit one detector with parties that dial in. Killed at any point, the same command goes on with the same run."""
    from blindsight.channels import FlowerChannel
    from blindsight.federation import Federation, check_suits, open_coordinator, wait_for_parties
    from blindsight.privacy import shown_epsilon
    from blindsight.report import write_run

    from ._choose import choose_detector, choose_privacy, read_settings
    from ._fit import Fitting, collected_warnings, run_file
    from ._resume import fit_or_resume
    from ._rounds import ROUNDS_FILE, Rounds

    screen = Screen(as_json=json_output)
    privacy = choose_privacy(
        epsilon, delta, unit, max_records_per_person,
        exact=exact, max_records_per_party=max_records_per_party, trust=trust,
    )  # fmt: skip
    writable_target(output, "--output", sources=[key_file, *(kit.iterdir() if kit.is_dir() else ())])
    sealer = sealer_of(key_file)
    chosen = choose_detector(detector, read_settings(settings or ()), contamination=contamination)
    with (
        _terminated_as_interrupted(),
        collected_warnings() as told,
        open_coordinator(kit, url=url, listen=_host_and_port(listen), socket=socket, key_file=key_file) as site,
    ):
        check_suits(chosen, site.schema, privacy)
        federation = Federation(
            site.channel,
            participants=site.listing.participants,
            schema=site.schema,
            name=site.listing.federation,
            timeout_s=deadline_s,
            journal=site.journal,
            approval_timeout_s=approval_s,
        )
        rounds = Rounds(
            kit / ROUNDS_FILE,
            run=lambda: federation.history[-1],
            delta=None if privacy is None else privacy.delta,
            quiet=json_output,
        )
        federation.progress = rounds.phase
        place, how = site.channel.url, "dialled the coordinator"
        if isinstance(site.channel, FlowerChannel):
            place, how = str(site.channel.socket), "answered through Flower"
        separation = SEPARATION.format(how=how)
        screen.say(f"Listening on {place} for the {len(site.listing.parties)} parties of '{federation.name}', "
                   f"list {site.listing.serial}.")  # fmt: skip

        def facts(fitted: Detector, notes: list[str]) -> RunFile:
            fitting = Fitting(
                model=fitted,
                evaluation=None,
                in_sample=False,
                history=federation.history,
                privacy=privacy,
                warnings=notes,
            )
            return run_file(fitting, title=title, home=None, key_file=key_file, separation=separation)

        def deliver(fitted: Detector) -> None:
            fitted.save(output, sealer=sealer)
            write_run(facts(fitted, []), kit)

        with rounds:
            wait_for_parties(federation, quorum=quorum or len(site.listing.parties), wait_s=wait_s, tell=rounds.waits)
            model = fit_or_resume(federation, chosen, privacy, evaluates=False, on_step=rounds.done, deliver=deliver)
            rounds.ends("done", model=str(output))
    run = facts(model, told)
    path = write_run(run, kit)
    screen.say(f"Wrote {output}, from about {run.model.records:,} records of {', '.join(run.parties)}.")
    if run.privacy is None:
        screen.say("Exact sums: there is no differential privacy in this model.")
    else:
        screen.say(
            f"Spent epsilon {shown_epsilon(run.privacy.epsilon_spent)} of {epsilon:g} per {unit} at delta {delta:g}."
        )
    screen.say(f"Next: blindsight report {path} --output report.html")
    screen.result(
        {
            "model": str(output),
            "run": str(path),
            "records": run.model.records,
            "threshold": run.model.threshold,
            "parties": list(run.parties),
            "survivors": [list(stage.survivors) for stage in run.stages],
            "certificate": {k: v for k, v in (model.certificate_ or {}).items() if k != "events"},
            "epsilon_spent": None if run.privacy is None else run.privacy.epsilon_spent,
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


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Have SIGTERM do what Ctrl-C does: the journal is written at every step, and the screen is put in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _host_and_port(text: str | None) -> tuple[str, int] | None:
    from blindsight.errors import ParameterError

    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise ParameterError("--listen cannot be read", got=repr(text)[:80], rule="HOST:PORT", fix="0.0.0.0:8443")
    return host.strip("[]"), int(port)
