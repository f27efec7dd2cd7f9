"""``blindsight report`` and ``blindsight doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._exits import FINDING, command
from ._options import JsonOption, KeyFileOption, writable_target
from ._screen import Screen

__all__ = ["doctor", "report", "verify_bundle"]


@command
def report(
    run: Annotated[Path, typer.Argument(help="run.json, or the folder that holds it.")],
    output: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    bundle: Annotated[
        Path | None,
        typer.Option(help="Zip file to write instead: report, data flow, ledgers, draft impact assessment, manifest."),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Bundle: the run's model file; its hash goes in.")] = None,
    ledger: Annotated[
        list[Path] | None, typer.Option(help="Bundle: what a party wrote with 'ledger export'; repeatable.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="Bundle: NAME=PATH of a party's policy.toml; repeatable.")
    ] = None,
    sign_as: Annotated[str | None, typer.Option("--sign-as", help="Bundle: who signs the manifest.")] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Bundle: that person's key, as 'jobs key' makes it.")
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", help="File with its passphrase.  [default: asks]")
    ] = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write one self-contained page: what was trained, what it cost, who learned what. Or a bundle to sign off."""
    from blindsight.report import read_run, verdict, write_report

    screen = Screen(as_json=json_output)
    writable_target(output, "--output", sources=[run / "run.json" if run.is_dir() else run])
    facts = read_run(run)
    if bundle is not None:
        from ._bundle import bundle_of

        made = bundle_of(
            facts, run, bundle, model=model, ledgers=ledger or [], policies=policy or [], sign_as=sign_as, key=key,
            passphrase_file=passphrase_file, key_file=key_file,
        )  # fmt: skip
        screen.say(f"Wrote {bundle}: {len(made)} files. assessment.md is a draft: complete it, and have it reviewed.")
        screen.result({"bundle": str(bundle), "files": sorted(made)})
        return
    write_report(facts, output)
    screen.say(f"Wrote {output} ({output.stat().st_size / 1000:.0f} kB, nothing in it is fetched).")
    screen.result({"output": str(output), "verdict": {line.question: line.answer for line in verdict(facts)}})


@command
def verify_bundle(
    bundle: Annotated[Path, typer.Argument(help="Zip file that 'report --bundle' wrote.")],
    signer_key: Annotated[
        str | None, typer.Option("--signer-key", help="Public key that the manifest must be signed by, in hexadecimal.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Check every hash, signature, ledger chain and countersignature of a sign-off bundle."""
    from dataclasses import asdict

    from blindsight.report import check_bundle, read_bundle

    screen = Screen(as_json=json_output)
    found = check_bundle(read_bundle(bundle), signer_key=signer_key)
    for problem in found.problems:
        screen.say(f"problem: {problem}")
    who = f"signed by {found.signer}, key {found.signer_key}" if found.signer_key else "signed by nobody"
    screen.say(f"{found.files} files, {who}; signed ledgers of {', '.join(found.ledgers) or 'no party'}.")
    if found.without:
        screen.say(f"Without the ledgers of {', '.join(found.without)}.")
    if found.signer_key and signer_key is None:
        screen.say("Compare the key with its owner: a signature by an unknown key proves nothing.")
    screen.result({"intact": not found.problems, **asdict(found)})
    if found.problems:
        raise typer.Exit(FINDING)


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
