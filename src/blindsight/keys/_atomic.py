"""Replace a file's content in one step."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from blindsight.errors import StoreError

__all__ = ["write_atomic"]


def write_atomic(path: str | os.PathLike[str], data: bytes, mode: int = 0o600, *, replace: bool = True) -> None:
    """Write ``data`` so that ``path`` holds either its old content or all of the new one.

    A temporary file in the same folder is written, synchronised and renamed; then the folder is synchronised.

    Parameters
    ----------
    path : path-like
    data : bytes
    mode : int
        Permission bits of the new file.
    replace : bool
        False: refuse where a file of that name exists (decided by the file system, so that two writers cannot
        both win).

    Raises
    ------
    StoreError
        The disk is full, the folder is missing, or the file exists and ``replace`` is False. The old file is
        as it was.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with open(descriptor, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                os.fsync(descriptor)
            if replace:
                os.replace(temporary, target)
            else:
                os.link(temporary, target)
            _synchronise_folder(target.parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    except FileExistsError as error:
        raise StoreError(
            f"The file {target.name!r} exists already",
            rule="it is not overwritten; nothing was changed",
            fix="choose another name, or remove the file yourself",
        ) from error
    except OSError as error:
        raise StoreError(
            f"The file {target.name!r} could not be written",
            got=error.strerror or type(error).__name__,
            rule="an older file of that name is as it was",
            fix="check that the folder exists, may be written and has space",
        ) from error


def _synchronise_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
