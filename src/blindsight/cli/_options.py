"""Options that several commands share, and how ``NAME=PATH`` is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from blindsight.errors import DataError, ParameterError, StoreError
from blindsight.keys import Identity, Sealer

if TYPE_CHECKING:
    from blindsight.privacy import DifferentialPrivacy

__all__ = [
    "AllowOption",
    "ContaminationOption",
    "DeltaOption",
    "EvaluateOption",
    "ExactOption",
    "HomeOption",
    "JsonOption",
    "KeyFileOption",
    "PartyRecordsOption",
    "PersonRecordsOption",
    "PolicyOption",
    "PrivacyOptions",
    "SchemeOption",
    "TrustOption",
    "UnitOption",
    "identity_of",
    "named_paths",
    "passphrase_of",
    "scheme_of",
    "sealer_of",
    "writable_target",
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of text.")]
KeyFileOption = Annotated[
    Path | None, typer.Option("--key-file", help="Key file that seals model, identities and ledgers at rest.")
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option("--allow", help="Name of another package's detector that may be loaded here; repeatable."),
]
SchemeOption = Annotated[
    str | None,
    typer.Option(
        "--scheme",
        help="bfv or ckks: ckks for wide quadratics in columns, approximate.  [default: bfv, and ckks for networks]",
    ),
]
HomeOption = Annotated[Path, typer.Option("--home", help="Folder with one sub-folder a party, or one party's folder.")]
PolicyOption = Annotated[
    Path | None, typer.Option("--policy", help="policy.toml for parties that have none yet in --home.")
]
EvaluateOption = Annotated[
    list[str] | None, typer.Option("--evaluate", help="NAME=PATH of a party's labelled test records.")
]
ContaminationOption = Annotated[float, typer.Option("--contamination", help="Share of records that should alert.")]

# the privacy asked for, but for epsilon, whose scope each command says itself
DeltaOption = Annotated[float, typer.Option("--delta", help="Probability beyond epsilon.")]
UnitOption = Annotated[str, typer.Option("--unit", help="Whose presence is hidden: record, person or party.")]
PersonRecordsOption = Annotated[
    int | None,
    typer.Option(
        "--max-records-per-person",
        help="Records of one person used at each party, with --unit person.  [default: 1]",
    ),
]
PartyRecordsOption = Annotated[
    int | None,
    typer.Option(
        "--max-records-per-party", help="Records of a party used in a sum, with --unit party.  [default: 1000]"
    ),
]
TrustOption = Annotated[
    str,
    typer.Option("--trust", help="federation: the parties' noise protects together; local: each party's by itself."),
]
ExactOption = Annotated[
    bool, typer.Option("--exact", help="Exact sums, no differential privacy; every policy must allow it.")
]


@dataclass(frozen=True, kw_only=True)
class PrivacyOptions:
    """The privacy asked for, but for epsilon."""

    delta: DeltaOption = 1e-6
    unit: UnitOption = "record"
    max_records_per_person: PersonRecordsOption = None
    max_records_per_party: PartyRecordsOption = None
    trust: TrustOption = "federation"
    exact: ExactOption = False

    def privacy(self, epsilon: float | None) -> DifferentialPrivacy | None:
        """What is asked for with this epsilon; None for exact sums.

        Raises
        ------
        ParameterError
            Neither or both, or a value out of its domain.
        """
        from ._choose import choose_privacy

        return choose_privacy(
            epsilon,
            self.delta,
            self.unit,
            self.max_records_per_person,
            exact=self.exact,
            max_records_per_party=self.max_records_per_party,
            trust=self.trust,
        )


def named_paths(values: Iterable[str], option: str) -> dict[str, Path]:
    """Read repeated ``NAME=PATH`` options.

    Raises
    ------
    ParameterError
        Not of that form, or a name twice.
    DataError
        There is no such file.
    """
    paths: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or not name or not path:
            raise ParameterError(
                f"{option} cannot be read",
                got=repr(value)[:120],
                rule=f"{option} NAME=PATH",
                fix=f"{option} bank-a=a.csv",
            )
        if name in paths:
            raise ParameterError(f"{option} names '{name}' twice", fix="give each party one file")
        paths[name] = Path(path)
        if not paths[name].is_file():
            raise DataError(
                f"The file of '{name}' does not exist", got=path[:300], fix=f"check the path after {option}"
            )
    return paths


def scheme_of(text: str | None) -> Literal["bfv", "ckks"] | None:
    """Read ``--scheme``.

    Raises
    ------
    ParameterError
        It is neither.
    """
    known: dict[str | None, Literal["bfv", "ckks"] | None] = {None: None, "bfv": "bfv", "ckks": "ckks"}
    if text not in known:
        raise ParameterError("--scheme is unknown", got=repr(text)[:80], rule="bfv or ckks")
    return known[text]


def sealer_of(key_file: Path | None) -> Sealer | None:
    """Return the sealer of a key file, if one is given."""
    return None if key_file is None else Sealer.from_key_file(key_file)


def identity_of(path: Path, passphrase_file: Path | None) -> Identity:
    """Open a person's key."""
    return Identity.load(path, Sealer.from_passphrase(passphrase_of(passphrase_file)))


def passphrase_of(path: Path | None, *, twice: bool = False) -> str:
    """A passphrase from a file that nobody else may read, or asked for.

    Raises
    ------
    StoreError
    """
    if path is None:
        text: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=twice, err=True)
        return text
    try:
        status = path.stat()
        if os.name == "posix" and status.st_mode & 0o077:
            raise StoreError(
                f"The passphrase file {path.name!r} is open to others", rule="mode 0600", fix=f"chmod 600 {path.name}"
            )
        return path.read_text(encoding="utf-8")[:2000].rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"The passphrase file {path.name!r} could not be read") from error


def writable_target(path: Path, option: str, *, sources: Iterable[Path | None] = ()) -> Path:
    """Refuse, before hours of work, a target whose folder does not exist or that is one of the command's sources."""
    for source in sources:
        if source is not None and path.exists() and source.exists() and path.samefile(source):
            raise ParameterError(
                f"{option} would overwrite a file that this command reads",
                got=str(path)[:300],
                rule="records, models, keys and runs are never overwritten by what is made of them",
                fix="choose another name",
            )
    if path.is_dir() or not path.parent.is_dir():
        raise ParameterError(
            f"{option} cannot be written",
            got=str(path)[:300],
            rule="a file in a folder that exists",
            fix="make the folder, or name a file",
        )
    return path
