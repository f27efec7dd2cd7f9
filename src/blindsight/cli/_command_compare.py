"""``blindsight compare``: several detectors, one table, one plot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ._exits import command, safe_after
from ._options import (
    ContaminationOption,
    DeltaOption,
    EvaluateOption,
    ExactOption,
    JsonOption,
    KeyFileOption,
    PartyRecordsOption,
    PersonRecordsOption,
    PolicyOption,
    TrustOption,
    UnitOption,
    named_paths,
    writable_target,
)
from ._screen import Screen

__all__ = ["compare"]

SUFFIXES = (".html", ".png", ".svg")


@command
@safe_after("What a party had charged to its ledger stays charged; another comparison is charged again.")
def compare(
    schema: Annotated[Path, typer.Option(help="Schema that all records share.")],
    detectors: Annotated[str, typer.Option(help="Names, joined by commas: ecod,hbos,iforest.")],
    party: Annotated[list[str] | None, typer.Option(help="NAME=PATH of one party's records; three or more.")] = None,
    evaluate: EvaluateOption = None,
    input_file: Annotated[Path | None, typer.Option("--input", help="One labelled file, instead of parties.")] = None,
    test: Annotated[Path | None, typer.Option(help="Labelled test records, with --input.")] = None,
    output: Annotated[Path | None, typer.Option(help="HTML, PNG or SVG file to write.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder with one sub-folder a party, with --party.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="DETECTOR.KEY=VALUE, e.g. hbos.bins=16; repeat it for more.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy of EACH detector: fit, threshold, evaluation.")] = None,
    delta: DeltaOption = 1e-6,
    unit: UnitOption = "record",
    max_records_per_person: PersonRecordsOption = None,
    max_records_per_party: PartyRecordsOption = None,
    trust: TrustOption = "federation",
    exact: ExactOption = False,
    contamination: ContaminationOption = 0.02,
    policy: PolicyOption = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Fit several detectors on the same records and set them side by side. Every one of them is charged.

    A detector that a party's policy or budget refuses becomes a row that says so, and the others go on; exit code 3 is
    for a comparison of which every detector was refused.
    """
    from blindsight.data import Schema
    from blindsight.errors import ParameterError
    from blindsight.federation import Policy, check_parties
    from blindsight.privacy import shown_epsilon
    from blindsight.report import OVERLAP, compared_table, overlap, write_compared

    from ._choose import choose_detector, choose_privacy, plain_name
    from ._compare import compare_file, compare_parties
    from ._fit import check_files

    screen = Screen(as_json=json_output)
    if (input_file is None) == (not party):
        raise ParameterError(
            "Say whose records", rule="--party NAME=PATH at least three times, or --input FILE", fix="one of the two"
        )
    if input_file is not None and (epsilon is not None or evaluate):
        raise ParameterError(
            "A single file is read exactly and by its owner alone",
            got="--input with " + ("--epsilon" if epsilon is not None else "--evaluate"),
            rule="--epsilon and --evaluate are for the sums over several parties",
            fix="give --party NAME=PATH at least three times instead of --input, or leave "
            + ("--epsilon out" if epsilon is not None else "--evaluate out and give --test"),
        )
    data, tests = named_paths(party or (), "--party"), named_paths(evaluate or (), "--evaluate")
    if output is not None:
        sources = [schema, policy, key_file, input_file, test, *data.values(), *tests.values()]
        writable_target(output, "--output", sources=sources)
        if output.suffix.lower() not in SUFFIXES:
            raise ParameterError("--output is of an unknown kind", got=output.suffix[:20], rule=", ".join(SUFFIXES))
    names = [name.strip() for name in detectors.split(",") if name.strip()]
    if not names or len({plain_name(name) for name in names}) != len(names) or len(names) > 20:
        raise ParameterError(
            "--detectors cannot be read",
            got=repr(detectors)[:80],
            rule="1 to 20 different names",
            fix="--detectors ecod,hbos,iforest",
        )
    own = _settings(settings or (), names)
    chosen = [
        choose_detector(
            name, own[plain_name(name)], contamination=contamination, option="--detectors", of=f"{plain_name(name)}."
        )
        for name in names
    ]
    with screen.working(f"{'Comparing' if len(chosen) > 1 else 'Measuring'} {_detectors(len(chosen))}") as progress:
        if input_file is not None:
            done = compare_file(chosen, schema=Schema.read(schema), records=input_file, test=test, progress=progress)
        else:
            if home is None:
                raise ParameterError(
                    "--home is needed with --party", rule="ledgers and keys are kept there", fix="--home run"
                )
            privacy = choose_privacy(
                epsilon, delta, unit, max_records_per_person,
                exact=exact, max_records_per_party=max_records_per_party, trust=trust,
            )  # fmt: skip
            check_parties(data)
            check_files(data, tests)
            done = compare_parties(
                chosen, schema=Schema.read(schema), data=data, evaluation=tests, privacy=privacy,
                policy=None if policy is None else Policy.read(policy), home=home, key_file=key_file,
                progress=progress,
            )  # fmt: skip
    about = done.about
    names_shown, rows = compared_table(done.compared)
    headings = [(name.removesuffix(" interval"), "left" if name == "Detector" else "right") for name in names_shown]
    if done.absent:
        headings.append(("Remark", "left"))
        rows = [[*row, ""] for row in rows]
        rows += [[absent.name, *[""] * (len(names_shown) - 1), absent.remark] for absent in done.absent]
    screen.table(f"{_detectors(len(done.compared))}: {about.note}", headings, rows)
    if overlap(done.compared):
        screen.say(OVERLAP)
    if about.epsilon is not None:
        screen.say(
            f"Charged for all of it together: epsilon {shown_epsilon(about.epsilon)} per {unit} at delta {delta:g}, "
            f"{epsilon:g} asked for each of {len(chosen) - sum(a.kind == 'left out' for a in done.absent)}."
        )
    if output is not None:
        write_compared(done.compared, output, about=about, absent=done.absent)
        screen.say(f"Wrote {output}.")
    screen.result(
        {
            "note": about.note,
            "warnings": list(about.warnings),
            "epsilon_total": about.epsilon,
            "detectors": [{k: v for k, v in asdict(c).items() if k != "roc"} for c in done.compared],
            "left_out": [{"name": a.name, "reason": a.reason} for a in done.absent if a.kind == "left out"],
            "refused": [
                {"name": a.name, "reason": a.reason, "sums": a.sums, "epsilon": a.epsilon}
                for a in done.absent
                if a.kind == "refused"
            ],
            "output": None if output is None else str(output),
        }
    )


def _detectors(count: int) -> str:
    return f"{count} detector{'' if count == 1 else 's'}"


def _settings(values: list[str] | tuple[()], names: list[str]) -> dict[str, dict[str, object]]:
    from blindsight.errors import ParameterError

    from ._choose import plain_name, read_settings

    own: dict[str, dict[str, object]] = {plain_name(name): {} for name in names}
    for key, value in read_settings(values).items():
        name, dot, parameter = key.partition(".")
        if not dot or plain_name(name) not in own:
            raise ParameterError(
                "--set names no detector of this comparison",
                got=repr(key)[:80],
                rule="--set DETECTOR.KEY=VALUE",
                fix=f"--set {names[0]}.{key}=...",
            )
        own[plain_name(name)][parameter] = value
    return own
