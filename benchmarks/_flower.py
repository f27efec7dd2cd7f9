"""Where Flower is: it has an environment of its own, since it needs older versions of what we use."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def flower_python() -> Path | None:
    """The interpreter that can import ``flwr``: of ``BLINDSIGHT_FLOWER`` (a ``bin`` folder), or as ``make`` puts it."""
    folder = Path(os.environ.get("BLINDSIGHT_FLOWER") or Path(sys.prefix) / "flower" / "bin")
    python = folder / "python"
    return python if python.is_file() else None
