"""Save, load, inspect: one safetensors file with a JSON header, nothing executable, no training row.

The header is one metadata entry, ``blindsight``, holding a SHA-256, a blank, and canonical JSON; the tensors are
``weights``, ``totals``, ``score_edges`` and ``score_counts``, all int64. The SHA-256 covers JSON and tensors: it finds
damage, not forgery (sealing finds that). docs/wire-formats.md has the byte layout.
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

from .circuits import Encoder, InnerProduct, OneHotBins, encoder_from_json, encoder_to_json
from .data import Schema
from .detectors import Detector, ScoreHistogram, detector_from_json, detector_to_json
from .errors import BlindsightError, FormatError, StoreError
from .keys import Sealer, is_sealed, write_atomic

__all__ = ["dumps", "inspect", "load", "loads", "save"]

FORMAT_VERSION = 1
MAX_FILE_BYTES = 1 << 28
MAX_HEADER_BYTES = 1 << 24
TENSORS = {"score_counts", "score_edges", "totals", "weights"}
FIELDS = {
    "bias",
    "certificate",
    "detector",
    "encoder",
    "format",
    "histogram_noise_variance",
    "noise_variance",
    "provenance",
    "schema",
    "score_scale",
    "version",
}
CONTEXT = b"blindsight/model/1"
MAX_NUMBER = 1e100
MAX_COUNT = 1 << 60


def dumps(model: Detector) -> bytes:
    """Serialise a fitted model.

    Parameters
    ----------
    model : Detector
        Fitted. A model whose score histogram is not there yet (in the middle of a federated fit) is written with an
        empty one.

    Returns
    -------
    bytes
    """
    from safetensors.numpy import save as save_tensors

    model._check_parameters()
    histogram = getattr(model, "score_histogram_", None)
    header = {
        "format": "blindsight-model",
        "version": FORMAT_VERSION,
        "detector": detector_to_json(model),
        "schema": model.schema_.to_json(),
        "encoder": encoder_to_json(model.encoder_),
        "bias": model.circuit_.bias,
        "score_scale": model.score_scale_,
        "noise_variance": model.noise_variance_,
        "histogram_noise_variance": histogram.noise_variance if histogram is not None else 0.0,
        "certificate": model.certificate_,
        "provenance": getattr(model, "provenance_", None),
    }
    empty = np.zeros(0, dtype=np.int64)
    tensors = {
        "weights": np.array(model.circuit_.weights),
        "totals": model.totals_,
        "score_edges": histogram.edges if histogram is not None else empty,
        "score_counts": histogram.counts if histogram is not None else empty,
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return bytes(save_tensors(tensors, metadata={"blindsight": f"{_digest(text, tensors)} {text}"}))


def _digest(text: str, tensors: Mapping[str, npt.NDArray[np.int64]]) -> str:
    """SHA-256 over the header's text and all tensors, each with its length."""
    parts = [text.encode(), *(tensors[name].astype("<i8").tobytes() for name in sorted(tensors))]
    state = hashlib.sha256()
    for part in parts:
        state.update(struct.pack("<Q", len(part)) + part)
    return state.hexdigest()


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
    """
    try:
        return _loads(data, allowed)
    except FormatError:
        raise
    except (BlindsightError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise _malformed(str(error)[:200]) from error


def _loads(data: bytes, allowed: frozenset[str] | None) -> Detector:
    import safetensors

    header, text, digest = _header(data)
    try:
        parts = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except Exception as error:  # the library's own error class differs between versions
        raise _malformed("the tensor section is malformed") from error
    if set(parts) != TENSORS:
        raise _malformed("the tensors are not " + ", ".join(sorted(TENSORS)))
    arrays = {}
    for name, part in parts.items():
        if part["dtype"] != "I64" or len(part["shape"]) != 1:
            raise _malformed(f"tensor '{name}' is not a vector of int64")
        array = np.frombuffer(bytes(part["data"]), dtype="<i8")
        if array.size != part["shape"][0]:
            raise _malformed(f"tensor '{name}' has another length than it says")
        arrays[name] = array.astype(np.int64)
    if _digest(text, arrays) != digest:
        raise _malformed("the content does not have the SHA-256 that the file names")
    for name in ("score_counts", "score_edges", "totals"):
        if arrays[name].size and max(int(arrays[name].max()), -int(arrays[name].min())) > MAX_COUNT:
            raise _malformed(f"tensor '{name}' is out of range")

    try:
        schema = Schema.from_json(header["schema"])
        model = detector_from_json(header["detector"], allowed=allowed)
        encoder = encoder_from_json(header["encoder"])
    except BlindsightError as error:
        raise _malformed(str(error)[:300]) from error
    bias = header["bias"]
    if type(bias) is not int:
        raise _malformed("bias is not an integer")
    circuit = InnerProduct(weights=arrays["weights"], bias=bias)
    circuit.check(encoder)
    if not _same_form(encoder, model.encoder(schema)):
        raise _malformed("the encoder does not follow from schema and detector")
    if arrays["totals"].size != model.fit_query(schema).length:
        raise _malformed("the totals have another length than the detector asks for")

    model.schema_ = schema
    model.fit_parameters_ = model._fit_parameters()
    model.schema = schema
    model.totals_ = arrays["totals"]
    model.noise_variance_ = _finite(header["noise_variance"], low=0.0)
    model.encoder_, model.circuit_ = encoder, circuit
    model.score_scale_ = _finite(header["score_scale"], low=1.0 / MAX_NUMBER)
    model.n_features_in_ = encoder.n_features
    model.feature_names_in_ = np.array(schema.feature_names, dtype=object)
    model.certificate_ = _plain_object(header["certificate"])
    model.provenance_ = _plain_object(header["provenance"])
    edges, counts = arrays["score_edges"], arrays["score_counts"]
    if edges.size or counts.size:
        if counts.size != edges.size + 1 or (np.diff(edges) <= 0).any():
            raise _malformed("the score histogram is inconsistent")
        noise = _finite(header["histogram_noise_variance"], low=0.0)
        model.score_histogram_ = ScoreHistogram(edges=edges, counts=counts, noise_variance=noise)
    return model


def _same_form(encoder: Encoder, expected: Encoder) -> bool:
    """Whether both are the same up to the last bits of edges, which may differ between platforms."""
    if isinstance(encoder, OneHotBins):
        return (
            isinstance(expected, OneHotBins)
            and encoder.sizes == expected.sizes
            and all(
                np.allclose(a, b, rtol=1e-9, atol=1e-9 * float(np.abs(b).max()))
                for a, b in zip(encoder.edges, expected.edges, strict=True)
            )
        )
    return encoder == expected


def _header(data: bytes) -> tuple[dict[str, Any], str, str]:
    """Return the header, its text, and the digest that the file names."""
    if not 8 < len(data) <= MAX_FILE_BYTES:
        raise _malformed(f"{len(data)} bytes")
    (size,) = struct.unpack_from("<Q", data)
    if size > min(MAX_HEADER_BYTES, len(data) - 8):
        raise _malformed("the header's length is beyond the file or 16 MiB")
    outer = json.loads(data[8 : 8 + size].decode("utf-8"))
    digest, _, text = str(outer["__metadata__"]["blindsight"]).partition(" ")
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
    return header, text, digest


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} in the header")


def _finite(value: object, *, low: float) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= MAX_NUMBER:  # type: ignore[arg-type,operator]
        raise _malformed("a number in the header is not finite or out of range")
    return float(value)  # type: ignore[arg-type]


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
        raise StoreError(
            f"The model '{path.name}' cannot be read",
            got=error.strerror or "an error",
            fix="check path and rights",
        ) from error
    if is_sealed(data):
        if sealer is None:
            raise FormatError(
                f"The model '{path.name}' is sealed",
                rule="a sealed file opens with the passphrase or key file that sealed it",
                fix="pass sealer=blindsight.keys.Sealer.from_passphrase(...), or --key-file on the command line",
            )
        data = sealer.open(data, CONTEXT)
    return loads(data, allowed=allowed)


def inspect(model: Detector) -> dict[str, Any]:
    """What a file says about itself, as plain values for people and reports; no weight and no count."""
    low, high = model.circuit_.bounds(model.encoder_)
    return {
        "detector": detector_to_json(model),
        "features": list(model.schema_.feature_names),
        "ranges": model.schema_.ranges,
        "schema_digest": model.schema_.digest(),
        "encoding": "one-hot bins" if isinstance(model.encoder_, OneHotBins) else "monomials",
        "encoding_length": model.encoder_.length,
        "score_bits": max(abs(low), abs(high)).bit_length(),
        "records": round(model.n_records_),
        "certificate": model.certificate_,
        "provenance": getattr(model, "provenance_", None),
    }
