"""What a broker may send, asked of the bytes as they are read: before a packet's body is taken into memory.

MQTT 5, section 2.1: a packet is one byte of type and flags, a length in one to four bytes, and that many bytes. Section
3.3: those of a PUBLISH are a topic behind its length in two bytes, at QoS 1 a number of two bytes, properties behind
their length in one to four bytes, and the payload.
"""

from __future__ import annotations

from collections.abc import Generator

from blindsight.errors import WireError

__all__ = ["AROUND_BYTES", "PacketGuard"]

PUBLISH = 3
ALLOWED = frozenset({2, PUBLISH, 4, 9, 13, 14})
"""CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP, DISCONNECT: all that answers a client which publishes and subscribes at
QoS 1. The steps of QoS 2 are not among them: paho keeps such messages, of which a broker may open 65,535."""
QOS_1, QOS_2 = 0b010, 0b100
LENGTH_BYTES = 4
AROUND_BYTES = 512
"""More than a message has around its payload: header, topic, properties. paho's time grows with the square of the
properties, and copies what is behind them for each."""
MAX_OTHER_BYTES = 1 << 12
"""Longest packet that carries no message. paho makes an object of each byte of a SUBACK; of an honest broker it has one
for each topic, and a CONNACK or a DISCONNECT some properties and a reason."""
MAX_OWED = 1 << 14
"""Messages that wait for the broker to read that they have come: paho keeps the answers to them."""

_Steps = Generator[int, int, None]
"""Yields how many bytes pass unseen, and is sent the next one."""


class PacketGuard:
    """Follows a broker's stream of packets, in whatever pieces; keeps nothing of it.

    Parameters
    ----------
    max_packet_bytes : int
        Longest packet, as a client tells a broker in its CONNECT: header and all.
    """

    def __init__(self, max_packet_bytes: int) -> None:
        self._max = max_packet_bytes
        self._owed = 0
        self._steps = self._packets()
        self._skip = next(self._steps)

    def feed(self, data: bytes) -> None:
        """Look at what was read.

        Raises
        ------
        WireError
            A packet that is too long, or none that this client is sent. Nothing behind it may be read.
        """
        at = 0
        while len(data) - at > self._skip:
            at += self._skip
            self._skip = self._steps.send(data[at])
            at += 1
        self._skip -= len(data) - at

    def heard(self) -> None:
        """The broker has read all that was to be told."""
        self._owed = 0

    def _packets(self) -> _Steps:
        rest = 0
        while True:
            first = yield rest
            self._begin(first)
            length, digits = yield from _number()
            most = self._max if first >> 4 == PUBLISH else min(self._max, MAX_OTHER_BYTES)
            if 1 + digits + length > most:
                raise _refused(f"a packet of {1 + digits + length} bytes", f"at most {most} bytes")
            rest = (yield from _message(first, 1 + digits, length)) if first >> 4 == PUBLISH else length

    def _begin(self, first: int) -> None:
        kind = first >> 4
        if kind not in ALLOWED or (kind == PUBLISH and first & QOS_2):
            raise _refused(f"a packet that begins with {first:#04x}", "what answers a client of QoS 1")
        if kind == PUBLISH and first & QOS_1:
            self._owed += 1
            if self._owed > MAX_OWED:
                raise _refused(f"{MAX_OWED} messages, and it reads no answer to them", "a broker reads, too")


def _message(first: int, header: int, length: int) -> Generator[int, int, int]:
    """Look at what is around a message's payload; how much of the packet comes behind the properties' length."""
    if length < 2:
        raise _refused(f"a message of {length} bytes", "it has a topic")
    high = yield 0
    low = yield 0
    place = 2 + (high << 8 | low) + (2 if first & QOS_1 else 0)
    if place >= length or header + place >= AROUND_BYTES:
        raise _refused(f"{place} bytes of topic in a message of {length}", f"at most {AROUND_BYTES} around a payload")
    properties, digits = yield from _number(place - 2)
    around = place + digits + properties
    if around > length or header + around > AROUND_BYTES:
        raise _refused(f"{properties} bytes of properties", f"at most {AROUND_BYTES} around a payload")
    return length - place - digits


def _number(behind: int = 0) -> Generator[int, int, tuple[int, int]]:
    """A length that follows so many bytes, and how many bytes it has."""
    number = 0
    for place in range(LENGTH_BYTES):
        byte = yield 0 if place else behind
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, place + 1
    raise _refused("a length without an end", f"at most {LENGTH_BYTES} bytes")


def _refused(got: str, rule: str) -> WireError:
    return WireError("The broker sends what none may", got=got, rule=rule, fix="see who runs it, and into its log")
