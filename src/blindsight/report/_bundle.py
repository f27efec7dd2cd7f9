"""One file for whoever has to sign a run off: report, data flow, ledgers, draft assessment, hashes of all."""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from blindsight import modelfile
from blindsight._text import printable
from blindsight.data import Schema
from blindsight.detectors import Detector
from blindsight.errors import AuthenticationError, BlindsightError, FormatError, ParameterError, StoreError
from blindsight.federation import LedgerExport, read_ledger_export
from blindsight.federation.kits import LIST_FILE, ParticipantList
from blindsight.keys import Identity, PublicIdentity, write_atomic

from ._columns import columns_read, records_used
from ._flow import flow_values
from ._page import environment, render
from ._record import RunFile, parse_run
from ._signed_ledgers import with_ledgers

__all__ = ["Bundle", "BundleCheck", "check_bundle", "make_bundle", "read_bundle", "write_bundle"]

CONTEXT = b"blindsight sign-off bundle v1"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
SCHEMA_FILE = "schema.toml"
MAX_FILES = 1000
MAX_BUNDLE_BYTES = 1 << 28
STAMP = (1980, 1, 1, 0, 0, 0)
"""Of every file in the archive: the same facts make the same bytes."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}(/[A-Za-z0-9][A-Za-z0-9._-]{0,100})?")

Hex64 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class _Listed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sha256: Hex64
    bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_BUNDLE_BYTES)]


class _Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: Literal["blindsight-bundle"] = "blindsight-bundle"
    version: Literal[1] = 1
    title: Annotated[str, msgspec.Meta(max_length=256)]
    runs: tuple[str, ...]
    files: Annotated[dict[str, _Listed], msgspec.Meta(max_length=MAX_FILES)]
    signer: str
    signer_key: str


Bundle = dict[str, bytes]
"""Files of a bundle by name; the manifest among them."""


@dataclass(frozen=True, kw_only=True)
class BundleCheck:
    """What was checked in a bundle.

    Parameters
    ----------
    problems : tuple of str
        Empty where everything holds.
    signer : str
        Who signed the manifest; empty where nobody did.
    signer_key : str
    files : int
    ledgers : tuple of str
        Parties whose signed ledgers are in it.
    without : tuple of str
        Parties of the run whose ledgers are not.
    """

    problems: tuple[str, ...]
    signer: str
    signer_key: str
    files: int
    ledgers: tuple[str, ...]
    without: tuple[str, ...]


def make_bundle(
    run: RunFile,
    *,
    model: bytes | None = None,
    listing: ParticipantList | None = None,
    ledgers: Sequence[bytes] = (),
    policies: Mapping[str, bytes] | None = None,
    schema: Schema | None = None,
    signer: tuple[str, Identity] | None = None,
) -> Bundle:
    """Put together what a privacy officer needs; the same facts make the same bytes.

    Parameters
    ----------
    run : RunFile
    model : bytes, optional
        The model file: its hash and what it says about itself go in, the model does not.
    listing : ParticipantList, optional
        Ledgers are then checked against its keys.
    ledgers : sequence of bytes
        What parties wrote with ``ledger export``.
    policies : mapping of party to bytes, optional
        ``policy.toml`` of parties that gave theirs.
    schema : Schema, optional
        That of the run. Declared, it goes in as ``schema.toml``, without anybody's comments; learned, its ranges are
        of somebody's records, and only names and roles of its columns are told.
    signer : (name, Identity), optional
        A person's, as for approvals. The coordinator has no key of this kind: its TLS key signs handshakes alone.

    Raises
    ------
    FormatError, AuthenticationError
        A ledger does not hold, or is by another key than the list's.
    ParameterError
        A model, schema or ledger is of another run, a policy of nobody in it, or two ledgers are of one party.
    """
    described = None if model is None else _described(model, run)
    keys = None if listing is None else dict(listing.participants)
    exports = [read_ledger_export(data, keys=keys) for data in ledgers]
    names = [export.party for export in exports]
    strangers = sorted((set(names) | set(policies or {})) - set(run.parties))
    if strangers or len(set(names)) < len(names):
        raise ParameterError(
            "A ledger or policy does not belong to this run",
            got=", ".join(strangers)[:300] or "two ledgers of one party",
            rule="one of each party at most; parties: " + ", ".join(run.parties)[:300],
        )
    if schema is not None and schema.digest() != run.model.schema_digest:
        raise ParameterError("The schema is of another run", got=schema.digest(), rule=run.model.schema_digest)
    published = schema is not None and schema.ranges == "declared"
    reported, without = with_ledgers(run, exports)
    values = {
        "run": run,
        "model": described,
        "listing": listing,
        "exports": exports,
        "without": [name for name in run.parties if name not in names],
        "charges": {export.party: _charges(export, run) for export in exports},
        "columns": columns_read(run, schema),
        "schema": published,
        "used": records_used(run),
        "policies": sorted(policies or {}),
        **flow_values(run),
    }
    files: Bundle = {
        "report.html": render(reported, signed=tuple(names), without=without).encode(),
        "run.json": msgspec.json.format(msgspec.json.encode(run), indent=1),
        "data-flow.html": environment().get_template("flow.html.j2").render(values).encode(),
        "assessment.md": environment(markup=False).get_template("assessment.md.j2").render(_plain(values)).encode(),
        **{f"ledgers/{export.party}.json": data for export, data in zip(exports, ledgers, strict=True)},
        **{f"policies/{name}.toml": data for name, data in (policies or {}).items()},
    }
    if described is not None:
        files["model.json"] = msgspec.json.format(msgspec.json.encode(described, order="sorted"), indent=1)
    if schema is not None and published:
        files[SCHEMA_FILE] = schema.to_toml().encode()
    if listing is not None:
        files[LIST_FILE] = listing.data
    manifest = _Manifest(
        title=run.title,
        runs=run.runs,
        files={
            name: _Listed(sha256=hashlib.sha256(files[name]).hexdigest(), bytes=len(files[name]))
            for name in sorted(files)
        },
        signer="" if signer is None else signer[0],
        signer_key="" if signer is None else signer[1].public.raw.hex(),
    )
    files[MANIFEST] = msgspec.json.encode(manifest, order="sorted")
    if signer is not None:
        files[SIGNATURE] = signer[1].sign(CONTEXT + b"|" + files[MANIFEST])
    return files


def write_bundle(bundle: Bundle, path: str | os.PathLike[str]) -> Path:
    """Write a bundle as a zip file whose bytes follow from its content: sorted, stored, one date; atomically.

    It holds ledgers, policies and names: the file has mode 0600, and so has what is unpacked from it. Whom it is for
    is given a copy.
    """
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(bundle):
            entry = zipfile.ZipInfo(name, STAMP)
            entry.external_attr = 0o600 << 16
            entry.create_system = 3
            archive.writestr(entry, bundle[name])
    write_atomic(path, raw.getvalue())
    return Path(path)


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read an untrusted zip file: bounded, stored, with plain names; nothing is written anywhere.

    Raises
    ------
    StoreError, FormatError
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise StoreError(f"The bundle '{Path(path).name}' cannot be read", got=error.strerror or "an error") from error
    try:
        if len(data) > MAX_BUNDLE_BYTES:
            raise ValueError("longer than 256 MiB")
        if data.count(b"PK\x01\x02") > MAX_FILES:  # before the directory is read: each entry there begins so
            raise ValueError("too many files")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(names) > MAX_FILES or len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
                raise ValueError("too many files, one twice, or a name that no bundle has")
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
                raise ValueError("compressed or encrypted files")
            if sum(entry.file_size for entry in entries) > len(data):
                raise ValueError("files that overlap")
            return {entry.filename: archive.read(entry) for entry in entries}
    except (ValueError, zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise FormatError(
            "This is no sign-off bundle", got=str(error)[:200], rule="a zip file as 'blindsight report --bundle' writes"
        ) from error


def check_bundle(bundle: Bundle, *, signer_key: str | None = None) -> BundleCheck:
    """Check every hash, signature and chain in a bundle.

    Parameters
    ----------
    bundle : dict of str to bytes
    signer_key : str, optional
        Ed25519 public key, 64 hexadecimal digits: the manifest must be signed by it.

    Raises
    ------
    FormatError
        There is no manifest, or it is malformed.
    """
    try:
        manifest = msgspec.json.decode(bundle.get(MANIFEST, b""), type=_Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError("The bundle has no manifest that can be read", got=str(error)[:200]) from error
    problems = [
        f"{name}: not in the manifest" for name in sorted(set(bundle) - set(manifest.files) - {MANIFEST, SIGNATURE})
    ]
    for name, listed in manifest.files.items():
        if name not in bundle:
            problems.append(f"{name}: missing")
        elif hashlib.sha256(bundle[name]).hexdigest() != listed.sha256:
            problems.append(f"{name}: changed since the manifest was written")
    problems += _signature_problems(bundle, manifest, signer_key)
    listing, run = None, None
    try:
        if "run.json" in bundle:
            run = parse_run(bundle["run.json"])
        else:
            problems.append("run.json: not in the bundle, so that nobody can tell whose ledgers are missing")
        if LIST_FILE in bundle:
            listing = ParticipantList.from_bytes(bundle[LIST_FILE])
    except (FormatError, AuthenticationError) as error:
        problems.append(str(error))
    if run is not None and SCHEMA_FILE in bundle:
        problems += _schema_problems(bundle[SCHEMA_FILE], run)
    keys = None if listing is None else dict(listing.participants)
    found = []
    for name in sorted(name for name in bundle if name.startswith("ledgers/")):
        try:
            export = read_ledger_export(bundle[name], keys=keys)
            found.append(export.party)
            if name != f"ledgers/{export.party}.json":
                problems.append(f"{name}: the ledger of {export.party}")
        except (FormatError, AuthenticationError) as error:
            problems.append(f"{name}: {error}")
    parties = () if run is None else run.parties
    return BundleCheck(
        problems=tuple(map(printable, problems)),
        signer=printable(manifest.signer),
        signer_key=printable(manifest.signer_key),
        files=len(bundle),
        ledgers=tuple(map(printable, found)),
        without=tuple(map(printable, sorted(set(parties) - set(found)))),
    )


def _signature_problems(bundle: Bundle, manifest: _Manifest, signer_key: str | None) -> list[str]:
    if signer_key is not None and manifest.signer_key != signer_key:
        return [f"{MANIFEST}: signed by {manifest.signer_key[:16] or 'nobody'}, not by the key that was given"]
    if not manifest.signer_key:
        return [f"{SIGNATURE}: a signature of nobody"] if SIGNATURE in bundle else []
    try:
        key = PublicIdentity(bytes.fromhex(manifest.signer_key))
        key.verify(bundle.get(SIGNATURE, b""), CONTEXT + b"|" + bundle[MANIFEST])
    except (AuthenticationError, ParameterError, ValueError):
        return [f"{MANIFEST}: the signature of '{manifest.signer[:64]}' does not hold"]
    return []


def _schema_problems(data: bytes, run: RunFile) -> list[str]:
    try:
        if Schema.from_toml(data.decode()).digest() == run.model.schema_digest:
            return []
    except (BlindsightError, UnicodeDecodeError) as error:
        return [f"{SCHEMA_FILE}: {error}"]
    return [f"{SCHEMA_FILE}: not the schema that run.json names by its digest"]


def _described(data: bytes, run: RunFile) -> dict[str, Any]:
    model: Detector = modelfile.loads(data)
    made = (model.provenance_ or {}).get("run")
    if run.runs and made not in run.runs:
        raise ParameterError(
            "The model is of another run", got=str(made)[:64], rule=", ".join(run.runs)[:200], fix="give its own file"
        )
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **modelfile.inspect(model)}


def _charges(export: LedgerExport, run: RunFile) -> list[Any]:
    return [entry for entry in export.entries if entry.release_id.partition("/")[0] in run.runs]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, "md": _markdown}


def _markdown(text: object) -> str:
    """Text in a Markdown file: on one line, and no markup of its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", " ".join(str(text).split()))
