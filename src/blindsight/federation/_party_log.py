"""Where a party's process says what it has to say of its records: ``party.log``, which only their owner reads."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

from blindsight.errors import BlindsightWarning

__all__ = ["log_to"]

log = logging.getLogger(__name__)


def log_to(path: Path) -> None:
    """Send log and warnings, which may name rows and values, to a file that only the owner reads."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    logging.basicConfig(
        filename=path, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    # whatever the environment asks for (PYTHONWARNINGS=error): a warning about records is a line in the log, and no
    # reason for which a party is lost to a sum
    warnings.simplefilter("default")
    warnings.showwarning = _log_warning


def _log_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    """One line; where in our code a remark on records was made tells their owner nothing."""
    where = "" if issubclass(category, BlindsightWarning) else f"{filename}:{lineno}: "
    log.warning("%s%s: %s", where, category.__name__, message)
