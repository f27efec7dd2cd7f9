"""What a broker may send, asked of the bytes as they are read: before a packet's body is taken into memory.

MQTT 5, section 2.1: a packet is one byte of type and flags, a length in one to four bytes, and that many bytes.
"""

from __future__ import annotations

from blindsight.errors import WireError

__all__ = ["PacketGuard"]

PUBLISH = 3
ALLOWED = frozenset({2, PUBLISH, 4, 9, 13, 14})
"""CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP, DISCONNECT: all that answers a client which publishes and subscribes at
QoS 1. The steps of QoS 2 are not among them: paho keeps such messages, of which a broker may open 65,535."""
QOS_1, QOS_2 = 0b010, 0b100
LENGTH_BYTES = 4
MAX_OWED = 1 << 14
"""Messages that wait for the broker to read that they have come: paho keeps the answers to them."""


class PacketGuard:
    """Follows a broker's stream of packets, in whatever pieces; keeps nothing of it.

    Parameters
    ----------
    max_packet_bytes : int
        Longest packet, as a client tells a broker in its CONNECT: header and all.
    """

    def __init__(self, max_packet_bytes: int) -> None:
        self._max = max_packet_bytes
        self._head = bytearray()  # of a packet that has just begun
        self._skip = 0  # bytes of its body that are still to come
        self._owed = 0

    def feed(self, data: bytes) -> None:
        """Look at what was read.

        Raises
        ------
        WireError
            A packet that is too long, or none that this client is sent. Nothing behind it may be read.
        """
        at = 0
        while at < len(data):
            if self._skip:
                passed = min(self._skip, len(data) - at)
                self._skip -= passed
                at += passed
                continue
            self._head.append(data[at])
            at += 1
            if len(self._head) == 1:
                self._begin(self._head[0])
            elif self._head[-1] < 0x80:
                length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(self._head[1:]))
                if len(self._head) + length > self._max:
                    raise _refused(f"a packet of {len(self._head) + length} bytes", f"at most {self._max} bytes")
                self._skip = length
                self._head.clear()
            elif len(self._head) > LENGTH_BYTES:
                raise _refused("a length without an end", f"at most {LENGTH_BYTES} bytes")

    def heard(self) -> None:
        """The broker has read all that was to be told."""
        self._owed = 0

    def _begin(self, first: int) -> None:
        kind = first >> 4
        if kind not in ALLOWED or (kind == PUBLISH and first & QOS_2):
            raise _refused(f"a packet that begins with {first:#04x}", "what answers a client of QoS 1")
        if kind == PUBLISH and first & QOS_1:
            self._owed += 1
            if self._owed > MAX_OWED:
                raise _refused(f"{MAX_OWED} messages, and it reads no answer to them", "a broker reads, too")


def _refused(got: str, rule: str) -> WireError:
    return WireError("The broker sends what none may", got=got, rule=rule, fix="see who runs it, and into its log")
