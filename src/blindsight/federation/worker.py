"""A party in a process of its own: ``python -m blindsight.federation.worker FOLDER [--key-file FILE]``.

Answers frames on standard output to frames on standard input; everything it has to say to people goes to standard
error. It is given its own folder and nothing else.
"""

from __future__ import annotations

import argparse
import logging
import sys

from blindsight.channels import serve_frames
from blindsight.errors import BlindsightError

from ._home import open_party

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Serve one party until the input ends; 0 when it did, 2 when the folder cannot be used."""
    parser = argparse.ArgumentParser(prog="blindsight-party", description="Serve one party over standard streams.")
    parser.add_argument("folder")
    parser.add_argument("--key-file")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        party = open_party(options.folder, key_file=options.key_file)
    except BlindsightError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        serve_frames(party.handle, sys.stdin.buffer, sys.stdout.buffer)
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
