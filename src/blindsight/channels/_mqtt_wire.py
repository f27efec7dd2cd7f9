"""What a broker carries: the header of each message, and the topics they go by. Format: docs/channels.md, 'MQTT'."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum

from blindsight.errors import ParameterError, WireError

from ._frames import HEADER as FRAME_HEADER

__all__ = [
    "BOOT_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_PAYLOAD_BYTES",
    "MAX_RECORDS_BYTES",
    "PART_BYTES",
    "SESSION_BYTES",
    "Envelope",
    "MqttTopics",
    "Sort",
    "Why",
]

VERSION = 1
SESSION_BYTES = 16
BOOT_BYTES = 16
HEADER = struct.Struct(f"<BB{SESSION_BYTES}sQQ")
MAX_PAYLOAD_BYTES = 1 << 18
"""Longest MQTT payload, of either side."""
MAX_RECORDS_BYTES = MAX_PAYLOAD_BYTES - HEADER.size
PART_BYTES = 240 << 10
"""Of a frame: 15 TLS records' worth, which fits one payload with everything around it."""
MAX_FRAME_BYTES = FRAME_HEADER.size + PART_BYTES
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Sort(IntEnum):
    """What a message is."""

    DATA = 1
    """TLS records of a session."""
    CREDIT = 2
    """Nothing but the header: how much the other side may send."""
    END = 3
    """The session is over; ``number`` says why. Not authenticated: it costs a new session, and nothing else."""


class Why(IntEnum):
    """Why a session is over."""

    LEAVING = 1
    REPLACED = 2
    REFUSED = 3
    MALFORMED = 4
    UNKNOWN = 5
    GONE = 6
    """A party's last will, which the broker sends for it."""


@dataclass(frozen=True)
class Envelope:
    """One message.

    Parameters
    ----------
    sort : Sort
    session : bytes
        16 random bytes that the party drew.
    number : int
        Of a DATA message among those of its direction, from 0; of an END, :class:`Why`.
    credit : int
        How many DATA messages the other side may have sent altogether.
    records : bytes
        Of TLS, in DATA alone.

    Security
    --------
    Nothing in the header is authenticated: a broker that forges it ends sessions or holds them up, which costs time.
    """

    sort: Sort
    session: bytes
    number: int = 0
    credit: int = 0
    records: bytes = b""

    def encode(self) -> bytes:
        """The message's bytes."""
        return HEADER.pack(VERSION, self.sort, self.session, self.number, self.credit) + self.records

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """Parse what the broker says came from the other side.

        Raises
        ------
        WireError
            Another length, version or sort than the format allows.
        """
        if not HEADER.size <= len(data) <= MAX_PAYLOAD_BYTES:
            raise _malformed(f"{len(data)} bytes")
        version, sort, session, number, credit = HEADER.unpack_from(data)
        records = bytes(data[HEADER.size :])
        if version != VERSION or sort not in {one.value for one in Sort}:
            raise _malformed(f"version {version}, sort {sort}")
        if bool(records) != (sort == Sort.DATA):
            raise _malformed(f"{len(records)} bytes after a header of sort {sort}")
        return cls(Sort(sort), session, number, credit, records)


@dataclass(frozen=True)
class MqttTopics:
    """MqttTopics of one coordinator.

    Parameters
    ----------
    coordinator : str
        SHA-256 of its certificate in hexadecimal: both ends know it, so there is nothing to agree on.
    """

    coordinator: str

    @property
    def prefix(self) -> str:
        """What all of them begin with."""
        return f"blindsight/{self.coordinator[:32]}"

    @property
    def presence(self) -> str:
        """Retained: the coordinator is here, under this boot id; empty where it is not."""
        return f"{self.prefix}/presence"

    def up(self, party: str) -> str:
        """From a party."""
        return f"{self.prefix}/{party}/up"

    def down(self, party: str) -> str:
        """To a party."""
        return f"{self.prefix}/{party}/down"

    @property
    def every_up(self) -> str:
        """Filter for what comes from any party."""
        return self.up("+")

    def party_of(self, topic: str) -> str:
        """Whose topic up this is."""
        return topic.removeprefix(f"{self.prefix}/").removesuffix("/up")

    @staticmethod
    def check_name(party: str) -> None:
        """Refuse a name that cannot stand in a topic.

        Raises
        ------
        ParameterError
        """
        if not _NAME.fullmatch(party):
            raise ParameterError(
                "A party's name cannot stand in a topic",
                got=repr(party)[:80],
                rule="letters, digits, '.', '_', '-'; at most 64",
            )


def _malformed(got: str) -> WireError:
    return WireError("A message of the broker is malformed", got=got, rule="docs/channels.md, 'MQTT'")
