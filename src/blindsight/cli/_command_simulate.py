"""``blindsight simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._exits import command
from ._options import (
    ContaminationOption,
    DeltaOption,
    JsonOption,
    PartyRecordsOption,
    PersonRecordsOption,
    TrustOption,
    UnitOption,
    writable_target,
)
from ._screen import Screen

__all__ = ["simulate"]


@command
def simulate(
    data: Annotated[Path, typer.Argument(help="Records, .csv or .parquet; cut into the virtual parties' tables.")],
    schema: Annotated[Path, typer.Option(help="Schema of the records.")],
    seed: Annotated[int, typer.Option(help="Decides split, network and dropouts; keys and noise are fresh.")],
    parties: Annotated[int, typer.Option(help="How many virtual parties.", min=3, max=1024)] = 100,
    split: Annotated[
        str, typer.Option(help="How unlike they are: iid, dirichlet:ALPHA[:COLUMN] or quantile[:COLUMN].")
    ] = "dirichlet:0.5",
    detector: Annotated[str, typer.Option(help="Name; 'blindsight detectors' lists them.")] = "ecod",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the detector, e.g. bins=32; repeatable.")
    ] = None,
    dropout: Annotated[float, typer.Option(help="Fraction of the parties that drops out of a sum.")] = 0.0,
    latency_ms: Annotated[float, typer.Option(help="Median latency of a message, one way.")] = 50.0,
    bandwidth_mbit: Annotated[float, typer.Option(help="Median megabits a second of a party's line.")] = 20.0,
    coordinator_mbit: Annotated[float, typer.Option(help="Megabits a second of the coordinator's line.")] = 1000.0,
    spread: Annotated[
        float, typer.Option(help="How much lines and machines differ: deviation of the logarithm.")
    ] = 0.5,
    timeout: Annotated[float, typer.Option(help="Simulated seconds of each exchange; later is a dropout.")] = 60.0,
    epsilon: Annotated[
        float | None, typer.Option(help="Privacy of fit and threshold together; exact sums without it.")
    ] = None,
    delta: DeltaOption = 1e-6,
    unit: UnitOption = "record",
    max_records_per_person: PersonRecordsOption = None,
    max_records_per_party: PartyRecordsOption = None,
    trust: TrustOption = "federation",
    contamination: ContaminationOption = 0.02,
    plot: Annotated[Path | None, typer.Option(help="Picture (.png or .svg): parties and bytes by phase.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Fit one detector at hundreds of virtual parties: real messages and masks in one process, a simulated network."""
    from blindsight.data import Schema
    from blindsight.errors import ParameterError
    from blindsight.report import PICTURES, write_fleet_figure

    from ._choose import choose_detector, choose_privacy, read_settings
    from ._simulate import simulated_fit

    screen = Screen(as_json=json_output)
    privacy = choose_privacy(
        epsilon, delta, unit, max_records_per_person,
        exact=epsilon is None, max_records_per_party=max_records_per_party, trust=trust,
    )  # fmt: skip
    if plot is not None:
        if plot.suffix.lower() not in PICTURES:
            raise ParameterError(
                "--plot is of an unknown kind", got=plot.name[:120], rule=", ".join(PICTURES), fix="--plot fleet.png"
            )
        writable_target(plot, "--plot", sources=[data, schema])
    chosen = choose_detector(detector, read_settings(settings or ()), contamination=contamination)
    with screen.working(f"Fitting {chosen.name} at {parties:,} virtual parties") as progress:
        done = simulated_fit(
            chosen,
            data,
            schema=Schema.read(schema),
            parties=parties,
            split=split,
            network={
                "latency_ms": latency_ms,
                "bandwidth_mbit": bandwidth_mbit,
                "coordinator_mbit": coordinator_mbit,
                "spread": spread,
                "dropout": dropout,
            },
            timeout_s=timeout,
            privacy=privacy,
            seed=seed,
            progress=progress,
        )
    fleet = done.fleet
    screen.table(
        f"{chosen.name} at {parties:,} virtual parties, {done.rows:,} records",
        [("Sum", "left"), ("Phase", "left"), ("Asked", "right"), ("Answered", "right"), ("Absent", "right"),
         ("Lost", "right"), ("Late", "right"), ("MB down", "right"), ("MB up", "right"), ("Virtual s", "right"),
         ("CPU s", "right")],
        [
            (
                e.conversation, e.part, e.asked, e.answered, e.absent, e.lost, e.late, f"{e.sent_bytes / 1e6:,.2f}",
                f"{e.received_bytes / 1e6:,.2f}", f"{e.ended_s - e.began_s:,.1f}", f"{e.cpu_s:,.1f}",
            )
            for e in fleet.exchanges
        ],
    )  # fmt: skip
    down, up = fleet.party_received_bytes[1] / 1e3, fleet.party_sent_bytes[1] / 1e3
    screen.say(
        f"Simulated: {fleet.virtual_s:,.1f} s on the coordinator's clock; who is absent, lost or late; all from "
        f"--seed {seed}."
    )
    screen.say(
        f"Measured: {done.cpu_s:,.1f} s of processor time and {fleet.peak_bytes / 1e9:.2f} GB for all parties and the "
        f"coordinator in this one process; at most {down:,.0f} kB down and {up:,.0f} kB up for one party."
    )
    screen.say(done.comparison)
    if plot is not None:
        write_fleet_figure(fleet, plot)
        screen.say(f"Wrote {plot}.")
    screen.result(
        {
            "detector": chosen.name,
            "rows": done.rows,
            "survivors": done.survivors,
            "equals_fit_on_survivors": done.same,
            "comparison": done.comparison,
            "cpu_s": done.cpu_s,
            "seed": seed,
            "plot": None if plot is None else str(plot),
            **fleet.to_json(),
        }
    )
