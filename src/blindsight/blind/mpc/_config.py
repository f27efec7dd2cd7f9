"""What an operator's node is told: its rank, the other operators, who may connect and as what."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from blindsight.errors import FormatError, ParameterError, StoreError

from ._certificates import TlsFiles, certificate_fingerprint, read_certificate
from ._link import ADDRESS

__all__ = ["ClientEntry", "NodeConfig", "OperatorEntry"]

MAX_CONFIG_BYTES = 1 << 18

Seconds = Annotated[float, msgspec.Meta(ge=0.5, le=3600.0)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]


class OperatorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One operator, by rank.

    Parameters
    ----------
    address : str
        ``host:port`` of its HTTPS interface.
    link : str
        ``host:port`` of its SPU link.
    certificate : str
        PEM file, relative to the configuration's folder.
    """

    address: Text
    link: Text
    certificate: Text


class ClientEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may connect.

    Parameters
    ----------
    name : str
    role : {"owner", "holder"}
        An owner asks for answers; a holder shares models.
    certificate : str
        PEM file, relative to the configuration's folder.
    """

    name: Text
    role: Literal["owner", "holder"]
    certificate: Text


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Configuration of a node; TOML.

    Parameters
    ----------
    rank : int
        Which of the operators this node is.
    operators : list of OperatorEntry
        Three: ABY3. Two: CHEETAH. The same list, in the same order, at every node.
    clients : list of ClientEntry
    private_key : str
        PEM file of this node's key, mode 0600.
    listen, link_listen : str, optional
        ``host:port`` to bind, where they differ from what the others connect to.
    state : str
        Folder of what outlasts a restart: counts of released bits.
    key_file : str, optional
        Key file that seals that state; without one, shares of models are kept in memory alone.
    threads : int
    run_timeout_s : float
        Longest run, and longest wait for the other operators within one.
    connect_timeout_s : float
        Longest wait for a new link, and for an owner's shares to reach every operator.
    """

    rank: Annotated[int, msgspec.Meta(ge=0, le=2)]
    operators: Annotated[list[OperatorEntry], msgspec.Meta(min_length=2, max_length=3)]
    clients: Annotated[list[ClientEntry], msgspec.Meta(max_length=10_000)]
    private_key: Text
    listen: str = ""
    link_listen: str = ""
    state: Text = "state"
    key_file: str = ""
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    run_timeout_s: Seconds = 120.0
    connect_timeout_s: Seconds = 20.0
    folder: str = ""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> NodeConfig:
        """Read and check a configuration file.

        Raises
        ------
        StoreError
            It, or a file that it names, cannot be read.
        FormatError, ParameterError
            It is malformed, or contradicts itself.
        """
        place = Path(path)
        try:
            with open(place, "rb") as file:
                data = file.read(MAX_CONFIG_BYTES + 1)
        except OSError as error:
            raise StoreError(f"The configuration {place.name!r} could not be read", got=error.strerror or "") from error
        try:
            if len(data) > MAX_CONFIG_BYTES:
                raise ValueError("too long")
            values: dict[str, Any] = tomllib.loads(data.decode())
            values["folder"] = str(place.resolve().parent)
            config = msgspec.convert(values, cls)
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise FormatError(
                f"{place.name!r} is not a node's configuration", got=str(error)[:200], rule="docs/blind.md, 'MPC'"
            ) from error
        config.check()
        return config

    def check(self) -> None:
        """Raise unless ranks, addresses and certificates are consistent."""
        if self.rank >= len(self.operators):
            raise ParameterError("rank is not that of an operator", got=f"{self.rank} of {len(self.operators)}")
        addresses = [a for o in self.operators for a in (o.address, o.link)]
        addresses += [a for a in (self.listen, self.link_listen) if a]
        for address in addresses:
            if not ADDRESS.fullmatch(address) or int(address.rpartition(":")[2]) > 65_535:
                raise ParameterError("An address cannot be used", got=repr(address)[:80], rule="host:port")
        names = [o.certificate for o in self.operators] + [c.certificate for c in self.clients]
        prints = [certificate_fingerprint(read_certificate(self.path(name))) for name in names]
        if len(set(prints)) != len(prints):
            raise ParameterError(
                "Two operators or clients have the same certificate",
                rule="one for each: it says who they are",
                fix="blindsight mpc-node certificate NAME",
            )
        called = [client.name for client in self.clients]
        if len(set(called)) != len(called):
            twice = sorted({name for name in called if called.count(name) > 1})
            raise ParameterError(
                "Two clients have the same name",
                got=", ".join(twice)[:200],
                rule="one name for each: budgets and models are kept under it",
            )
        status = self.path(self.private_key)
        if not status.is_file():
            raise StoreError("The private key does not exist", got=status.name)
        if os.name == "posix" and status.stat().st_mode & 0o077:
            raise StoreError(
                f"The private key {status.name!r} is open to others",
                got=f"mode {status.stat().st_mode & 0o777:04o}",
                rule="its owner alone may read it",
                fix=f"chmod 600 {status.name}",
            )

    def path(self, name: str) -> Path:
        """A file of the configuration's folder."""
        return Path(self.folder) / name

    @property
    def protocol(self) -> Literal["aby3", "cheetah"]:
        """What so many operators run."""
        return "aby3" if len(self.operators) == 3 else "cheetah"

    @property
    def me(self) -> OperatorEntry:
        """This node's entry."""
        return self.operators[self.rank]

    def tls(self, trusted: Path) -> TlsFiles:
        """This node's certificate and key, beside a file of trusted certificates."""
        return TlsFiles(
            certificate=self.path(self.me.certificate), private_key=self.path(self.private_key), trusted=trusted
        )
