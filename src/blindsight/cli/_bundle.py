"""Collecting the files of a sign-off bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blindsight.errors import BlindsightError, ParameterError

from ._options import identity_of, named_paths, sealer_of, writable_target

if TYPE_CHECKING:
    from blindsight.data import Schema
    from blindsight.report import Bundle, RunFile

__all__ = ["bundle_of"]

MAX_FILE_BYTES = 1 << 26


def bundle_of(
    facts: RunFile,
    run: Path,
    output: Path,
    *,
    model: Path | None,
    ledgers: Sequence[Path],
    policies: Sequence[str],
    sign_as: str | None,
    key: Path | None,
    passphrase_file: Path | None,
    key_file: Path | None,
) -> Bundle:
    """Read what was named, make the bundle, write it; the kit gives participant list and schema if it has them."""
    from blindsight import modelfile
    from blindsight.federation import Policy
    from blindsight.federation.kits import LIST_FILE, ParticipantList, read_limited
    from blindsight.report import make_bundle, write_bundle

    if (sign_as is None) != (key is None):
        raise ParameterError("--sign-as and --key belong together", fix="blindsight jobs key NAME --output NAME.key")
    given = named_paths(policies, "--policy")
    for path in given.values():
        Policy.read(path)  # what cannot be read is no policy
    writable_target(output, "--bundle", sources=[model, key, *ledgers, *given.values()])
    folder = run if run.is_dir() else run.parent
    bundle = make_bundle(
        facts,
        model=None if model is None else modelfile.dumps(modelfile.load(model, sealer=sealer_of(key_file))),
        listing=ParticipantList.read(folder) if (folder / LIST_FILE).is_file() else None,
        ledgers=[read_limited(path, MAX_FILE_BYTES) for path in ledgers],
        policies={name: read_limited(path, MAX_FILE_BYTES) for name, path in given.items()},
        schema=_schema_of(folder, facts.model.schema_digest),
        signer=None if sign_as is None or key is None else (sign_as, identity_of(key, passphrase_file)),
    )
    write_bundle(bundle, output)
    return bundle


def _schema_of(folder: Path, digest: str) -> Schema | None:
    """Find the run's schema: in the coordinator's kit, or in a party's folder beside run.json.

    A file that cannot be read, or that says something else by now, is not the run's; the bundle says that it has none.
    """
    from blindsight.data import Schema

    for path in (folder / "schema.toml", *sorted(folder.glob("*/schema.toml"))):
        try:
            schema = Schema.read(path) if path.is_file() else None
        except BlindsightError:
            continue
        if schema is not None and schema.digest() == digest:
            return schema
    return None
