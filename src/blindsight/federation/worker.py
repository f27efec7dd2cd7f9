"""A party in a process of its own: ``python -m blindsight.federation.worker FOLDER [--key-file FILE]``.

Answers frames on standard output to frames on standard input; with ``--url`` it dials its coordinator instead, and
needs ``--certificate``, ``--private-key`` and ``--authority``, over MQTT and Flower ``--coordinator`` too; over Flower
``--socket`` says where the courier comes. What it has to say about its records goes to ``party.log`` in its folder
(mode 0600) and nowhere else: its standard error may be the coordinator's terminal. It is given its own folder and
nothing else.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

from blindsight.channels import serve, serve_frames
from blindsight.errors import BlindsightError

from ._alone import alone_in
from ._home import open_party
from ._party_log import log_to

__all__ = ["main"]

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Serve one party until the input ends; 0 when it did, 2 when the folder cannot be used."""
    parser = argparse.ArgumentParser(prog="blindsight-party", description="Serve one party.")
    parser.add_argument("folder")
    parser.add_argument("--key-file")
    parser.add_argument("--url")
    parser.add_argument("--coordinator", help="SHA-256 of its certificate; required where --url is mqtts://")
    tls = ("certificate", "private_key", "authority")
    for name in tls:
        parser.add_argument(f"--{name.replace('_', '-')}")
    parser.add_argument("--socket")
    options = parser.parse_args(arguments)
    if options.url is not None and not all(getattr(options, name) for name in tls):
        parser.error("--url needs --certificate, --private-key and --authority")
    if options.url is None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; the coordinator ends us
    try:
        log_to(Path(options.folder) / "party.log")
        party = open_party(options.folder, key_file=options.key_file)
    except (BlindsightError, OSError) as error:
        log.error("%s cannot start: %s", options.folder, error)
        what = error.what if isinstance(error, BlindsightError) else error
        # before any record is read: names of files and keys, no value
        sys.stderr.write(f"{Path(options.folder).name} cannot start: {what}\n")
        return 2
    if options.url is not None:
        files = {name: getattr(options, name) for name in tls}
        if options.socket is not None:
            files["socket"] = options.socket
        try:
            with alone_in(options.folder):
                serve(party.handle, options.url, name=party.name, coordinator=options.coordinator, **files)
        except BlindsightError as error:
            log.error("%s cannot start: %s", options.folder, error)
            sys.stderr.write(f"{party.name} cannot start: {error}\n")
            return 2
        return 0
    try:
        serve_frames(party.handle, sys.stdin.buffer, sys.stdout.buffer)
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
