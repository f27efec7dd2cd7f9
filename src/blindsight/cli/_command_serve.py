"""``blindsight serve``: the service, its tokens and its models."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from ._exits import command, safe_after
from ._options import AllowOption, JsonOption, KeyFileOption, SchemeOption, scheme_of
from ._screen import Screen

if TYPE_CHECKING:
    from blindsight.store import Store

__all__ = ["serve_app"]

HomeOption = Annotated[Path, typer.Option("--home", help="Folder of the service: store, key file, certificate.")]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="BLINDSIGHT_DATABASE",
        help="postgresql://user@host/database, for several machines.  [default: HOME/service.db]",
    ),
]
DAY = 86400.0


class _RunByDefault(TyperGroup):
    """``serve MODEL`` means ``serve run MODEL``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


serve_app = typer.Typer(
    cls=_RunByDefault,
    help="Score sealed records for strangers, over HTTPS. The model never leaves, and no record is seen.",
    epilog="Example: blindsight serve fraud.blindsight --home service --bits-per-account 200000",
    no_args_is_help=True,
    rich_markup_mode=None,
)
token_app = typer.Typer(help="Make, list and revoke what clients prove themselves with.", no_args_is_help=True)
serve_app.add_typer(token_app, name="token", short_help="Tokens and client certificates.")


@contextmanager
def _store(
    home: Path, database: str | None, key_file: Path | None, allowed: Sequence[str] = ()
) -> Iterator[tuple[Store, Any]]:
    from blindsight.service import Settings, open_service_store

    settings = Settings(
        home=str(home),
        database=database,
        key_file=None if key_file is None else str(key_file),
        allowed=tuple(allowed),
    )
    with open_service_store(settings) as store:
        yield store, settings


@serve_app.command(
    "run",
    short_help="Publish models and run the service.",
    epilog="Example: blindsight serve run fraud.blindsight --home service --host 0.0.0.0 --certificate tls.pem "
    "--private-key tls.key",
)
@command
@safe_after("Requests in flight were finished. What was charged stays charged, and is in the store.")
def run(
    models: Annotated[
        list[Path] | None, typer.Argument(help="Model files; served under their names. None: what was published.")
    ] = None,
    home: HomeOption = Path("service"),
    database: DatabaseOption = None,
    key_file: KeyFileOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0: any free one.", min=0, max=65535)] = 8443,
    workers: Annotated[int, typer.Option(help="Processes; one that dies is replaced.", min=1, max=256)] = 2,
    threads: Annotated[int, typer.Option(help="Requests that one process computes at a time.", min=1, max=256)] = 1,
    device: Annotated[
        str | None,
        typer.Option(help="Where torch multiplies residues of columns: cuda, cuda:1, cpu.  [default: NumPy]"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the one model given.  [default: its file's]")] = None,
    packing: Annotated[str, typer.Option(help="rows (few records) or columns (thousands).")] = "rows",
    scheme: SchemeOption = None,
    verdict: Annotated[
        bool, typer.Option("--verdict", help="Owners learn whether a score exceeds the threshold, and not the score.")
    ] = False,
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="With --verdict: in place of the model's own. Again, increasing, for bands: up to 15."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="The service's certificate and chain, PEM.  [default: a self-signed one]")
    ] = None,
    private_key: Annotated[Path | None, typer.Option("--private-key", help="Its private key, PEM.")] = None,
    client_authority: Annotated[
        Path | None, typer.Option("--client-authority", help="PEM of those who may sign clients' certificates.")
    ] = None,
    bits_per_account: Annotated[
        int | None, typer.Option("--bits-per-account", help="Bits of answers for each account and model.")
    ] = None,
    bits_total: Annotated[int | None, typer.Option("--bits-total", help="Bits of answers over all accounts.")] = None,
    rows_per_account: Annotated[
        int | None, typer.Option("--rows-per-account", help="Records for each account and model.")
    ] = None,
    rows_total: Annotated[int | None, typer.Option("--rows-total", help="Records over all accounts.")] = None,
    explanations: Annotated[
        bool,
        typer.Option(
            "--explanations", help="Contributions of features may be asked for, at their price in bits; of tables."
        ),
    ] = False,
    body_mib: Annotated[int, typer.Option("--body-mib", help="Longest request, in MiB.", min=1, max=256)] = 64,
    link_host: Annotated[
        str | None, typer.Option("--link-host", help="Address that comparison links listen on.  [default: --host]")
    ] = None,
    link_name: Annotated[
        str | None, typer.Option("--link-name", help="Host under which owners reach it.  [default: the service's]")
    ] = None,
    link_ports: Annotated[
        str | None, typer.Option("--link-ports", help="Ports of comparison links, as 9000-9007.  [default: free ones]")
    ] = None,
    link_peer: Annotated[
        list[str] | None,
        typer.Option(
            "--link-peer", help="Network that owners' links may be in; again for more.  [default: the asking address]"
        ),
    ] = None,
    links: Annotated[
        int, typer.Option("--links", help="Comparison links at a time; each takes up to a gigabyte.", min=1, max=256)
    ] = 4,
    links_per_account: Annotated[int, typer.Option("--links-per-account", help="Of one account.", min=1, max=256)] = 2,
    insecure_loopback: Annotated[
        bool, typer.Option("--insecure-loopback", help="Plain HTTP, on 127.0.0.1 only; for tests behind a proxy.")
    ] = False,
    allow: AllowOption = None,
    json_output: JsonOption = False,
) -> None:
    """Publish models and answer sealed records until SIGTERM; then finish what is in flight."""
    from blindsight.errors import ParameterError
    from blindsight.service import Address, Models, Settings, Tls, check_installed, open_service_store, serve

    check_installed()
    screen = Screen(as_json=json_output)
    given = models or []
    if name is not None and len(given) != 1:
        raise ParameterError("--name goes with one model", got=f"{len(given)} models")
    if packing not in ("rows", "columns"):
        raise ParameterError("--packing is unknown", got=repr(packing)[:80], rule="rows or columns")
    if (certificate is None) != (private_key is None):
        raise ParameterError("--certificate and --private-key go together", fix="give both, or neither")
    if threshold and not verdict:
        raise ParameterError("--threshold goes with --verdict", fix="give both: scores come with the model's threshold")
    if insecure_loopback and (certificate is not None or client_authority is not None):
        raise ParameterError("--insecure-loopback excludes certificates", fix="leave one of them out")
    pack: Literal["rows", "columns"] = "rows" if packing == "rows" else "columns"
    sealed_under = scheme_of(scheme)
    settings = Settings(
        home=str(home), database=database, device=device, key_file=None if key_file is None else str(key_file),
        bits_per_account=bits_per_account, bits_total=bits_total, rows_per_account=rows_per_account,
        rows_total=rows_total, body_bytes=body_mib << 20, threads=threads, insecure=insecure_loopback,
        explanations=explanations, link_host=_address(link_host or host), link_name=link_name,
        link_ports=_ports(link_ports), link_peers=tuple(link_peer or ()), links=links,
        links_per_account=links_per_account, allowed=tuple(allow or ()),
    )  # fmt: skip
    thresholds = tuple(threshold or ()) if verdict else None
    with open_service_store(settings) as store:
        published = Models(store, settings)
        for path in given:
            as_name = name or path.stem.lower()
            version = published.publish(
                as_name,
                _model_file(path, key_file, settings.allowed),
                packing=pack,
                thresholds=thresholds,
                scheme=sealed_under,
            )
            what = "" if thresholds is None else ", for verdicts"
            if explanations and not published.facts(published.current(as_name)).explained_rows_per_message:
                what += ", without contributions: these are of one-hot encodings, in rows, where scores are revealed"
            screen.say(f"Published {path.name} as {as_name}, version {version.id}{what}.")
        names = published.names()
        for known in names:  # what no worker could load, say here: they would die of it, one after the other
            published.current(known)
    if not names:
        raise ParameterError("There is no model to serve", fix="blindsight serve MODEL --home ...")
    tls = None
    if not insecure_loopback:
        tls = Tls(
            certificate=certificate or home / "tls.pem",
            private_key=private_key or home / "tls.key",
            client_authority=client_authority,
        )
        _ensure_certificate(tls.certificate, tls.private_key, given=certificate is not None, host=host, screen=screen)

    def ready(url: str) -> None:
        screen.say(f"Serving {', '.join(names)} at {url} with {workers} processes. Not yet audited.")
        screen.result({"url": url, "models": names, "certificate": None if tls is None else str(tls.certificate)})

    serve(settings, Address(host=host, port=port), tls, workers=workers, ready=ready)


def _address(host: str) -> str:
    """An IP address of this machine, of its name."""
    import socket

    from blindsight.errors import ParameterError

    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise ParameterError(
            "The address to listen on is not known", got=host[:80], fix="give an IP address"
        ) from error


def _ports(text: str | None) -> tuple[int, int] | None:
    from blindsight.errors import ParameterError

    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isascii() and first.isdigit() and (last or first).isascii() and (last or first).isdigit()):
        raise ParameterError("--link-ports cannot be read", got=text[:80], rule="first-last, as 9000-9007")
    return int(first), int(last or first)


def _ensure_certificate(certificate: Path, private_key: Path, *, given: bool, host: str, screen: Screen) -> None:
    import socket

    from blindsight.service import make_certificate

    if given or (certificate.exists() and private_key.exists()):
        return
    own = [socket.gethostname()] if host in ("0.0.0.0", "::") else [host]  # noqa: S104 - compared, not bound
    make_certificate(certificate, private_key, list(dict.fromkeys([*own, "localhost", "127.0.0.1"])))
    screen.say(f"Made a self-signed certificate: give {certificate} to clients as --authority.")


def _model_file(path: Path, key_file: Path | None, allowed: Sequence[str]) -> bytes:
    """The model's bytes, opened if they are sealed: the store seals them again."""
    from blindsight import modelfile
    from blindsight.errors import DataError
    from blindsight.keys import is_sealed

    from ._options import sealer_of

    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError("The model file cannot be read", got=f"{path}: {error.strerror}") from error
    if is_sealed(data):
        return modelfile.dumps(modelfile.load(path, sealer=sealer_of(key_file), allowed=frozenset(allowed)))
    return data


@serve_app.command("models", epilog="Example: blindsight serve models --home service")
@command
def models_(
    home: HomeOption = Path("service"),
    database: DatabaseOption = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """List published models and their versions."""
    from blindsight.service import Models

    screen = Screen(as_json=json_output)
    rows: list[Sequence[object]] = []
    with _store(home, database, key_file) as (store, settings):
        published = Models(store, settings)
        for name in published.names():
            versions, current, shadow = published.history(name)
            for version in versions:
                role = "current" if version.id == current else "shadow" if version.id == shadow else ""
                reveals = "scores" if version.thresholds is None else "verdicts"
                rows.append((name, version.id, version.packing, reveals, _day(version.published), role, version.scheme))
    head = [(text, "left") for text in ("Model", "Version", "Packing", "Reveals", "Published", "")]
    shown = [(n, v, p if s is None else f"{p}, {s}", *rest) for n, v, p, *rest, s in rows]
    screen.table("Models", head, shown)
    names = ("model", "version", "packing", "reveals", "published", "role", "scheme")
    screen.result([dict(zip(names, row, strict=True)) for row in rows])


@serve_app.command("rollback", epilog="Example: blindsight serve rollback fraud --home service")
@command
def rollback(
    name: Annotated[str, typer.Argument(help="Name of a published model.")],
    version: Annotated[str | None, typer.Option(help="Version to serve.  [default: the one before]")] = None,
    home: HomeOption = Path("service"),
    database: DatabaseOption = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Serve an earlier version again; running workers follow at the next request."""
    from blindsight.service import Models

    screen = Screen(as_json=json_output)
    with _store(home, database, key_file) as (store, settings):
        current = Models(store, settings).roll_back(name, version)
    screen.say(f"{name} is version {current.id} again.")
    screen.result({"model": name, "version": current.id})


@serve_app.command("shadow", epilog="Example: blindsight serve shadow fraud candidate.blindsight --home service")
@command
def shadow(
    name: Annotated[str, typer.Argument(help="Name of a published model.")],
    model: Annotated[Path | None, typer.Argument(help="Second model.  [default: none any more]")] = None,
    home: HomeOption = Path("service"),
    database: DatabaseOption = None,
    key_file: KeyFileOption = None,
    allow: AllowOption = None,
    json_output: JsonOption = False,
) -> None:
    """Compute a second model on every request as well; its answers go nowhere, its cost is logged."""
    from blindsight.service import Models

    screen = Screen(as_json=json_output)
    with _store(home, database, key_file, allow or ()) as (store, settings):
        file = None if model is None else _model_file(model, key_file, settings.allowed)
        version = Models(store, settings).set_shadow(name, file)
    screen.say(f"Beside {name} now runs {'nothing' if version is None else f'version {version.id}'}.")
    screen.result({"model": name, "shadow": None if version is None else version.id})


@token_app.command("create", epilog="Example: blindsight serve token create bank-a --scope score --scope register")
@command
def token_create(
    account: Annotated[str, typer.Argument(help="Whom its use is charged to.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="score, register, metrics, admin.  [default: score and register]")
    ] = None,
    days: Annotated[float, typer.Option(help="Life in days.")] = 90.0,
    certificate: Annotated[
        Path | None, typer.Option(help="Allow this client certificate (PEM) instead of making a token.")
    ] = None,
    home: HomeOption = Path("service"),
    database: DatabaseOption = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make a token, shown once; the store keeps its hash alone. Or allow a client's certificate."""
    from blindsight.service import Credentials

    screen, scopes, token = Screen(as_json=json_output), scope or ["score", "register"], None
    with _store(home, database, key_file) as (store, _):
        credentials = Credentials(store)
        if certificate is None:
            made, token = credentials.create_token(account, scopes, seconds=days * DAY)
        else:
            made = credentials.allow_certificate(_der(certificate), account, scopes, seconds=days * DAY)
    if token is not None:
        screen.say(token)
    screen.say(f"{made.kind} {made.id} of {made.account}: {', '.join(made.scopes)}, until {_day(made.expires)}.")
    screen.result(_shown(made) | ({} if token is None else {"token": token}))


@token_app.command("list", epilog="Example: blindsight serve token list --home service")
@command
def token_list(
    home: HomeOption = Path("service"),
    database: DatabaseOption = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """List tokens and certificates, never what it takes to use them."""
    from blindsight.service import Credentials

    screen = Screen(as_json=json_output)
    with _store(home, database, key_file) as (store, _):
        shown = [_shown(credential) for credential in Credentials(store).all()]
    head = [(text, "left") for text in ("Id", "Account", "Kind", "Scopes", "Until", "State")]
    rows = [(s["id"], s["account"], s["kind"], " ".join(s["scopes"]), s["until"], s["state"]) for s in shown]
    screen.table("Credentials", head, rows)
    screen.result(shown)


@token_app.command("revoke", epilog="Example: blindsight serve token revoke 0123456789abcdef --home service")
@command
def token_revoke(
    credential: Annotated[str, typer.Argument(help="Id of a token or certificate, as list shows it.")],
    home: HomeOption = Path("service"),
    database: DatabaseOption = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make a token or certificate useless, in every worker at once."""
    from blindsight.service import Credentials

    screen = Screen(as_json=json_output)
    with _store(home, database, key_file) as (store, _):
        revoked = Credentials(store).revoke(credential)
    screen.say(f"Revoked {revoked.kind} {revoked.id} of {revoked.account}.")
    screen.result(_shown(revoked))


def _shown(credential: Any) -> dict[str, Any]:
    now = time.time()
    state = "revoked" if credential.revoked else "valid" if credential.is_valid(now) else "expired"
    return {
        "id": credential.id, "account": credential.account, "kind": credential.kind,
        "scopes": list(credential.scopes), "until": _day(credential.expires), "state": state,
    }  # fmt: skip


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _der(path: Path) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from blindsight.errors import DataError

    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    except (OSError, ValueError) as error:
        raise DataError("The certificate cannot be read", got=os.fspath(path), rule="one certificate, PEM") from error
