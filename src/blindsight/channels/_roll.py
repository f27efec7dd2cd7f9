"""Which certificate is which party's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from blindsight.errors import ParameterError

from ._tls import certificate_expired, certificate_fingerprint

__all__ = ["Roll"]

_PRINT = re.compile(r"[0-9a-f]{64}")


class Roll:
    """Names and the fingerprints of their certificates; may be replaced at any time, from any thread.

    Parameters
    ----------
    parties : mapping of name to str
        SHA-256 of a certificate's DER bytes, 64 hexadecimal digits of either case, colons allowed.

    Raises
    ------
    ParameterError
        A fingerprint is malformed, or two parties have the same.
    """

    def __init__(self, parties: Mapping[str, str]) -> None:
        self.names = tuple(sorted(parties))
        self._by_print = _checked(parties)

    def replace(self, parties: Mapping[str, str]) -> list[str]:
        """Take other certificates for the same names; return the names whose certificate is no longer accepted.

        Raises
        ------
        ParameterError
        """
        unknown = sorted(set(parties) - set(self.names))
        if unknown:
            raise ParameterError(
                "A channel does not know this party",
                got=", ".join(unknown),
                rule="names are fixed when a channel is made",
                fix="make a new channel",
            )
        before, self._by_print = self._by_print, _checked(parties)
        return sorted(name for print_, name in before.items() if self._by_print.get(print_) != name)

    def who(self, certificate: bytes | None) -> tuple[str | None, str]:
        """The party that a certificate, in DER, belongs to; or None, and why."""
        if not certificate:
            return None, "no certificate was shown"
        print_ = certificate_fingerprint(certificate)
        name = self._by_print.get(print_)
        if name is None:
            return None, f"the certificate {print_[:16]} is on no list"
        if certificate_expired(certificate):
            return None, f"the certificate of {name} has expired"
        return name, ""


def _checked(parties: Mapping[str, str]) -> dict[str, str]:
    by_print: dict[str, str] = {}
    for name, text in parties.items():
        print_ = text.replace(":", "").lower()
        if not _PRINT.fullmatch(print_):
            raise ParameterError(
                f"The fingerprint of {name} cannot be used",
                got=text[:80],
                rule="SHA-256 of its certificate: 64 hexadecimal digits",
                fix="openssl x509 -in FILE -noout -fingerprint -sha256",
            )
        if print_ in by_print:
            raise ParameterError(
                "Two parties have the same certificate", got=f"{by_print[print_]}, {name}", rule="one for each"
            )
        by_print[print_] = name
    return by_print
