"""Party folders on this machine: find them, read their ledgers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blindsight.errors import ParameterError
from blindsight.privacy import Ledger, LedgerEntry

__all__ = ["Account", "accounts", "check_party_folder", "party_folders"]


@dataclass(frozen=True, kw_only=True)
class Account:
    """One ledger of one party.

    Parameters
    ----------
    party, unit : str
    ledger : Ledger
    """

    party: str
    unit: str
    ledger: Ledger

    def charged(self) -> list[LedgerEntry]:
        """Every charge, in order."""
        return self.ledger.entries()


def check_party_folder(folder: Path, *, fix: str = "--home FOLDER") -> None:
    """Refuse what is not one party's own folder.

    Raises
    ------
    ParameterError
    """
    if not (folder / "party.toml").is_file():
        raise ParameterError("This is no party's folder", got=str(folder)[:200], rule="party.toml in it", fix=fix)


def party_folders(home: Path) -> list[Path]:
    """Return the party folders of a home, sorted; the home itself if it is one.

    Raises
    ------
    ParameterError
        There is none.
    """
    if (home / "party.toml").is_file():
        return [home]
    found = sorted(path.parent for path in home.glob("*/party.toml")) if home.is_dir() else []
    if not found:
        raise ParameterError(
            "There is no party's folder here",
            got=str(home)[:300],
            rule="a folder with party.toml and ledger.db, or a folder of such folders",
            fix="give the --home of 'blindsight fit'",
        )
    return found


def accounts(home: Path, *, key_file: Path | None) -> list[Account]:
    """Open every ledger of every party in a home.

    Raises
    ------
    FormatError, AuthenticationError, StoreError
        A folder is incomplete or damaged, or another key sealed it.
    """
    from blindsight.federation import open_party

    result = []
    for folder in party_folders(home):
        party = open_party(folder, key_file=key_file)
        result += [Account(party=party.name, unit=unit, ledger=ledger) for unit, ledger in party.ledgers.items()]
    return result
