"""``blindsight party serve``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ._exits import command
from ._options import JsonOption, KeyFileOption

__all__ = ["party_serve"]


@command
def party_serve(
    folder: Annotated[Path, typer.Argument(help="The party's own folder.")],
    url: Annotated[
        str | None, typer.Option("--url", help="Which of the coordinator's addresses to dial.  [default: the first]")
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(
            help="Over Flower: the socket for its courier, of mode 0660.  [default: flower.sock in the folder]"
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port", help="Serve Prometheus metrics on 127.0.0.1:PORT while it runs.", min=0, max=65535
        ),
    ] = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Dial the coordinator and answer what policy, budget and approvals let through, until SIGTERM or Ctrl-C.

    No port is open to other machines; over Flower a socket in the folder is. Standard error has one line an event,
    without a value of any record; party.log has everything.
    """
    from blindsight.channels import Contact, serve
    from blindsight.errors import ParameterError
    from blindsight.federation import alone_in, log_to, open_site

    from ._events import events_to_stderr
    from ._parties import check_party_folder
    from ._party_metrics import PartyMetrics

    check_party_folder(folder, fix="blindsight party join KIT")
    with alone_in(folder), contextlib.ExitStack() as until_the_end:
        log_to(folder / "party.log")
        log = events_to_stderr(folder.resolve().name, as_json=json_output)
        site = open_site(folder, key_file=key_file)
        if url is not None and url not in site.addresses:
            raise ParameterError(
                "The coordinator has no such address here",
                got=url[:200],
                rule=", ".join(site.addresses),
                fix="write it into party.toml: coordinator = [...]",
            )
        address = url or site.addresses[0]
        flower = address.startswith("flower:")
        if socket is not None and not flower:
            raise ParameterError("--socket is for addresses flower://... alone", got=address)
        if flower:
            log.info("%s answers '%s' over Flower at %s", site.party.name, site.coordinator.name, address)
        else:
            log.info("%s dials %s for '%s'", site.party.name, address, site.coordinator.name)
        contact = Contact()
        handler: Callable[[bytes], bytes] = site.handler
        if metrics_port is not None:
            metrics = until_the_end.enter_context(PartyMetrics(site, contact, metrics_port))
            handler = metrics.handler
            log.info("Metrics: http://127.0.0.1:%d/metrics", metrics.port)
        more = {} if socket is None else {"socket": socket}
        serve(handler, address, contact=contact, **site.options, **more)
        log.info("%s has ended", site.party.name)
