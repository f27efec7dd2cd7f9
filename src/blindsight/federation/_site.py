"""A party's folder as a running process needs it: the party, its side of TLS, whom it dials."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    Notes
    -----
    ``serve(site.handler, site.addresses[0], **site.options)`` is all that a process has to do.
    """

    party: Party
    addresses: tuple[str, ...]
    certificate: Path
    private_key: Path
    authority: Path

    @property
    def coordinator(self) -> Asker:
        """Name and certificate that the newest list accepted here gives; another process may have accepted it."""
        listing = self.party.listing
        assert listing is not None  # a list is replaced, never taken away
        return Asker(name=listing.coordinator.name, certificate=listing.coordinator.certificate)

    @property
    def audit_lines(self) -> int:
        """How many lines the party's audit log has."""
        log = self.party.audit
        assert log is not None  # a party that is opened from its folder has one
        return log.count

    def handler(self, request: bytes) -> bytes:
        """Answer a request of the coordinator, under its name for policy, jobs and audit log.

        Security
        --------
        The channel must have found the coordinator's certificate at the other end: ``serve`` does, given ``options``.
        """
        return self.party.handle(request, self.coordinator)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``channels.serve``: who we are, and which one certificate must answer."""
        return {
            "name": self.party.name,
            "certificate": self.certificate,
            "private_key": self.private_key,
            "authority": self.authority,
            "coordinator": lambda: self.coordinator.certificate,
        }


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
    party.end_old_sums()
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
    )
