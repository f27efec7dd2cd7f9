"""Operators whose every received byte is kept: over HTTPS by themselves, on their links by relays."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blind._recording import Relay, messages

from . import _recorded_node
from ._nodes import Nodes


@dataclass
class Received:
    """What one operator has received: head and body of each exchange over HTTPS, and its link's streams by name."""

    exchanges: list[tuple[bytes, bytes]]
    links: dict[str, bytes]

    @property
    def everything(self) -> bytes:
        return b"".join([part for pair in self.exchanges for part in pair] + list(self.links.values()))

    def bodies(self, path: bytes) -> list[bytes]:
        return [body for head, body in self.exchanges if head.split(b"\n")[1:2] == [path]]

    def parts(self) -> dict[str, bytes]:
        """Everything, named so that what has the same place in two runs has the same name; and links' messages again.

        ABY3 takes turns by public randomness, so that messages are told by source, length and count.
        """
        found = dict(self.links)
        names: Counter[str] = Counter()
        told = [(f"{name}, {_size(m)}", m) for name, stream in self.links.items() for m in messages(stream)]
        told += [(f"https {pair[0].splitlines()[1:2]}", b"".join(pair)) for pair in self.exchanges]
        for name, part in told:
            names[name] += 1
            found[f"{name}, {names[name]}"] = part
        return found


def _size(message: bytes) -> str:
    return str(len(message)) if len(message) < 10_000 else "long"  # ciphertexts are compressed: no two are as long


class RecordedNodes(Nodes):
    """See the module; relays go from each operator to the link of each other one."""

    def __init__(self, folder: Path, operators: int) -> None:
        self.relays: dict[tuple[int, int], Relay] = {}
        super().__init__(folder, operators, run_timeout_s=60.0, seen=self._through_relays)

    def _through_relays(self, rank: int, links: list[str]) -> list[str]:
        others = [other for other in range(len(links)) if other != rank]
        relays = {other: Relay(int(links[other].rpartition(":")[2])) for other in others}
        self.relays |= {(rank, other): relay for other, relay in relays.items()}
        return [f"127.0.0.1:{relays[i].port}" if i in relays else link for i, link in enumerate(links)]

    def command(self, rank: int) -> list[str]:
        return [super().command(rank)[0], _recorded_node.__file__, "serve", f"node-{rank}.toml", f"received-{rank}"]

    def close(self) -> list[int]:
        codes = super().close()
        for relay in self.relays.values():
            relay.close()
        return codes

    def mark(self, rank: int) -> dict[str, int]:
        """Where each stream to an operator stands: for :meth:`received`."""
        link = {name: len(log) for name, log in self._links(rank).items()}
        return link | {"https": self._written(rank).stat().st_size}

    def received(self, rank: int, since: Mapping[str, int] | None = None) -> Received:
        at = since or {}
        links = {name: bytes(log[at.get(name, 0) :]) for name, log in self._links(rank).items()}
        with self._written(rank).open("rb") as file:
            file.seek(at.get("https", 0))
            return Received(_recorded_node.exchanges(file.read()), links)

    def _written(self, rank: int) -> Path:
        return self.folder / f"received-{rank}"

    def _links(self, rank: int) -> dict[str, bytearray]:
        there = {f"from {i}": relay.there for (i, j), relay in self.relays.items() if j == rank}
        back = {f"answers of {j}": relay.back for (i, j), relay in self.relays.items() if i == rank}
        return there | back
