"""A party's folder as a running process needs it: the party, its side of TLS, whom it dials."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blindsight.errors import FormatError
from blindsight.keys import certificate_fingerprint, read_certificate_file, read_tls_key

from ._home import open_party, read_party_file
from ._party import Party
from ._rules import Asker

__all__ = ["PartySite", "open_site"]


@dataclass(frozen=True, kw_only=True)
class PartySite:
    """What a channel's party end is started with.

    Parameters
    ----------
    party : Party
    addresses : tuple of str
        Of the coordinator, as this party's ``party.toml`` says, or else the signed list.
    certificate, private_key, authority : Path
        PEM files of this party's side of TLS; the authority's certificate.
    coordinator : Asker
        Name and certificate that the signed list gives; a channel must find this certificate at the other end.

    Notes
    -----
    ``serve_https(site.handler, site.addresses[0], ...)`` is all that a process has to do.
    """

    party: Party
    addresses: tuple[str, ...]
    certificate: Path
    private_key: Path
    authority: Path
    coordinator: Asker

    @property
    def handler(self) -> Callable[[bytes], bytes]:
        """Answers requests of the coordinator, under its name for policy, jobs and audit log."""
        return self.party.handler(self.coordinator)


def open_site(folder: str | os.PathLike[str], *, key_file: str | os.PathLike[str] | None = None) -> PartySite:
    """Open a party's folder for serving.

    Raises
    ------
    FormatError
        It has no signed participant list, or its certificate and key do not belong together.
    ParameterError, SchemaError, AuthenticationError, StoreError
        As :func:`open_party`.
    """
    folder = Path(folder)
    party = open_party(folder, key_file=key_file)
    listing = party.listing
    if listing is None:
        raise FormatError(
            f"The folder of '{party.name}' has no signed participant list",
            rule="the list says which certificate the coordinator has",
            fix="blindsight party join KIT",
        )
    certificate, private_key = folder / "tls.crt", folder / "keys" / "tls.key"
    own = read_certificate_file(certificate)
    entry = listing.party(party.name)
    if read_tls_key(private_key).public_key() != own.public_key() or entry is None or (
        certificate_fingerprint(own) != entry.certificate
    ):  # fmt: skip
        raise FormatError(
            f"The certificate of '{party.name}' is not the one on the participant list, or not for its key",
            fix="blindsight party join with the newest kit",
        )
    return PartySite(
        party=party,
        addresses=read_party_file(folder).coordinator or tuple(listing.coordinator.addresses),
        certificate=certificate,
        private_key=private_key,
        authority=folder / "authority.crt",
        coordinator=Asker(name=listing.coordinator.name, certificate=listing.coordinator.certificate),
    )
