"""Collecting the files of a sign-off bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blindsight.errors import ParameterError

from ._options import identity_of, named_paths, sealer_of, writable_target

if TYPE_CHECKING:
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
    """Read what was named, make the bundle, write it; the participant list is taken from the kit if it is there."""
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
        signer=None if sign_as is None or key is None else (sign_as, identity_of(key, passphrase_file)),
    )
    write_bundle(bundle, output)
    return bundle
