"""The table of commands. Each reads its options, calls one function and prints; what is heavy is imported inside."""

from __future__ import annotations

from typing import Annotated

import typer

from ._command_compare import compare
from ._command_coordinator import coordinator_app
from ._command_demo import demo
from ._command_detectors import detectors
from ._command_export import export
from ._command_fit import fit
from ._command_forget import forget
from ._command_init import init_app
from ._command_jobs import jobs_app
from ._command_ledger import ledger_export, ledger_figures, ledger_heads, ledger_show, ledger_verify, ledger_write_off
from ._command_look import doctor, report, verify_bundle
from ._command_mpc_node import mpc_node_certificate, mpc_node_check, mpc_node_serve
from ._command_party import party_app
from ._command_party_serve import party_serve
from ._command_plan import plan_blind
from ._command_plan_sums import plan_sums
from ._command_preflight import preflight
from ._command_schema import schema_check, schema_draft
from ._command_score import score
from ._command_serve import serve_app
from ._command_simulate import simulate

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
app.add_typer(init_app, name="init", short_help="Make a federation's kits and participant list.")
app.add_typer(party_app, name="party", short_help="Be a data owner: keys, kits, lists; serve.")
app.add_typer(coordinator_app, name="coordinator", short_help="Run a federation whose parties dial in.")
app.add_typer(jobs_app, name="jobs", short_help="Look at what was asked of a party; approve or refuse it.")
app.add_typer(ledger_app, name="ledger", short_help="Show and verify what was spent.")
mpc_app = typer.Typer(help="Be one operator of a secure computation: hold shares, open nothing.", no_args_is_help=True)
app.add_typer(mpc_app, name="mpc-node", short_help="Be one operator of a secure computation.")
plan_app = typer.Typer(help="Say what something would cost, before it is done.", no_args_is_help=True)
app.add_typer(plan_app, name="plan", short_help="Say what blind scoring, or a private sum, would cost.")
app.add_typer(serve_app, name="serve", short_help="Score sealed records for strangers, over HTTPS.")


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


app.command(
    short_help="Real hospitals, then simulated banks, with a report.",
    epilog="Example: blindsight demo --output blindsight-demo",
)(demo)
party_app.command(
    "serve",
    short_help="Dial the coordinator and answer it.",
    epilog="Example: blindsight party serve bank-a",
)(party_serve)
schema_app.command("draft", epilog="Example: blindsight schema draft payments.csv --output schema.toml")(schema_draft)
schema_app.command("check", epilog="Example: blindsight schema check schema.toml payments.csv")(schema_check)
app.command(
    short_help="Fit one detector at several parties.",
    epilog="Example: blindsight fit --schema schema.toml --detector ecod --party bank-a=a.csv --party bank-b=b.csv "
    "--party bank-c=c.csv --epsilon 1 --delta 1e-6 --unit person --max-records-per-person 4 --home run "
    "--output fraud.blindsight",
)(fit)
app.command(
    short_help="Fit at hundreds of virtual parties over a simulated network.",
    epilog="Example: blindsight simulate records.csv --schema schema.toml --parties 100 --dropout 0.3 "
    "--split dirichlet:0.5 --seed 7 --plot fleet.png",
)(simulate)
app.command(
    short_help="List the detectors and what each costs.",
    epilog="Example: blindsight detectors --schema schema.toml --epsilon 1",
)(detectors)
app.command(
    short_help="Set several detectors side by side.",
    epilog="Example: blindsight compare --schema schema.toml --detectors ecod,hbos,iforest --input records.csv "
    "--test test.csv --output compare.html",
)(compare)
app.command(
    short_help="Write a smaller copy of a network.",
    epilog="Example: blindsight export --model network.blindsight --output small.blindsight --prune 0.5 "
    "--test labelled.csv",
)(export)
app.command(
    short_help="Score records, in the clear or blind.",
    epilog="Example: blindsight score --model fraud.blindsight --input today.csv --output scores.csv --blind",
)(score)
plan_app.command("blind", epilog="Example: blindsight plan blind fraud.blindsight --rows 1000 --verdict")(plan_blind)
plan_app.command("sums", epilog="Example: blindsight plan sums --parties 20 --coordinates 100000 --dropouts 2")(
    plan_sums
)
ledger_app.command("show", epilog="Example: blindsight ledger show --home run")(ledger_show)
ledger_app.command("verify", epilog="Example: blindsight ledger verify --home run/bank-a --seen-head 3f2a...")(
    ledger_verify
)
ledger_app.command("figures", epilog="Example: blindsight ledger figures --home run/bank-a")(ledger_figures)
ledger_app.command("export", epilog="Example: blindsight ledger export --home bank-a --output bank-a.json")(
    ledger_export
)
ledger_app.command("heads", epilog="Example: blindsight ledger heads --home run/bank-a")(ledger_heads)
ledger_app.command("write-off", epilog="Example: blindsight ledger write-off --home bank-a")(ledger_write_off)
app.command(
    short_help="Leave persons out of a party's later sums.",
    epilog="Example: blindsight forget --home bank-a --from persons.txt --dry-run",
)(forget)
app.command(short_help="Write a run as one HTML page.", epilog="Example: blindsight report run --output report.html")(
    report
)
app.command(
    "verify-bundle",
    short_help="Check a sign-off bundle.",
    epilog="Example: blindsight verify-bundle bundle.zip --signer-key 94d79f71...",
)(verify_bundle)
app.command(short_help="Look whether this machine is fit.", epilog="Example: blindsight doctor --home run")(doctor)
app.command(
    short_help="Look whether a run would work from here.", epilog="Example: blindsight preflight --home bank-a"
)(preflight)
mpc_app.command("serve", epilog="Example: blindsight mpc-node serve --config node.toml")(mpc_node_serve)
mpc_app.command("check", epilog="Example: blindsight mpc-node check --config node.toml")(mpc_node_check)
mpc_app.command("certificate", epilog="Example: blindsight mpc-node certificate operator-0 --output keys")(
    mpc_node_certificate
)
