"""``blindsight mpc-node``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._exits import command, safe_after
from ._options import JsonOption
from ._screen import Screen

__all__ = ["mpc_node_certificate", "mpc_node_check", "mpc_node_serve"]

ConfigOption = Annotated[Path, typer.Option("--config", help="The node's configuration, a TOML file.")]


@command
@safe_after("Runs that were under way are void; nothing of them was opened. Counts of released bits are kept.")
def mpc_node_serve(config: ConfigOption, json_output: JsonOption = False) -> None:  # noqa: ARG001 - as every command
    """Run one operator of a secure computation until it is told to stop; logs one JSON object a line to stderr."""
    from blindsight.blind.mpc import NodeConfig
    from blindsight.blind.mpc._http import serve_node

    serve_node(NodeConfig.read(config))


@command
def mpc_node_check(config: ConfigOption, json_output: JsonOption = False) -> None:
    """Read a configuration and say what it amounts to; starts nothing."""
    from blindsight.blind.mpc import NodeConfig

    screen = Screen(as_json=json_output)
    node = NodeConfig.read(config)
    owners = sum(client.role == "owner" for client in node.clients)
    screen.say(f"Operator {node.rank} of {len(node.operators)}, {node.protocol.upper()}, at {node.me.address}.")
    screen.say(f"{owners} owners and {len(node.clients) - owners} holders may connect.")
    screen.result({"rank": node.rank, "operators": len(node.operators), "protocol": node.protocol, "owners": owners})


@command
def mpc_node_certificate(
    name: Annotated[str, typer.Argument(help="Of the operator, owner or holder.")],
    output: Annotated[Path, typer.Option(help="Folder for NAME.crt and NAME.key; made if absent.")] = Path(),
    days: Annotated[int, typer.Option(help="How long it is valid, at most 825.")] = 825,
    json_output: JsonOption = False,
) -> None:
    """Make a key and its self-signed certificate; give the certificate, never the key, to the others."""
    from blindsight.blind.mpc import make_certificate
    from blindsight.errors import StoreError

    screen = Screen(as_json=json_output)
    try:
        output.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError("The folder for the key cannot be made", got=f"{output}: {error.strerror}") from error
    certificate, key = make_certificate(name, output, days=days)
    screen.say(f"Wrote {certificate}, to be given to the others, and {key}, which stays here.")
    screen.result({"certificate": str(certificate), "private_key": str(key)})
