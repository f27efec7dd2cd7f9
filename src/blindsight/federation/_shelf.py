"""Models that were delivered to a party: files that are never half there, an index, and which one is in use."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from blindsight import modelfile
from blindsight.detectors import Detector
from blindsight.errors import FormatError, ParameterError, ReleaseError, StoreError
from blindsight.keys import Sealer, write_atomic

__all__ = ["CURRENT_FILE", "MODELS_FOLDER", "KeptModel", "ModelShelf", "Took"]

MODELS_FOLDER = "models"
INDEX_FILE = "index.json"
CURRENT_FILE = "current.blindsight"
LOCK_FILE = ".lock"
MAX_INDEX_BYTES = 1 << 26
MAX_KEPT = 1000
_NAME = re.compile(r"v[0-9]{6,9}\.blindsight")

Took = Literal["survivor", "known"]
"""Whether the party's records are in the model's totals, or it only knows of the run."""
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class KeptModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One delivered model.

    Attributes
    ----------
    version : int
        Counted from 1 at this party; never given twice.
    run, detector : str
    sha256 : str
        Of the model file as it came.
    content : str
        SHA-256 of the model without the time at which it was made: a coordinator that was killed makes it again.
    received_utc, asker : str
    took : {"survivor", "known"}
    origin : int or None
        The version that this one was made of here, by subtracting persons who are forgotten.
    without : tuple of str
        Marks of these persons; see ``Forgotten``.
    """

    version: Annotated[int, msgspec.Meta(ge=1, lt=10**9)]
    run: str
    detector: str
    sha256: Digest
    content: Digest
    received_utc: str
    asker: str
    took: Took
    origin: int | None = None
    without: Annotated[tuple[str, ...], msgspec.Meta(max_length=1_000_000)] = ()

    @property
    def file(self) -> str:
        """Its name in the folder."""
        return f"v{self.version:06d}.blindsight"


class _Index(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: Literal["blindsight-models"] = "blindsight-models"
    next: Annotated[int, msgspec.Meta(ge=1, le=10**9)] = 1
    current: int | None = None
    models: Annotated[tuple[KeptModel, ...], msgspec.Meta(max_length=MAX_KEPT)] = ()


class ModelShelf:
    """The folder ``models`` of a party; several processes may share it.

    Parameters
    ----------
    folder : Path
        Made, mode 0700, with the first model.
    sealer : Sealer, optional
        Seals the files as ``Detector.save`` does.

    Notes
    -----
    ``index.json`` alone says what is there and what is current; it is replaced in one step, after the file that it
    names is on disk. ``current.blindsight`` is a link for whoever scores with the model; a process that was killed
    between the two leaves it one step behind until the folder is next opened for writing. Files that no index names
    are taken away then.
    """

    def __init__(self, folder: Path, sealer: Sealer | None = None) -> None:
        self.folder, self._sealer = folder, sealer

    @property
    def models(self) -> tuple[KeptModel, ...]:
        """What is kept, the oldest first."""
        return self._read().models

    @property
    def current(self) -> KeptModel | None:
        """The model in use; None where there is none."""
        index = self._read()
        return next((model for model in index.models if model.version == index.current), None)

    def path(self, model: KeptModel) -> Path:
        """Where its file is."""
        return self.folder / model.file

    def find(self, run: str, content: str) -> KeptModel | None:
        """What is kept of a run, if that is this very model.

        Raises
        ------
        ReleaseError
            Another model of the run is kept: a run has one.
        """
        kept = next((model for model in self.models if model.run == run), None)
        if kept is not None and kept.content != content:
            raise ReleaseError(
                f"Another model of run {run} is kept here already",
                got=f"content {content[:16]}...",
                rule=f"a run has one model; version {kept.version} has content {kept.content[:16]}...",
                fix="deliver the model as the run made it, or make a new run",
            )
        return kept

    def keep(
        self, data: bytes, *, run: str, detector: str, sha256: str, content: str, received_utc: str, asker: str,
        took: Took, most: int,
    ) -> KeptModel:  # fmt: skip
        """Keep a model file that was checked, and make it the current one; on disk when this returns.

        Parameters
        ----------
        data : bytes
            The model file.
        most : int
            How many models stay; the oldest ones give way, and never the current one.

        Returns
        -------
        KeptModel
            The one that is there already where this very model is.

        Raises
        ------
        ReleaseError
            As :meth:`find`.
        StoreError
            It could not be written; what was kept before is as it was.
        """
        with self._writing() as index:
            kept = self.find(run, content)
            if kept is not None:
                return kept
            kept = KeptModel(
                version=index.next, run=run, detector=detector, sha256=sha256, content=content,
                received_utc=received_utc, asker=asker, took=took,
            )  # fmt: skip
            models = (*index.models, kept)[-max(1, min(most, MAX_KEPT)) :]
            self._write(_Index(next=index.next + 1, current=kept.version, models=models), kept, data)
        return kept

    def replace(self, model: KeptModel, data: bytes, *, sha256: str, content: str, without: Sequence[str]) -> KeptModel:
        """Put what was made of a kept model in its place, under a version of its own; the old file is taken away.

        Raises
        ------
        ParameterError
            It is not kept any more.
        StoreError
            It could not be written; what was kept before is as it was.
        """
        with self._writing() as index:
            if model not in index.models:
                raise ParameterError("The model is not kept any more", got=f"version {model.version}")
            made = msgspec.structs.replace(
                model,
                version=index.next,
                sha256=sha256,
                content=content,
                origin=model.version,
                without=tuple(sorted({*model.without, *without})),
            )
            current = made.version if index.current == model.version else index.current
            models = tuple(one for one in (*index.models, made) if one != model)
            self._write(_Index(next=index.next + 1, current=current, models=models), made, data)
        return made

    def use(self, version: int) -> KeptModel:
        """Make a kept version the current one.

        Raises
        ------
        ParameterError
            It is not kept.
        """
        with self._writing() as index:
            found = next((model for model in index.models if model.version == version), None)
            if found is None:
                kept = ", ".join(str(model.version) for model in index.models) or "none"
                raise ParameterError("There is no such version here", got=str(version), rule=f"kept: {kept}")
            self._write(msgspec.structs.replace(index, current=version))
        return found

    def rollback(self) -> KeptModel:
        """Make the newest version that is older than the current one the current one.

        Raises
        ------
        ParameterError
            There is none.
        """
        with self._writing() as index:
            older = [model for model in index.models if index.current is not None and model.version < index.current]
            if not older:
                raise ParameterError("There is no older version to go back to", fix="blindsight party models list")
            self._write(msgspec.structs.replace(index, current=older[-1].version))
        return older[-1]

    def load(self, model: KeptModel, *, allowed: frozenset[str] | None = None) -> Detector:
        """Read a kept model; errors as ``blindsight.load``."""
        return modelfile.load(self.path(model), sealer=self._sealer, allowed=allowed)

    # -- inside

    @contextlib.contextmanager
    def _writing(self) -> Iterator[_Index]:
        """The index, while no other process writes; what a killed one left is put in order."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError("The folder of models cannot be used", got=error.strerror or "an error") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            index = self._read()
            self._tidy(index)
            yield index
        finally:
            os.close(descriptor)  # and the lock with it

    def _read(self) -> _Index:
        path = self.folder / INDEX_FILE
        try:
            with path.open("rb") as file:
                data = file.read(MAX_INDEX_BYTES + 1)
        except FileNotFoundError:
            return _Index()
        except OSError as error:
            raise StoreError("The index of models cannot be read", got=error.strerror or "an error") from error
        try:
            return _decoded(data)
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"{MODELS_FOLDER}/{INDEX_FILE} cannot be used",
                got=str(error)[:200],
                fix="move the folder away: the coordinator can deliver its models again",
            ) from error

    def _write(self, index: _Index, new: KeptModel | None = None, data: bytes = b"") -> None:
        """Replace the index, after the file of a model that is new in it; nothing where it could not be read again."""
        encoded = msgspec.json.encode(index) + b"\n"
        try:
            _decoded(encoded)
        except ValueError as error:
            raise StoreError(
                "The model cannot be kept: the index of models would become one that is not read",
                got=str(error)[:200],
                fix="lower keep_models in policy.toml; or move the folder away: the coordinator can deliver again",
            ) from error
        if new is not None:
            sealed = data if self._sealer is None else self._sealer.seal(data, modelfile.CONTEXT)
            write_atomic(self.path(new), sealed)
        write_atomic(self.folder / INDEX_FILE, encoded)
        self._tidy(index)

    def _tidy(self, index: _Index) -> None:
        """Take away what no index names, and point the link at the current model."""
        named = {model.file for model in index.models}
        current = next((model.file for model in index.models if model.version == index.current), None)
        link, coming = self.folder / CURRENT_FILE, self.folder / f".{CURRENT_FILE}.tmp"
        try:
            for path in self.folder.iterdir():
                if _NAME.fullmatch(path.name) and path.name not in named:
                    path.unlink()
            if current is None or (link.is_symlink() and os.readlink(link) == current):
                return
            coming.unlink(missing_ok=True)
            coming.symlink_to(current)
            os.replace(coming, link)
        except OSError as error:
            raise StoreError("The folder of models cannot be put in order", got=error.strerror or "an error") from error


def _decoded(data: bytes) -> _Index:
    if len(data) > MAX_INDEX_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_INDEX_BYTES}")
    return msgspec.json.decode(data, type=_Index)
