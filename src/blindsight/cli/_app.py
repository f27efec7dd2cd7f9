"""The commands. Each one reads its options, calls one function and prints; what is heavy is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._exits import FINDING, command, safe_after
from ._options import HomeOption, JsonOption, KeyFileOption, named_paths, sealer_of, writable_target
from ._screen import Screen

__all__ = ["app", "main"]

app = typer.Typer(
    name="blindsight",
    help="Train an anomaly detector across organisations that may not share records; score records that nobody else "
    "may see. The cryptographic code is not yet audited.",
    epilog="Exit codes: 0 done, 1 crash, 2 usage or bad input, 3 refused by policy or budget, 4 something is "
    "wrong with what was checked, 75 try again. Set BLINDSIGHT_DEBUG=1 for a traceback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
schema_app = typer.Typer(
    help="Write and check schemas: what everybody may know about the records.", no_args_is_help=True
)
ledger_app = typer.Typer(help="Look at what a party's records have paid so far.", no_args_is_help=True)
app.add_typer(schema_app, name="schema", short_help="Write and check schemas.")
app.add_typer(ledger_app, name="ledger", short_help="Show and verify what was spent.")


def main() -> None:
    """Run the command line; the console script."""
    app()


def _version(asked: bool) -> None:
    if asked:
        from blindsight._version import __version__

        typer.echo(f"blindsight {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


# -- demo ------------------------------------------------------------------------------------------------------------


@app.command(
    short_help="Real hospitals, then simulated banks, with a report.",
    epilog="Example: blindsight demo --output blindsight-demo",
)
@command
@safe_after("The demo's folder may be half filled; running it again replaces it.")
def demo(
    output: Annotated[Path, typer.Option(help="Folder for models, runs and the report.")] = Path("blindsight-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer records: to see that it works.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Run the main job: real hospital records, then simulated card payments, scored blind, with a report."""
    from ._demo import run_demo

    screen = Screen(as_json=json_output)
    screen.result(run_demo(output, screen, quick=quick))


# -- schema ----------------------------------------------------------------------------------------------------------


@schema_app.command("draft", epilog="Example: blindsight schema draft payments.csv --output schema.toml")
@command
def schema_draft(
    records: Annotated[Path, typer.Argument(help="CSV or Parquet file.")],
    output: Annotated[Path | None, typer.Option(help="Schema file to write; standard output otherwise.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Write names and types of the columns; ranges are left blank, because a range read from records is a leak."""
    from blindsight.data import draft
    from blindsight.errors import ParameterError

    text = draft(records)
    screen = Screen(as_json=json_output)
    if output is not None:
        writable_target(output, "--output")
        if output.exists():
            raise ParameterError(
                "The schema exists already", got=str(output), fix="choose another name, or remove it yourself"
            )
        output.write_text(text, encoding="utf-8")
        screen.say(f"Wrote {output}. Fill in the blanks, then: blindsight schema check {output} {records}")
    else:
        screen.say(text.rstrip("\n"))
    screen.result({"schema": text, "output": None if output is None else str(output)})


@schema_app.command("check", epilog="Example: blindsight schema check schema.toml payments.csv")
@command
def schema_check(
    schema: Annotated[Path, typer.Argument(help="Schema file.")],
    records: Annotated[Path, typer.Argument(help="CSV or Parquet file.")],
    json_output: JsonOption = False,
) -> None:
    """Hold a file against a schema and list everything that is wrong. The findings describe the records: keep them."""
    from blindsight.data import check

    findings = check(schema, records)
    screen = Screen(as_json=json_output)
    for finding in findings:
        screen.say(str(finding))
    problems = sum(finding.level == "error" for finding in findings)
    screen.say(
        f"{problems} problem{'s' if problems != 1 else ''} that would stop a reader."
        if problems
        else "The file fits the schema."
    )
    screen.result(
        {
            "problems": problems,
            "findings": [{"level": f.level, "column": f.column, "message": f.message} for f in findings],
        }
    )
    if problems:
        raise typer.Exit(FINDING)


# -- fit -------------------------------------------------------------------------------------------------------------


@app.command(
    short_help="Fit one detector at several parties.",
    epilog="Example: blindsight fit --schema schema.toml --detector ecod --party bank-a=a.csv --party bank-b=b.csv "
    "--party bank-c=c.csv --epsilon 1 --delta 1e-6 --unit person --max-records-per-person 4 --home run "
    "--output fraud.blindsight",
)
@command
@safe_after("No model was written. What a party had charged to its ledger stays charged; another fit is a new release.")
def fit(
    schema: Annotated[Path, typer.Option(help="Schema that all parties share.")],
    party: Annotated[list[str], typer.Option(help="NAME=PATH of one party's records; at least three times.")],
    output: Annotated[Path, typer.Option(help="Model file to write.")],
    home: HomeOption,
    detector: Annotated[str, typer.Option(help="ecod or mahalanobis.")] = "ecod",
    evaluate: Annotated[list[str] | None, typer.Option(help="NAME=PATH of a party's labelled test records.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy of fit, threshold and evaluation together.")] = None,
    delta: Annotated[float, typer.Option(help="Probability beyond epsilon.")] = 1e-6,
    unit: Annotated[str, typer.Option(help="Whose presence is hidden: record or person.")] = "record",
    max_records_per_person: Annotated[
        int | None, typer.Option(help="Records of one person used at each party, with --unit person.  [default: 1]")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Exact sums, no differential privacy; every policy must allow it.")
    ] = False,
    contamination: Annotated[float, typer.Option(help="Share of records that should alert.")] = 0.02,
    policy: Annotated[Path | None, typer.Option(help="policy.toml for parties that have none yet in --home.")] = None,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Federated anomaly detection",
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Fit one detector on the records of several parties, each in a process of its own that sees only its own file."""
    from blindsight.data import Schema
    from blindsight.federation import Policy
    from blindsight.report import write_run

    from ._fit import fit_parties, run_file

    screen = Screen(as_json=json_output)
    privacy = _privacy(epsilon, delta, unit, max_records_per_person, exact=exact)
    data, tests = named_paths(party, "--party"), named_paths(evaluate or (), "--evaluate")
    writable_target(output, "--output", sources=[schema, policy, key_file, *data.values(), *tests.values()])
    with screen.working(f"Fitting {detector} at {len(data)} parties") as progress:
        fitting = fit_parties(
            _detector(detector, contamination),
            schema=Schema.read(schema),
            data=data,
            evaluation=tests,
            evaluate=bool(tests),
            privacy=privacy,
            policy=None if policy is None else Policy.read(policy),
            home=home,
            key_file=key_file,
            progress=progress,
        )
    fitting.model.save(output, sealer=sealer_of(key_file))
    run = run_file(fitting, title=title, home=home, key_file=key_file)
    path = write_run(run, home)
    certificate = fitting.model.certificate_ or {}
    screen.say(f"Wrote {output}, from about {run.model.records:,} records of {', '.join(run.parties)}.")
    if run.privacy is None:
        screen.say("Exact sums: there is no differential privacy in this model.")
    else:
        screen.say(
            f"Spent epsilon {run.privacy.epsilon_spent:.3g} of {epsilon:g} per {unit} at delta {delta:g}"
            f"{'' if tests else ' (the rest is kept for evaluation)'}."
        )
        if unit == "person":
            most = max_records_per_person or 1
            screen.say(f"At most {most} record{'s' * (most > 1)} of each person were used at each party.")
    if run.evaluation is not None:
        e = run.evaluation
        spread = f" ± {2 * e.auroc_stddev:.3f} from noise" if e.auroc_stddev else ""
        measured = f"AUROC {e.auroc:.3f}{spread}" if e.measurable else "AUROC not measurable under this much noise"
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
            "certificate": {k: v for k, v in certificate.items() if k != "events"},
            "epsilon_spent": None if run.privacy is None else run.privacy.epsilon_spent,
            "auroc": None if run.evaluation is None else run.evaluation.auroc,
            "auroc_stddev": None if run.evaluation is None else run.evaluation.auroc_stddev,
        }
    )


def _privacy(epsilon: float | None, delta: float, unit: str, max_records_per_person: int | None, *, exact: bool) -> Any:
    from blindsight.errors import ParameterError
    from blindsight.privacy import DifferentialPrivacy

    if exact == (epsilon is not None):
        raise ParameterError(
            "Say how private the fit is to be",
            got="both --epsilon and --exact" if exact else "neither --epsilon nor --exact",
            rule="--epsilon for differential privacy, or --exact for exact sums where every policy allows them",
            fix="--epsilon 1 --delta 1e-6",
        )
    if exact:
        return None
    if unit not in ("record", "person"):
        raise ParameterError("--unit is unknown", got=repr(unit)[:80], rule="record or person")
    return DifferentialPrivacy(
        epsilon=epsilon,  # type: ignore[arg-type]
        delta=delta,
        unit=unit,  # type: ignore[arg-type]
        max_records_per_person=max_records_per_person,
    )


def _detector(name: str, contamination: float) -> Any:
    from blindsight.detectors import known_detectors
    from blindsight.errors import ParameterError

    for known, cls in known_detectors().items():
        if known.lower() == name.lower():
            return cls(contamination=contamination)
    raise ParameterError(
        "--detector is unknown", got=repr(name)[:80], rule=", ".join(sorted(n.lower() for n in known_detectors()))
    )


# -- score -----------------------------------------------------------------------------------------------------------


@app.command(
    short_help="Score records, in the clear or blind.",
    epilog="Example: blindsight score --model fraud.blindsight --input today.csv --output scores.csv --blind",
)
@command
@safe_after("No scores were written. Bits that a blind scorer had charged stay charged.")
def score(
    model: Annotated[Path, typer.Option(help="Model file.")],
    input_file: Annotated[Path, typer.Option("--input", help="CSV or Parquet file of records.")],
    output: Annotated[Path, typer.Option(help="CSV or Parquet file to write: row, score, alert.")],
    blind: Annotated[
        bool, typer.Option("--blind", help="Seal the records; another process scores them without seeing them.")
    ] = False,
    packing: Annotated[str, typer.Option(help="rows (few records) or columns (thousands), with --blind.")] = "rows",
    bit_budget: Annotated[
        int | None, typer.Option(help="Bits of answers that the model's holder releases at most, with --blind.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option("--home", help="Keeps the owner's keys and the scorer's count of bits, with --blind.")
    ] = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Score records in the clear, or blind: the model's holder then sees neither records nor scores."""
    from blindsight.errors import ParameterError

    from ._score import PIECE_ROWS, score_blind, score_clear

    screen = Screen(as_json=json_output)
    writable_target(output, "--output", sources=[model, input_file, key_file])
    if bit_budget is not None and not blind:
        raise ParameterError("--bit-budget goes with --blind", fix="add --blind, or leave it out")
    if packing not in PIECE_ROWS:
        raise ParameterError("--packing is unknown", got=repr(packing)[:80], rule="rows or columns")
    summary: dict[str, Any] = {"blind": blind}
    with screen.working(f"Scoring {input_file}{' blind' if blind else ''}") as progress:
        if blind:
            done = score_blind(
                model_path=model, input_path=input_file, output=output, key_file=key_file, home=home,
                packing=packing, bit_budget=bit_budget, progress=progress,
            )  # fmt: skip
            writer = done.writer
            summary |= {
                "bits_released": done.bits_released,
                "sealed_bytes": done.sealed_bytes,
                "answer_bytes": done.answer_bytes,
                "rows_to_extract": done.facts.rows_to_extract,
            }
        else:
            writer = score_clear(
                model_path=model, input_path=input_file, output=output, key_file=key_file, progress=progress
            ).writer
    summary |= writer.summary()
    screen.say(f"Wrote {output}: {writer.rows:,} records, {writer.alerts:,} above {writer.threshold:.4f}.")
    if blind:
        screen.say(
            f"Scored blind: {summary['bits_released']:,} bits released "
            f"({done.facts.bits_per_record:.3g} at most a record, and the threshold). About "
            f"{done.facts.rows_to_extract:,} well-chosen records would reveal every score."
        )
    if writer.alerts:
        shown = [(row, value) for row, value in writer.top if value > writer.threshold]
        screen.table(
            f"Highest {len(shown)} of {writer.alerts:,} alerts",
            [("Row", "right"), ("Score", "right")],
            [(row, f"{value:.4f}") for row, value in shown],
        )
    screen.result(summary)


# -- report, ledger, doctor ------------------------------------------------------------------------------------------


@app.command(short_help="Write a run as one HTML page.", epilog="Example: blindsight report run --output report.html")
@command
def report(
    run: Annotated[Path, typer.Argument(help="run.json, or the folder that holds it.")],
    output: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    json_output: JsonOption = False,
) -> None:
    """Write one self-contained page: what was trained, what it cost, who learned what."""
    from blindsight.report import read_run, verdict, write_report

    screen = Screen(as_json=json_output)
    writable_target(output, "--output", sources=[run / "run.json" if run.is_dir() else run])
    facts = read_run(run)
    write_report(facts, output)
    screen.say(f"Wrote {output} ({output.stat().st_size / 1000:.0f} kB, nothing in it is fetched).")
    screen.result({"output": str(output), "verdict": {line.question: line.answer for line in verdict(facts)}})


@ledger_app.command("show", epilog="Example: blindsight ledger show --home run")
@command
def ledger_show(home: HomeOption, key_file: KeyFileOption = None, json_output: JsonOption = False) -> None:
    """List every release that was charged, and what is left of each budget."""
    from ._fit import charge_of
    from ._parties import accounts

    screen = Screen(as_json=json_output)
    result = []
    for account in accounts(home, key_file=key_file):
        charges = [charge_of(account.party, entry) for entry in account.charged()]
        spent, budget = account.ledger.spent(), account.ledger.budget
        assert budget is not None  # a party always has one
        result.append(
            {
                "party": account.party,
                "unit": account.unit,
                "spent": spent,
                "budget": budget.epsilon,
                "delta": budget.delta,
                "head": account.ledger.head(),
                "releases": [
                    {"release": c.release, "time_utc": c.time_utc, "purpose": c.purpose, "exact": c.exact,
                     "rho": c.rho, "noise_stddev": c.noise_stddev, "output_stored": c.output_stored}
                    for c in charges
                ],
            }
        )  # fmt: skip
        title = (
            f"{account.party}, per {account.unit}: epsilon {spent:.3f} of {budget.epsilon:g} at delta {budget.delta:g}"
        )
        exact_sums = sum(charge.exact for charge in charges)
        if exact_sums:
            title += f"; and {exact_sums} exact sum{'s' * (exact_sums > 1)}, which no epsilon bounds"
        if not charges:
            screen.say(f"{title}; nothing was charged.\n")
            continue
        screen.table(
            title,
            [("Time (UTC)", "left"), ("Release", "left"), ("Purpose", "left"), ("rho", "right"),
             ("Noise (sd)", "right"), ("Output", "left")],
            [
                (c.time_utc, c.release, c.purpose, "exact sum" if c.exact else f"{c.rho:.5f}",
                 "none" if c.exact else f"{c.noise_stddev:.1f}", "stored" if c.output_stored else "never stored, spent")
                for c in charges
            ],
        )  # fmt: skip
    screen.result({"accounts": result})


@ledger_app.command("verify", epilog="Example: blindsight ledger verify --home run/bank-a --seen-head 3f2a...")
@command
def ledger_verify(
    home: HomeOption,
    seen_head: Annotated[
        list[str] | None,
        typer.Option(help="A head that 'ledger show --json' printed earlier; it must still be in one of the ledgers."),
    ] = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check the hash chain of every ledger and every stored output."""
    from blindsight.errors import BlindsightError, FormatError, ParameterError

    from ._parties import accounts

    screen = Screen(as_json=json_output)
    heads = seen_head or []
    if any(len(head) != 64 or set(head) - set("0123456789abcdef") for head in heads):
        raise ParameterError("--seen-head is no head", rule="64 hexadecimal digits, from 'ledger show --json'")
    found: list[dict[str, Any]] = []
    missing = set(heads)
    for account in accounts(home, key_file=key_file):
        problem, lines = None, 0
        try:
            lines = account.ledger.verify()
            for head in sorted(missing):
                try:
                    account.ledger.verify(head)
                    missing.discard(head)
                except FormatError:
                    continue  # it may be another ledger's
        except BlindsightError as error:  # damaged lines, or a sealed value that no longer opens
            problem = str(error)
        found.append({"party": account.party, "unit": account.unit, "lines": lines, "problem": problem})
        state = "damaged. " + problem if problem else f"intact, {lines} lines"
        screen.say(f"{account.party}, per {account.unit}: {state}")
    for head in sorted(missing):
        screen.say(f"No ledger contains the head {head[:16]}...: one was rolled back or rewritten.")
    bad = bool(missing) or any(entry["problem"] for entry in found)
    screen.result({"intact": not bad, "ledgers": found, "missing_heads": sorted(missing)})
    if bad:
        raise typer.Exit(FINDING)


@app.command(short_help="Look whether this machine is fit.", epilog="Example: blindsight doctor --home run")
@command
def doctor(
    home: Annotated[Path, typer.Option("--home", help="Where ledgers and keys are to be kept.")] = Path(),
    constraints: Annotated[
        Path | None, typer.Option(help="pip constraints file to compare with; ./constraints.txt if it is there.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Look whether this machine can run Blindsight: packages, encryption, disk, randomness."""
    import msgspec

    from ._doctor import examine

    screen = Screen(as_json=json_output)
    findings = examine(home, constraints)
    for finding in findings:
        screen.say(f"{finding.level:<8} {finding.what:<12} {finding.told}")
        if finding.fix is not None:
            screen.say(f"{'':<8} {'':<12} fix: {finding.fix}")
    problems = sum(finding.level == "problem" for finding in findings)
    screen.say(f"{problems} problem{'s' if problems != 1 else ''}." if problems else "No problem found.")
    screen.result({"problems": problems, "findings": msgspec.to_builtins(findings)})
    if problems:
        raise typer.Exit(FINDING)
