"""The samples as files, one folder per federation and one CSV per party."""

from __future__ import annotations

import os
from pathlib import Path

from ._cards import simulate_card_payments
from ._hospitals import load_hospitals

__all__ = ["write_sample"]

_REMARKS = {
    "hospitals": "Real records: Wisconsin diagnostic breast cancer (CC BY 4.0); hospitals divided by us.",
    "simulated-card-payments": "SIMULATED: invented payments and persons; nothing here describes anybody.",
}


def write_sample(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Write both samples as files.

    Parameters
    ----------
    folder : path
        Created if need be; gets ``hospitals/`` and ``simulated-card-payments/``, each with one CSV file per
        party, ``schema.toml`` and a ``README.txt`` that says what the records are.

    Returns
    -------
    dict of str to Path
        Folder of each sample.
    """
    folders = {}
    for name, (tables, schema) in {
        "hospitals": load_hospitals(),
        "simulated-card-payments": simulate_card_payments(),
    }.items():
        folders[name] = Path(folder) / name
        folders[name].mkdir(parents=True, exist_ok=True)
        for party, table in tables.items():
            table.write_csv(folders[name] / f"{party}.csv")
        schema.write(folders[name] / "schema.toml")
        (folders[name] / "README.txt").write_text(_REMARKS[name] + "\n", encoding="utf-8")
    return folders
