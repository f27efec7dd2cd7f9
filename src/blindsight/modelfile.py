"""Save, load, inspect: one safetensors file with a JSON header, nothing executable, no training row.

The header is one metadata entry, ``blindsight``, holding a SHA-256, a blank, and canonical JSON; the tensors are what
the detector's state holds: int64, float32 or int8. The SHA-256 covers the JSON and every tensor's name, type, shape and
content: it finds damage, not forgery (sealing finds that). docs/wire-formats.md has the byte layout and a test vector.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .data import Schema
from .detectors import Detector, State, detector_from_json, detector_to_json
from .errors import BlindsightError, FormatError, StoreError, UnknownDetectorError
from .keys import Sealer, is_sealed, write_atomic

__all__ = ["dumps", "inspect", "is_model_file", "load", "loads", "save"]

FORMAT_VERSION = 2
MAX_FILE_BYTES = 1 << 28
MAX_HEADER_BYTES = 1 << 24
MAX_TENSORS = 256
FIELDS = {"certificate", "detector", "format", "provenance", "schema", "state", "version"}
DTYPES = {"I64": "<i8", "F32": "<f4", "I8": "|i1"}
KINDS = {np.dtype(layout).name: kind for kind, layout in DTYPES.items()}
MAX_AXES = 8
MAX_NAME = 200
CONTEXT = b"blindsight/model/1"
MAX_COUNT = 1 << 60


def dumps(model: Detector) -> bytes:
    """Serialise a fitted model.

    Parameters
    ----------
    model : Detector
        Fitted, or in the middle of a federated fit: begun, with some of its totals taken.

    Returns
    -------
    bytes
        The same for the same state.

    Raises
    ------
    NotFittedError
        Nothing was begun.
    FormatError
        The detector's state does not fit a model file: too many tensors, another type, too large, not finite.
    """
    from safetensors.numpy import save as save_tensors

    state = model.dump()
    header = {
        "format": "blindsight-model",
        "version": FORMAT_VERSION,
        "detector": detector_to_json(model),
        "schema": model.schema_.to_json(),
        "state": dict(state.values),
        "certificate": model.certificate_,
        "provenance": model.provenance_,
    }
    tensors = {name: np.ascontiguousarray(array) for name, array in state.arrays.items()}
    _check_tensors(tensors)
    text = _canonical(header)
    if len(text) + 200 * len(tensors) > MAX_HEADER_BYTES // 2:  # quotes double when it is put into the outer header
        raise _malformed(f"a header of {len(text):,} bytes")
    return bytes(save_tensors(tensors, metadata={"blindsight": f"{_digest(text, tensors)} {text}"}))


def _canonical(header: object) -> str:
    """The one way in which a header is written: keys sorted, no blanks, ASCII; ValueError for NaN and infinity."""
    return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(text: str, tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 over the header's text and all tensors, each with its name, type and shape."""
    parts = [text.encode()]
    for name in sorted(tensors):
        array = tensors[name]
        form = f"{name} {KINDS[array.dtype.name]} {','.join(map(str, array.shape))}"
        parts += [form.encode(), array.astype(array.dtype.newbyteorder("<")).tobytes()]
    state = hashlib.sha256()
    for part in parts:
        state.update(struct.pack("<Q", len(part)) + part)
    return state.hexdigest()


def is_model_file(data: bytes) -> bool:
    """Whether these bytes begin as a model file does, sealed or not; for telling somebody who named the wrong file."""
    return is_sealed(data) or data[8:].startswith(b'{"__metadata__":{"blindsight":')


def loads(data: bytes, *, allowed: frozenset[str] | None = None) -> Detector:
    """Rebuild a model from untrusted bytes.

    Parameters
    ----------
    data : bytes
        At most 256 MiB.
    allowed : frozenset of str, optional
        Third-party detectors (entry points) that may be loaded by name.

    Raises
    ------
    FormatError
        Anything malformed: length, header, field, type, shape, range, NaN, or parts that do not fit each other.
    UnknownDetectorError
        A detector of another package, which is not installed or not allowed.
    """
    try:
        return _loads(data, allowed)
    except FormatError:
        raise
    except (BlindsightError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise _malformed(str(error)[:200]) from error


def _loads(data: bytes, allowed: frozenset[str] | None) -> Detector:
    header, text, digest = _header(data)
    arrays = _tensors(data)
    if _digest(text, arrays) != digest:
        raise _malformed("the content does not have the SHA-256 that the file names")
    if not isinstance(header["state"], dict):
        raise _malformed("the state is not an object")
    try:
        schema = Schema.from_json(header["schema"])
        model = detector_from_json(header["detector"], allowed=allowed)
        model.load_state(schema, State(values=header["state"], arrays=arrays))
    except UnknownDetectorError as error:  # nothing need be wrong with the file
        what = "The model file is of an unknown detector"
        raise UnknownDetectorError(what, got=error.got, rule=error.rule, fix=error.fix) from error
    except BlindsightError as error:
        raise _malformed(str(error)[:300]) from error
    model.schema = schema
    model.certificate_ = _plain_object(header["certificate"])
    model.provenance_ = _plain_object(header["provenance"])
    return model


def _tensors(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Read the tensor section: bounded in number, kind and value."""
    import safetensors

    try:
        parts = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except Exception as error:  # the library's own error class differs between versions
        raise _malformed("the tensor section is malformed") from error
    if len(parts) > MAX_TENSORS:
        raise _malformed(f"{len(parts)} tensors")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, part in parts.items():
        if part["dtype"] not in DTYPES:
            raise _malformed(f"tensor '{name[:60]}' is not of int64, float32 or int8")
        array = np.frombuffer(bytes(part["data"]), dtype=DTYPES[part["dtype"]])
        if array.size != math.prod(part["shape"]):
            raise _malformed(f"tensor '{name[:60]}' has another length than it says")
        arrays[name] = array.astype(array.dtype.newbyteorder("=")).reshape(part["shape"])
    _check_tensors(arrays)
    return arrays


def _check_tensors(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse what no state may hold; asked when writing and when reading."""
    if len(arrays) > MAX_TENSORS or sum(array.nbytes for array in arrays.values()) > MAX_FILE_BYTES - MAX_HEADER_BYTES:
        raise _malformed(f"{len(arrays)} tensors, or more than a file may hold")
    for name, array in arrays.items():
        if array.dtype.name not in KINDS or array.ndim > MAX_AXES or not 0 < len(name) <= MAX_NAME:
            raise _malformed(f"tensor '{name[:60]}' is not of int64, float32 or int8")
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise _malformed(f"tensor '{name[:60]}' is not finite")
        if array.dtype == np.int64 and array.size and max(int(array.max()), -int(array.min())) > MAX_COUNT:
            raise _malformed(f"tensor '{name[:60]}' is out of range")


def _header(data: bytes) -> tuple[dict[str, Any], str, str]:
    """Return the header, its text, and the digest that the file names."""
    if not 8 < len(data) <= MAX_FILE_BYTES:
        raise _malformed(f"{len(data)} bytes")
    (size,) = struct.unpack_from("<Q", data)
    if size > min(MAX_HEADER_BYTES, len(data) - 8):
        raise _malformed("the header's length is beyond the file or 16 MiB")
    metadata = json.loads(data[8 : 8 + size].decode("utf-8"))["__metadata__"]
    if not isinstance(metadata, dict) or set(metadata) != {"blindsight"}:
        raise _malformed("the metadata hold another entry than 'blindsight'")
    digest, _, text = str(metadata["blindsight"]).partition(" ")
    header = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(header, dict) or header.get("format") != "blindsight-model":
        raise _malformed("this is not a Blindsight model")
    if header.get("version") != FORMAT_VERSION:
        raise FormatError(
            "The model file is of another version",
            got=repr(header.get("version"))[:20],
            rule=f"version {FORMAT_VERSION}",
            fix="upgrade blindsight, or save the model again with this version",
        )
    if set(header) != FIELDS:
        raise _malformed("header fields are missing or unknown")
    if _canonical(header) != text:  # a field given twice, say, would read otherwise elsewhere
        raise _malformed("the header is not written canonically")
    return header, text, digest


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} in the header")


def _plain_object(value: object) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise _malformed("a header field is not an object")
    return value


def _malformed(got: str) -> FormatError:
    return FormatError(
        "The model file is malformed",
        got=got,
        rule="docs/wire-formats.md, 'Model file'",
        fix="ask for the file again, or load the last version that worked",
    )


def save(model: Detector, path: str | os.PathLike[str], *, sealer: Sealer | None = None) -> None:
    """Write a model to a file, atomically; sealed at rest when a sealer is given."""
    data = dumps(model)
    write_atomic(path, sealer.seal(data, CONTEXT) if sealer is not None else data)


def load(
    path: str | os.PathLike[str], *, sealer: Sealer | None = None, allowed: frozenset[str] | None = None
) -> Detector:
    """Read a model from a file.

    Raises
    ------
    FormatError
        Malformed, or sealed and no sealer given.
    AuthenticationError
        Another passphrase or key file sealed it.
    StoreError
        The file cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 4096)
    except OSError as error:
        folder = path.is_dir()
        raise StoreError(
            f"The model '{path.name or path}' cannot be read",
            got="a folder" if folder else error.strerror or "an error",
            fix="give the path of a file that Detector.save wrote" if folder else "check path and rights",
        ) from error
    if is_sealed(data):
        if sealer is None:
            raise FormatError(
                f"The model '{path.name}' is sealed",
                rule="a sealed file opens with the passphrase or key file that sealed it",
                fix="give --key-file on the command line; in Python, sealer=blindsight.keys.Sealer.from_key_file(...)",
            )
        data = sealer.open(data, CONTEXT)
    return loads(data, allowed=allowed)


def inspect(model: Detector) -> dict[str, Any]:
    """What a file says about itself, as plain values for people and reports; no weight and no count."""
    return {
        "detector": detector_to_json(model),
        "features": list(model.schema_.feature_names),
        "ranges": model.schema_.ranges,
        "schema_digest": model.schema_.digest(),
        **model.describe_state(),
        "records": round(model.n_records_),
        "certificate": model.certificate_,
        "provenance": getattr(model, "provenance_", None),
    }
