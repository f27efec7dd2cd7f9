"""``blindsight party``: what a data owner does in its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._exits import FINDING, command
from ._options import JsonOption, KeyFileOption
from ._screen import Screen

if TYPE_CHECKING:
    from blindsight.federation import ModelShelf

__all__ = ["party_app"]

FolderOption = Annotated[Path, typer.Option("--home", help="The party's own folder.")]
FingerprintOption = Annotated[
    str | None,
    typer.Option("--fingerprint", help="Of the federation's key, as heard by telephone; anything else is refused."),
]

party_app = typer.Typer(
    help="Be a data owner: keys, kits and lists, in a folder that never leaves.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@party_app.command(
    "enrol",
    short_help="Make keys here, and a request for a certificate.",
    epilog="Example: blindsight party enrol bank-a --federation card-fraud --contact 'Ada, +43 1 234' --home bank-a",
)
@command
def enrol(
    name: Annotated[str, typer.Argument(help="The party's name.")],
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    home: FolderOption = Path(),
    contact: Annotated[str, typer.Option(help="Whom to ring here to compare fingerprints.")] = "not given",
    new_tls_key: Annotated[
        bool, typer.Option("--new-tls-key", help="Make another TLS key, to renew a certificate.")
    ] = False,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make this party's keys where they will stay, and write request.json, which holds public ones alone."""
    from blindsight.federation import enrol as make_request

    request = make_request(
        home, name=name, federation=federation, contact=contact, key_file=key_file, new_tls_key=new_tls_key
    )
    screen = Screen(as_json=json_output)
    screen.say(f"Wrote {home / 'request.json'}: send it to the federation's operator. The private keys stay in {home}.")
    screen.say(f"Your fingerprint, for comparing by telephone: {request.fingerprint}")
    screen.result({"request": str(home / "request.json"), "fingerprint": request.fingerprint})


@party_app.command(
    "join",
    short_help="Take over a kit, and pin the federation's key.",
    epilog="Example: blindsight party join kits/bank-a --home bank-a --fingerprint 1c52-ae9c-...",
)
@command
def join(
    kit: Annotated[Path, typer.Argument(help="The kit that the federation's operator sent.")],
    home: FolderOption = Path(),
    fingerprint: FingerprintOption = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check that a kit's parts fit together and fit the keys here, then take it over. policy.toml stays as it is."""
    from blindsight.federation import join as take_over

    listing = take_over(kit, home, key_file=key_file, fingerprint=fingerprint)
    screen = Screen(as_json=json_output)
    screen.say(f"Joined '{listing.federation}', participant list {listing.serial}.")
    if fingerprint is None:
        screen.say(f"Pinned the federation's key {listing.fingerprint}.")
        screen.say("Ring its operator now and compare: a kit from somebody else would have looked the same.")
    screen.say(f"Next: fill in party.toml, schema.toml, policy.toml; then blindsight preflight --home {home}")
    screen.result({"federation": listing.federation, "serial": listing.serial, "fingerprint": listing.fingerprint})


@party_app.command(
    "accept",
    short_help="Accept a newer participant list.",
    epilog="Example: blindsight party accept participants.signed.json --home bank-a",
)
@command
def accept(
    file: Annotated[Path, typer.Argument(help="The signed list.")],
    home: FolderOption = Path(),
    fingerprint: FingerprintOption = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Accept a list by the pinned key with a higher serial; sums that begin from now on are over its parties."""
    from blindsight.federation import accept_list

    new, old = accept_list(file, home, key_file=key_file, fingerprint=fingerprint)
    screen = Screen(as_json=json_output)
    before = {p.name: p.public_key for p in old.parties} if old is not None else {}
    now = {p.name: p.public_key for p in new.parties}
    came, left = sorted(set(now) - set(before)), sorted(set(before) - set(now))
    changed = sorted(name for name in set(now) & set(before) if now[name] != before[name])
    screen.say(f"List {new.serial} of '{new.federation}' holds from the next sum on; key {new.fingerprint}.")
    for what, names in (("New", came), ("Gone", left), ("New identity", changed)):
        if names:
            screen.say(f"{what}: {', '.join(names)}")
    if left or changed or came:
        screen.say("Exact sums stay bound to the parties of the first one; noisy ones are over the new list.")
    screen.result({"serial": new.serial, "new": came, "gone": left, "new_identity": changed})


@party_app.command(
    "mock",
    short_help="Write mock records from the schema.",
    epilog="Example: blindsight party mock --home bank-a --output mock.csv",
)
@command
def mock(
    output: Annotated[Path, typer.Option(help="CSV or Parquet file to write.")],
    home: FolderOption = Path(),
    schema: Annotated[Path | None, typer.Option(help="Schema file.  [default: HOME/schema.toml]")] = None,
    rows: Annotated[int, typer.Option(help="How many.", min=1, max=1_000_000)] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed, the same records.", min=0)] = 0,
    json_output: JsonOption = False,
) -> None:
    """Draw records from the declared ranges alone: to show, never to protect. No record is read."""
    from blindsight.data import Schema, mock_records
    from blindsight.errors import ParameterError

    from ._options import writable_target

    writable_target(output, "--output", sources=[schema, home / "schema.toml"])
    if output.exists() or output.suffix not in (".csv", ".parquet"):
        raise ParameterError(
            "--output cannot be used",
            got=str(output)[:300],
            rule="a new file whose name ends in .csv or .parquet: no records are overwritten by mock ones",
        )
    table = mock_records(Schema.read(schema or home / "schema.toml"), rows, seed=seed)
    if output.suffix == ".csv":
        table.write_csv(output)
    else:
        table.write_parquet(output)
    screen = Screen(as_json=json_output)
    screen.say(f"Wrote {output}: {rows} mock records, drawn uniformly from the schema's ranges; no record was read.")
    screen.say(
        "They show types and ranges. They are no control, and nothing that is fitted on them is true of anybody."
    )
    screen.result({"output": str(output), "rows": rows, "seed": seed})


audit_app = typer.Typer(help="What was asked, refused, approved and released here.", no_args_is_help=True)
party_app.add_typer(audit_app, name="audit", short_help="Show and verify the audit log.")


@audit_app.command("show", epilog="Example: blindsight party audit show --home bank-a --last 20")
@command
def audit_show(
    home: FolderOption = Path(),
    last: Annotated[int, typer.Option(help="How many lines.", min=1)] = 50,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Print the newest lines of the audit log, once its chain holds."""
    import msgspec

    from blindsight.federation import open_audit

    screen = Screen(as_json=json_output)
    lines = open_audit(home, key_file=key_file).lines()[-last:]
    for line in lines:
        told = ", ".join(f"{key}={value}" for key, value in line.detail.items())
        screen.say(f"{line.sequence:>6} {line.time_utc} {line.kind:<9} {told}")
    screen.result({"lines": msgspec.to_builtins(lines)})


@audit_app.command("verify", epilog="Example: blindsight party audit verify --home bank-a --seen-head 3f2a...")
@command
def audit_verify(
    home: FolderOption = Path(),
    seen_head: Annotated[
        str | None, typer.Option(help="A head that was noted earlier; it must still be in the chain.")
    ] = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check that no line was changed, removed or inserted, and that none is missing at the end."""
    from blindsight.errors import FormatError, ParameterError
    from blindsight.federation import open_audit

    screen = Screen(as_json=json_output)
    if seen_head is not None and (len(seen_head) != 64 or set(seen_head) - set("0123456789abcdef")):
        raise ParameterError("--seen-head is no head", rule="64 hexadecimal digits, as this command prints them")
    audit = open_audit(home, key_file=key_file)
    problem, lines = None, 0
    try:
        lines = audit.verify(seen_head)
    except FormatError as error:
        problem = str(error)
    screen.say(f"damaged. {problem}" if problem else f"intact, {lines} lines; head {audit.head()}")
    screen.result({"intact": problem is None, "lines": lines, "head": audit.head(), "problem": problem})
    if problem:
        raise typer.Exit(FINDING)


models_app = typer.Typer(help="Models that the coordinator has delivered here.", no_args_is_help=True)
party_app.add_typer(models_app, name="models", short_help="List delivered models; choose the one in use.")


@models_app.command("list", epilog="Example: blindsight party models list --home bank-a")
@command
def models_list(home: FolderOption = Path(), json_output: JsonOption = False) -> None:
    """List what is kept, and which version models/current.blindsight is."""
    import msgspec

    from blindsight.federation import CURRENT_FILE

    screen = Screen(as_json=json_output)
    shelf = _shelf(home, None)
    current = shelf.current
    if current is None:
        screen.say("No model was delivered here.")
    else:
        screen.table(
            f"In use: {shelf.folder / CURRENT_FILE}, version {current.version}",
            [("Version", "right"), ("In use", "left"), ("Received (UTC)", "left"), ("Run", "left"),
             ("Detector", "left"), ("Own records in it", "left"), ("SHA-256", "left")],
            [
                (model.version, "yes" if model == current else "", model.received_utc, model.run, model.detector,
                 "yes" if model.took == "survivor" else "no", model.sha256[:16])
                for model in shelf.models
            ],
        )  # fmt: skip
    models = [{**msgspec.to_builtins(model), "file": str(shelf.path(model))} for model in shelf.models]
    screen.result({"current": None if current is None else current.version, "models": models})


@models_app.command("use", epilog="Example: blindsight party models use 3 --home bank-a")
@command
def models_use(
    version: Annotated[int, typer.Argument(help="As 'party models list' shows it.", min=1)],
    home: FolderOption = Path(),
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make a kept version the one in use."""
    _in_use(home, key_file, version, Screen(as_json=json_output))


@models_app.command("rollback", epilog="Example: blindsight party models rollback --home bank-a")
@command
def models_rollback(
    home: FolderOption = Path(), key_file: KeyFileOption = None, json_output: JsonOption = False
) -> None:
    """Go back to the newest version that is older than the one in use."""
    _in_use(home, key_file, None, Screen(as_json=json_output))


def _shelf(home: Path, key_file: Path | None) -> ModelShelf:
    from blindsight.federation import MODELS_FOLDER, ModelShelf

    from ._options import sealer_of
    from ._parties import check_party_folder

    check_party_folder(home)
    return ModelShelf(home / MODELS_FOLDER, sealer_of(key_file))


def _in_use(home: Path, key_file: Path | None, version: int | None, screen: Screen) -> None:
    """Change the version in use, and write it down."""
    from blindsight.federation import CURRENT_FILE, open_audit

    shelf, audit = _shelf(home, key_file), open_audit(home, key_file=key_file)
    before = shelf.current
    model = shelf.use(version) if version is not None else shelf.rollback()
    audit.write("model", in_use=model.version, before=None if before is None else before.version, run=model.run)
    screen.say(f"Version {model.version} of run {model.run} is in use: {shelf.folder / CURRENT_FILE}")
    screen.result({"current": model.version, "run": model.run, "file": str(shelf.path(model))})
