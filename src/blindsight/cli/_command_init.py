"""``blindsight init``: make a federation's kits, and change who takes part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ._exits import FINDING, command
from ._options import JsonOption
from ._screen import Screen

if TYPE_CHECKING:
    from blindsight.federation.kits import EnrolmentRequest, ParticipantList

__all__ = ["init_app"]

KitsOption = Annotated[Path, typer.Option("--kits", help="The --output folder of 'blindsight init'.")]
RequestOption = Annotated[
    Path | None, typer.Option("--request", help="The party's request, where it made its keys itself.")
]
NameArgument = Annotated[str, typer.Argument(help="The party's name.")]


class _MakeByDefault(TyperGroup):
    """``init FILE`` means ``init make FILE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


init_app = typer.Typer(
    cls=_MakeByDefault,
    help="Make a federation: an authority, a signed participant list, a kit for every party and for the coordinator.",
    epilog="Example: blindsight init federation.toml --output kits",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@init_app.command(
    "make",
    short_help="Make all kits from a federation file.",
    epilog="Example: blindsight init make federation.toml --output kits --request bank-a.json --request bank-b.json "
    "--request bank-c.json",
)
@command
def make(
    file: Annotated[Path, typer.Argument(help="The federation file, TOML.")],
    output: Annotated[Path, typer.Option(help="Folder to make; must not exist, or be empty.")] = Path("kits"),
    request: Annotated[
        list[Path] | None,
        typer.Option("--request", help="A party's request ('blindsight party enrol'); once for each."),
    ] = None,
    make_keys: Annotated[
        bool, typer.Option("--make-keys", help="With --request: make keys here for parties that sent none.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Make an authority, the first participant list and a kit for each party; private keys travel only if made here."""
    from blindsight.federation.kits import EnrolmentRequest, Workshop, read_plan

    screen = Screen(as_json=json_output)
    plan = read_plan(file)
    requests = [EnrolmentRequest.read(path) for path in request or []]
    workshop = Workshop.create(plan, output, requests=requests, make_keys=make_keys)
    _show(screen, workshop.current)
    made = [party.name for party in plan.parties if party.name not in {one.name for one in requests}]
    if requests:
        screen.say("Ring each party that sent a request and compare its fingerprint with the one above.")
    if made:
        screen.say(
            f"Keys were made HERE for {', '.join(made)}: move these kits over a channel that you trust, and delete "
            "them here. Better: 'blindsight party enrol' at each party, and --request."
        )
    screen.say(
        f"{output / 'authority'} decides who takes part: keep it offline, away from the coordinator. Back it up."
    )
    screen.say(f"Each kit in {output} has a README.txt that says what to do next.")
    screen.result({"output": str(output), "keys_made_here": made, "list": _plain(workshop.current)})


@init_app.command(
    "add",
    short_help="Enrol another party.",
    epilog="Example: blindsight init add bank-d --request bank-d.json --kits kits",
)
@command
def add(
    name: NameArgument,
    kits: KitsOption = Path("kits"),
    contact: Annotated[str | None, typer.Option(help="Whom to ring there.  [default: what its request says]")] = None,
    request: RequestOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make a kit for another party, and the next participant list."""
    from blindsight.federation.kits import Workshop

    asked = _read(request)
    workshop = Workshop(kits)
    listing = workshop.add(name, contact=contact or (asked.contact if asked else "not given"), request=asked)
    _changed(Screen(as_json=json_output), workshop.folder, listing, kit=name)


@init_app.command(
    "rotate",
    short_help="Give a party a new certificate, or new keys.",
    epilog="Example: blindsight init rotate bank-a --request bank-a/request.json --kits kits",
)
@command
def rotate(
    name: Annotated[str, typer.Argument(help="The party's name, 'coordinator', or 'broker'.")],
    kits: KitsOption = Path("kits"),
    request: RequestOption = None,
    identity: Annotated[
        bool, typer.Option("--identity", help="Without --request: make a new Ed25519 identity here as well.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Make new keys or certify those of a request; the old certificate is revoked."""
    from blindsight.errors import ParameterError
    from blindsight.federation.kits import Workshop

    workshop = Workshop(kits)
    if name.lower() == "broker":
        if request is not None or identity:
            raise ParameterError("The broker has a TLS key alone", fix="leave --request and --identity out")
        kit, screen = workshop.rotate_broker(), Screen(as_json=json_output)
        screen.say(f"Wrote {kit}: for whoever runs the broker. Delete it here once they have it.")
        screen.result({"kit": str(kit), "list": _plain(workshop.current)})
        return
    if name.lower() == workshop.plan.coordinator.lower() or name.lower() == "coordinator":
        if request is not None or identity:
            raise ParameterError("The coordinator has a TLS key alone", fix="leave --request and --identity out")
        listing, owner = workshop.rotate_coordinator(), "coordinator"
    else:
        listing, owner = workshop.rotate(name, request=_read(request), identity=identity), name
    _changed(Screen(as_json=json_output), workshop.folder, listing, kit=f"{owner}-{listing.serial}")


@init_app.command(
    "revoke",
    short_help="Take a party off the list.",
    epilog="Example: blindsight init revoke bank-d --kits kits",
)
@command
def revoke(name: NameArgument, kits: KitsOption = Path("kits"), json_output: JsonOption = False) -> None:
    """Sign the next participant list without a party; its key and certificate are never good again."""
    from blindsight.federation.kits import Workshop

    workshop, screen = Workshop(kits), Screen(as_json=json_output)
    listing = workshop.revoke(name)
    _changed(screen, workshop.folder, listing, kit=None)
    if len(listing.parties) < 3:
        screen.say(
            f"Only {len(listing.parties)} parties are left: no sum can run until 'blindsight init add' enrols more."
        )
        raise typer.Exit(FINDING)


@init_app.command(
    "show",
    short_help="Print a participant list.",
    epilog="Example: blindsight init show kits/participants.signed.json",
)
@command
def show(
    file: Annotated[Path, typer.Argument(help="A signed participant list, or a folder with one.")],
    json_output: JsonOption = False,
) -> None:
    """Check a list's signature and print it, with fingerprints for reading aloud."""
    from blindsight.federation.kits import ParticipantList

    listing = ParticipantList.read(file)
    screen = Screen(as_json=json_output)
    _show(screen, listing)
    screen.result(_plain(listing))


def _read(path: Path | None) -> EnrolmentRequest | None:
    from blindsight.federation.kits import EnrolmentRequest

    return None if path is None else EnrolmentRequest.read(path)


def _changed(screen: Screen, folder: Path, listing: ParticipantList, *, kit: str | None) -> None:
    _show(screen, listing)
    if kit is not None:
        screen.say(f"Wrote {folder / kit}: for its owner. Delete it here once they have it.")
    screen.say(
        f"Send {folder / 'participants.signed.json'} to every party and to the coordinator; at a party: "
        "blindsight party accept participants.signed.json"
    )
    if any(address.startswith("mqtts:") for address in listing.coordinator.addresses):
        screen.say(f"Send acl and mosquitto.conf in {folder / 'broker'} to the broker; there: kill -HUP PROCESS-ID")
    screen.result({"kit": None if kit is None else str(folder / kit), "list": _plain(listing)})


def _show(screen: Screen, listing: ParticipantList) -> None:
    screen.say(
        f"Federation '{listing.federation}', list {listing.serial} of {listing.content.date_utc}; its signature holds."
    )
    screen.say(f"Federation key  {listing.fingerprint}")
    screen.say(f"Coordinator     {listing.coordinator.name}, {', '.join(listing.coordinator.addresses)}, certificate "
               f"{listing.coordinator.certificate[:16]}...\n")  # fmt: skip
    screen.table(
        "Parties",
        [("Name", "left"), ("Ed25519 fingerprint", "right"), ("Certificate (SHA-256)", "right"), ("Contact", "left")],
        [(p.name, p.fingerprint, p.certificate[:16] + "...", p.contact) for p in listing.parties],
    )
    if listing.revoked:
        screen.table(
            "No longer good",
            [("Name", "left"), ("What", "left"), ("By list", "right"), ("Date", "left"), ("Certificate", "right")],
            [(r.name, r.reason, r.serial, r.date_utc, r.certificate[:16] + "...") for r in listing.revoked],
        )


def _plain(listing: ParticipantList) -> dict[str, Any]:
    import msgspec

    value: dict[str, Any] = msgspec.to_builtins(listing.content)
    return {**value, "fingerprint": listing.fingerprint,
            "fingerprints": {party.name: party.fingerprint for party in listing.parties}}  # fmt: skip
