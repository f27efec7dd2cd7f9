"""``blindsight party``: what a data owner does in its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._exits import command
from ._options import JsonOption, KeyFileOption
from ._screen import Screen

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
