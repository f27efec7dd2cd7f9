"""The app that runs inside Flower, as files: Flower is given a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from blindsight.errors import StoreError

from ._tls import Pathlike

__all__ = ["write_flower_app"]

APP = Path(__file__).parent / "_flower_app"


def write_flower_app(folder: Pathlike) -> Path:
    """Write the app into a new folder, for ``flwr run FOLDER``.

    It carries parcels between the sockets of coordinator and parties. It needs ``flwr`` and nothing of Blindsight:
    the two do not fit into one environment.

    Parameters
    ----------
    folder : path-like

    Raises
    ------
    StoreError
        The folder exists, or cannot be written.
    """
    target = Path(folder)
    try:
        shutil.copytree(APP, target, ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:
        raise StoreError(
            "The app for Flower could not be written", got=f"{target.name}: {error.strerror or error}"[:200],
            rule="a folder that does not exist yet", fix="choose another name",
        ) from error  # fmt: skip
    return target
