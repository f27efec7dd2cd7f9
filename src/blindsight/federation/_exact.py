"""What a party remembers of exact totals, so that no two of them can be combined into one party's data.

Exact totals are linear: whoever holds several over different sets of parties, or over different states of one party's
data, can solve for single parties. Rules that allow "different enough" sets do not help (three totals over sets that
pairwise differ by four parties still determine one of them), so there is one rule: all exact totals of a party's data
are over the same survivors and the same data.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated

import msgspec

from blindsight.data import Schema, Without, records
from blindsight.errors import ReleaseError
from blindsight.store import Store

__all__ = ["ExactTotals", "version_of"]

Texts = Annotated[list[str], msgspec.Meta(max_length=1024)]


class _Total(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An exact total that this party contributed to; survivors are empty until it has signed them."""

    release_id: str
    dataset: str
    version: str
    survivors: Texts


_decoder = msgspec.msgpack.Decoder(list[_Total])


class ExactTotals:
    """The exact totals of one party, in its store.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        self._table = store.table("exact")

    def check_version(self, dataset: str, version: str) -> None:
        """Refuse another exact total if the data changed since an earlier one.

        Before anything is charged or masked: only this party knows that its data changed, and once its masked vector
        is out, the others can open the total without it.
        """
        for total in self._read():
            if total.dataset == dataset and total.version != version:
                raise ReleaseError(
                    "The records changed since an earlier exact total",
                    got=f"earlier release {total.release_id}",
                    rule="the difference of two exact totals is the data of those who differ: here, one party",
                    fix="ask for differential privacy",
                )

    def version(self, release_id: str) -> str | None:
        """The state of the data under which a release was contributed to; None where it was not."""
        return next((total.version for total in self._read() if total.release_id == release_id), None)

    def end(self) -> None:
        """Refuse every exact total from now on: earlier ones may have been forgotten with a newer copy of the store."""
        for dataset in ("training", "evaluation"):
            self.contribute(f"lost with a newer copy of the store ({dataset})", dataset, "lost")

    def contribute(self, release_id: str, dataset: str, version: str) -> None:
        """Remember that a vector leaves for this release; commit it together with the vector."""
        totals = self._read()
        if all(total.release_id != release_id for total in totals):
            self._write([*totals, _Total(release_id, dataset, version, [])])

    def sign(self, release_id: str, survivors: tuple[str, ...]) -> None:
        """Refuse to sign a survivor set other than that of every earlier exact total; else remember it.

        Two totals over different sets need t signatures each, hence at least 2t - n parties that signed both: an
        honest one among them refuses the second.
        """
        totals = self._read()
        for total in totals:
            if total.survivors and total.survivors != sorted(survivors):
                differing = sorted(set(total.survivors) ^ set(survivors))
                raise ReleaseError(
                    "This exact total is over other parties than an earlier one",
                    got=f"{', '.join(differing)} differ; earlier release {total.release_id}",
                    rule="exact totals over different sets of parties can be solved for single parties",
                    fix="run again when the same parties take part, or ask for differential privacy",
                )
        self._write(
            [
                msgspec.structs.replace(total, survivors=sorted(survivors)) if total.release_id == release_id else total
                for total in totals
            ]
        )

    def _read(self) -> list[_Total]:
        stored = self._table.get("totals")
        return _decoder.decode(stored) if stored else []

    def _write(self, totals: list[_Total]) -> None:
        self._table.put("totals", msgspec.msgpack.encode(totals))


def version_of(source: object, schema: Schema) -> str:
    """Name a state of the data: a file by path, size and modification time, anything else by its content.

    Where persons are left out, ``+`` and what names them follow.
    """
    if isinstance(source, Without):
        return f"{version_of(source.source, schema)}+{source.keep}"
    state = hashlib.sha256()
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            status = path.stat()
        except OSError:
            return "missing"
        state.update(f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}".encode())
        return state.hexdigest()
    for chunk in records(schema, source, warn=False):
        for array in (chunk.X, chunk.person, chunk.label):
            if array is not None:
                plain = array.astype(str) if array.dtype.kind == "O" else array
                state.update(f"{plain.dtype.str}{plain.shape}".encode() + plain.tobytes())
    return state.hexdigest()
