"""Recording every byte that a process receives, and asking of the record what it tells.

*What is recorded.* Links between processes go through a :class:`Relay`, without TLS, in these tests alone; what comes
over HTTPS is written down by the receiving process, after TLS.

*What is asked.* :func:`holds` finds a value wherever it stands. :func:`told_apart` trains a distinguisher: the test
throws a coin for every run and sends one of two things; half of the runs, with their coins, choose what to look at, and
the other coins are guessed. If the logs are independent of the coins, each guess is right with probability exactly one
half, whatever the logs look like: counters, times and lengths included. So the number of right guesses is binomial, and
:data:`CHANCE` bounds how often a test fails for no reason.
"""

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import binom

CHANCE = 1e-7
"""Probability at which guesses are called better than chance: one test in ten million fails for no reason."""

CHOSEN = 32
"""Features that a distinguisher votes with. A leak in one word of a hundred thousand bytes is among the first."""


PLACES = 4096
"""Bytes of a part whose every bit is looked at. Longer ones are compressed ciphertexts, without places for numbers."""


class Relay:
    """Forwards one port to another, and keeps what goes there (and, apart, what comes back)."""

    def __init__(self, target: int) -> None:
        self.target, self.there, self.back = target, bytearray(), bytearray()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.target)) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if source is client:
                        self.there += data
                        server.sendall(data)
                    else:
                        self.back += data
                        client.sendall(data)

    def close(self) -> None:
        self.listener.close()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def messages(log: bytes) -> list[bytes]:
    """What a link's messages carry, without frames, names and counters: brpc's baidu_std around yacl's PushRequest.

    A frame is ``"PRPC" | u32 body | u32 meta | meta | rest``, big-endian; the rest of a request is a protocol buffer of
    rank (1), name (2), value (3) and more. Acknowledgements and answers carry no value.
    """
    found, at = [], 0
    while (at := log.find(b"PRPC", at)) >= 0:
        body, meta = struct.unpack_from(">II", log, at + 4)
        fields = dict(_fields(log[at + 12 + meta : at + 12 + body]))
        if 3 in fields and not fields.get(2, b"").startswith(b"ACK"):
            found.append(fields[3])
        at += 12 + body
    return found


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """Number and bytes of each length-prefixed field of a protocol buffer; its numbers are passed over."""
    found, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, at = _varint(data, at)
        if tag & 7 == 2:
            found.append((tag >> 3, data[at : at + value]))
            at += value
        else:
            assert tag & 7 == 0, "an unknown kind of field"
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift, more = at + 1, shift + 7, data[at] & 128
        if not more:
            return value, at


def holds(log: bytes, words: np.ndarray) -> np.ndarray:
    """Which of these 64-bit words stand in a log, at any place, as little-endian or big-endian bytes.

    A word of 64 random bits stands in a log of 2**27 bytes by chance with probability 2**-36, at most.
    """
    table = np.zeros(1 << 20, dtype=bool)
    table[_hashed(np.concatenate([words, words.byteswap()]))] = True
    found = [np.zeros(0, dtype=np.uint64)]
    for start in range(0, len(log) - 7, 1 << 21):
        every = np.frombuffer(log, dtype=np.uint8, count=min((1 << 21) + 7, len(log) - start), offset=start)
        every = np.lib.stride_tricks.sliding_window_view(every, 8)
        here = np.ascontiguousarray(every).view("<u8")[:, 0]
        found.append(here[table[_hashed(here)]])
    all_found = np.concatenate(found)
    return np.asarray(np.isin(words, all_found) | np.isin(words.byteswap(), all_found))


def holds_neighbours(log: bytes, words: np.ndarray) -> bool:
    """Whether two of these words stand in a log behind each other, in either order of their bytes.

    For words with few bits of their own: messages hold many numbers below 2**24, one of which may be such a word.
    """
    orders = (words.tobytes(), words.byteswap().tobytes())
    return any(data[8 * i : 8 * i + 16] in log for data in orders for i in range(len(words) - 1))


def _hashed(words: np.ndarray) -> np.ndarray:
    return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(44)


def told_apart(logs: Sequence[Mapping[str, bytes]], coins: Sequence[int], *, extra: np.ndarray | None = None) -> float:
    """How surprising it would be, were the logs independent of the coins, that so many coins are guessed: a p-value.

    A distinguisher looks at every bit of every part at its place (parts of one name are laid over each other, as far as
    ``PLACES``), at how often each byte stands in the whole log, and at the lengths.

    Parameters
    ----------
    logs : sequence of mapping
        For each run the parts of what was received, by name.
    coins : sequence of 0 or 1
    extra : ndarray of shape (runs, k), optional
        More to look at: numbers that the receiver computes from what it received.
    """
    thrown = np.asarray(coins, dtype=bool)
    half = len(logs) // 2
    assert min(thrown[:half].sum(), half - thrown[:half].sum()) > 4
    names = sorted({name for log in logs for name in log})
    whole = [np.frombuffer(b"".join(log.values()), dtype=np.uint8) for log in logs]
    sizes = [[len(log.get(name, b"")) for name in names] for log in logs]
    views = [np.stack([np.bincount(log, minlength=256) for log in whole]), np.array(sizes)]
    views += [_bits([log.get(name) for log in logs]) for name in names]
    views += [] if extra is None else [extra]
    strength, votes = zip(*(_strongest(view, thrown, half) for view in views), strict=True)
    differs = np.concatenate(strength)
    best = np.flatnonzero(differs >= max(np.sort(differs)[-CHOSEN], differs.max() / 2))
    right = int(((np.hstack(votes)[:, best].sum(axis=1) > 0) == thrown[half:]).sum())
    return float(binom.sf(right - 1, len(logs) - half, 0.5))


def _bits(parts: list[bytes | None]) -> np.ndarray:
    """Bits of a part in every run, as far as all go and not beyond ``PLACES``; one half where a run has none."""
    shortest = min(PLACES, *(len(part) for part in parts if part is not None))
    out = np.full((len(parts), 8 * shortest), 0.5, dtype=np.float32)
    for row, part in zip(out, parts, strict=True):
        if part is not None:
            row[:] = np.unpackbits(np.frombuffer(part, dtype=np.uint8, count=shortest))
    return out


def _strongest(view: np.ndarray, coins: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    """The features that differ most in the first half, how much, and their votes on the second half."""
    one, two = view[:half][coins[:half]], view[:half][~coins[:half]]
    means = one.mean(axis=0), two.mean(axis=0)
    spread = np.sqrt((one.var(axis=0) + two.var(axis=0)) / 2) + 0.05
    strength = (means[0] - means[1]) / spread
    best = np.argsort(-np.abs(strength))[:CHOSEN]
    middle = (means[0] + means[1])[best] / 2
    return np.abs(strength[best]), (view[half:, best] - middle) / spread[best] * strength[best]
