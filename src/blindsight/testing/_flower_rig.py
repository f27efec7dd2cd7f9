"""A channel over Flower without Flower: the app's own code over a stand-in for SuperLink and SuperNodes alone."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from blindsight.channels import FlowerChannel, serve_flower
from blindsight.channels._flower_app.blindsight_courier import courier

from ._rigs import DialledRig, RunningDialled

__all__ = ["FakeFleet", "FlowerRig", "RunningFlower", "Tamper"]

PAUSE_SECONDS = 0.01
Tamper = Callable[[int, bool, bytes], Iterable[bytes]]


class FakeFleet:
    """What Flower does with messages, in threads of this process: one at a time for each node.

    Parameters
    ----------
    path : Path
        The coordinator's socket.
    agents : sequence of Path
        Sockets of parties that are there from the beginning.

    Attributes
    ----------
    tamper : callable (node, up, parcel) -> parcels, or None
        What a carrier makes of a parcel on its way to a party, or ``up`` from it. Of several to a party the answers to
        all but the last are not given back; of several from it the last is. None at all: the message is lost.
    carried : int
        Messages so far.
    """

    def __init__(self, path: Path, agents: Sequence[Path] = ()) -> None:
        self.tamper: Tamper | None = None
        self.carried = 0
        self._path = path
        self._agents: dict[Path, int] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._over: list[tuple[int, int, bytes | None, str]] = []
        self._threads: list[threading.Thread] = []
        self._turn = threading.Lock()
        self._ids = itertools.count(1)
        self._closed = False
        self._life = 0
        for agent in agents:  # before the app connects: it is told at once what to carry to nodes that it had before
            self.add(agent)
        self._server = threading.Thread(target=self._serve, name="fake-superlink", daemon=True)
        self._server.start()

    def add(self, agent: Path) -> int:
        """A SuperNode for a party's socket; its id."""
        with self._turn:
            if agent not in self._agents:
                self._agents[agent] = node = next(self._ids)
                self._locks[node] = threading.Lock()
            return self._agents[agent]

    @property
    def agents(self) -> list[Path]:
        """Sockets of parties, in the order of their nodes."""
        return list(self._agents)

    def close(self) -> None:
        """End, as if the app were killed; what parties are working on is waited for."""
        self._closed = True
        self._server.join(20)
        for thread in self._threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in (self._server, *self._threads))

    # -- what the app needs -------------------------------------------------------------------------------------------

    def nodes(self) -> list[int]:
        """As the app's ``Fleet``."""
        if self._closed:
            raise ConnectionResetError("the app was killed")
        with self._turn:
            return list(self._agents.values())

    def push(self, node: int, number: int, parcel: bytes, seconds: float) -> None:
        """As the app's ``Fleet``."""
        del seconds
        with self._turn:
            agent = {known: path for path, known in self._agents.items()}[node]
            self.carried += 1
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            thread = threading.Thread(target=self._run, args=(self._life, agent, node, number, parcel), daemon=True)
            self._threads.append(thread)
        thread.start()

    def pull(self) -> list[tuple[int, int, bytes | None, str]]:
        """As the app's ``Fleet``."""
        with self._turn:
            over, self._over = self._over, []
        return over

    def forget(self) -> None:
        """As the app's ``Fleet``."""
        with self._turn:
            self._life += 1
            self._over = []

    def _serve(self) -> None:
        while not self._closed:
            with contextlib.suppress(RuntimeError):
                courier.serve(str(self._path), self, 0.1, pause_s=PAUSE_SECONDS, look_s=0.05)
            time.sleep(PAUSE_SECONDS)

    def _run(self, life: int, agent: Path, node: int, number: int, parcel: bytes) -> None:
        with self._locks[node]:
            answer, reason = None, "lost"
            try:
                for one in self._tampered(node, up=False, parcel=parcel):
                    answer = courier.ask(str(agent), one)
            except RuntimeError as error:
                reason = str(error)
            if answer is not None:
                answer = next(reversed(self._tampered(node, up=True, parcel=answer)), None)
        with self._turn:
            if life == self._life:
                self._over.append((node, number, answer, reason))

    def _tampered(self, node: int, *, up: bool, parcel: bytes) -> list[bytes]:
        return [parcel] if self.tamper is None else list(self.tamper(node, up, parcel))


class RunningFlower(RunningDialled):
    """Parties behind a :class:`FakeFleet`.

    Attributes
    ----------
    fleet : FakeFleet
    options : dict
        More options of parties' ends that are started from now on.
    """

    fleet: FakeFleet
    folder: Path
    options: dict[str, Any]

    def start(self, name: str, *, process: bool = False) -> None:
        if process:
            self.fleet.add(self.folder / f"{name}.sock")
        super().start(name, process=process)

    def more(self) -> dict[str, Any]:
        path = self.folder / f"agent-{len(self._threads)}.sock"
        self.fleet.add(path)
        return {"socket": path, "coordinator": self.coordinator.fingerprint, **self.options}

    def restart_app(self) -> None:
        """End the fleet, as if the app were killed, and have another with the same nodes."""
        self.fleet.close()
        self.fleet = FakeFleet(self.channel.socket, self.fleet.agents)

    def restart_channel(self) -> None:
        self.channel.close()
        self.channel = self._rig.make(self._prints, **self.coordinator.files)


class FlowerRig(DialledRig):
    """Flower, but for Flower."""

    relayed = False

    def __init__(self) -> None:
        super().__init__("flower", FlowerChannel, serve_flower)

    def _running(self, stack: contextlib.ExitStack, folder: Path, *parts: Any) -> RunningFlower:
        running = RunningFlower(self, *parts)
        running.folder, running.fleet, running.options = folder, FakeFleet(running.channel.socket), {}
        stack.callback(lambda: running.fleet.close())
        return running
