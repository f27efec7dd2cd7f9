"""How each kind of channel is set up for the suite: its parties started, stopped, killed, cut off."""

from __future__ import annotations

import contextlib
import datetime
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from blindsight.channels import (
    Channel,
    GrpcChannel,
    HttpsChannel,
    MemoryChannel,
    MqttChannel,
    ProcessChannel,
    serve_grpc,
    serve_https,
    serve_mqtt,
)

from . import _party_script as party
from ._authority import InsecureAuthority, Issued
from ._mosquitto import Mosquitto
from ._party_script import BACKOFF_SECONDS, Script
from ._relay import ChaosRelay

__all__ = [
    "DialledRig",
    "MemoryRig",
    "MqttRig",
    "ProcessRig",
    "Rig",
    "Running",
    "RunningDialled",
    "grpc_rig",
    "https_rig",
]

HOUR = datetime.timedelta(hours=1)
MINUTE = datetime.timedelta(minutes=1)
REFUSALS = (
    "handshake was refused: certificate has expired",
    "handshake was refused: certificate signature failure",
    "on no list",
    "calls itself",
)
# by its path: as a module it would import the whole package around it, seconds for each process
PARTY = [sys.executable, "-P", party.__file__]


class Running:
    """A channel and its parties.

    Attributes
    ----------
    channel : Channel
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def start(self, name: str, *, process: bool = False) -> None:
        """Start a party that is not there."""
        raise NotImplementedError

    def kill(self, name: str) -> None:
        """SIGKILL a party's process."""
        raise NotImplementedError


class Rig(ABC):
    """Makes channels of one kind.

    Attributes
    ----------
    name : str
    processes : bool
        Parties may be processes of their own, which can be killed.
    dialled : bool
        Parties dial out, may come late, and may come back.
    relayed : bool
        A relay for TCP may be put between.
    """

    name: str
    processes = False
    dialled = False
    relayed = False

    @abstractmethod
    def running(
        self, names: Sequence[str], *, absent: Sequence[str] = (), relay: bool = False
    ) -> contextlib.AbstractContextManager[Any]:
        """A channel (:class:`Running`) to parties that follow a :class:`Script`; the absent ones are not started."""


class MemoryRig(Rig):
    """Parties are functions."""

    name = "memory"

    @contextlib.contextmanager
    def running(self, names: Sequence[str], *, absent: Sequence[str] = (), relay: bool = False) -> Iterator[Running]:
        """A channel."""
        del absent, relay
        with MemoryChannel({name: Script() for name in names}) as channel:
            yield Running(channel)


class _RunningProcesses(Running):
    def kill(self, name: str) -> None:
        assert isinstance(self.channel, ProcessChannel)
        self.channel._processes[name].kill()


class ProcessRig(Rig):
    """Parties are processes that the channel starts itself."""

    name = "process"
    processes = True

    @contextlib.contextmanager
    def running(self, names: Sequence[str], *, absent: Sequence[str] = (), relay: bool = False) -> Iterator[Running]:
        """A channel."""
        del absent, relay
        command = [*PARTY, "stdio"]
        with ProcessChannel(dict.fromkeys(names, command)) as channel:
            yield _RunningProcesses(channel)


class RunningDialled(Running):
    """Parties are threads of this process unless a process is asked for.

    Attributes
    ----------
    relay : ChaosRelay or None
        Between the parties and the channel.
    authority : InsecureAuthority
    issued : dict of name to Issued
    coordinator : Issued
    broker : Mosquitto or None
        Through which all of it goes.
    """

    def __init__(
        self,
        rig: DialledRig,
        channel: Any,
        relay: ChaosRelay | None,
        authority: InsecureAuthority,
        issued: dict[str, Issued],
        coordinator: Issued,
        broker: Mosquitto | None,
    ) -> None:
        super().__init__(channel)
        self.channel: Any = channel
        self.relay: Any = relay
        self.authority, self.issued, self.coordinator, self.broker = authority, issued, coordinator, broker
        self._rig = rig
        self._prints = {name: one.fingerprint for name, one in issued.items()}
        there = urlsplit(channel.url)
        self.url = channel.url if relay is None else f"{there.scheme}://127.0.0.1:{relay.port}"
        self._threads: list[tuple[threading.Thread, threading.Event]] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *, process: bool = False) -> None:
        if process:
            folder = self.issued[name].certificate.parent
            command = [*PARTY, self._rig.name, self.url, name, str(folder)]
            self._processes[name] = subprocess.Popen(command)
        else:
            self.serve(name, self.issued[name], Script())

    def serve(self, name: str, issued: Issued, handler: Callable[[bytes], bytes]) -> None:
        """Start a thread that calls itself ``name`` and shows any certificate."""
        stop = threading.Event()
        options = {"name": name, "stop": stop, "max_backoff_s": BACKOFF_SECONDS, **issued.files, **self.more()}
        thread = threading.Thread(target=self._rig.serve, args=(handler, self.url), kwargs=options, daemon=True)
        thread.start()
        self._threads.append((thread, stop))

    def more(self) -> dict[str, Any]:
        """Options of the party's end that only this kind of channel has."""
        return {} if self.broker is None else {"coordinator": self.coordinator.fingerprint}

    def kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def restart_channel(self) -> None:
        """End the coordinator's end and make it anew at the same address, with nothing remembered."""
        port = urlsplit(self.channel.url).port
        self.channel.close()
        self.channel = self._rig.make(self._prints, **self.coordinator.files, port=port)

    def terminate(self, name: str) -> int:
        """SIGTERM a party's process; its exit status."""
        process = self._processes.pop(name)
        process.terminate()
        return process.wait(20)

    def end(self) -> None:
        for _, stop in self._threads:
            stop.set()
        for process in self._processes.values():
            process.kill()
            process.wait()
        for thread, _ in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a party that is told to stop stops"


class DialledRig(Rig):
    """Parties dial the channel, with certificates of an authority made for the occasion.

    Parameters
    ----------
    name : str
        As the party module calls it.
    make : callable
        The channel's class.
    serve : callable
        The party's end.
    refusals : sequence of str, optional
        What the log says of strangers.
    """

    processes = True
    dialled = True
    relayed = True

    def __init__(
        self, name: str, make: Callable[..., Any], serve: Callable[..., None], refusals: Sequence[str] = REFUSALS
    ) -> None:
        self.name, self.make, self.serve, self.refusals = name, make, serve, refusals

    @contextlib.contextmanager
    def running(
        self,
        names: Sequence[str],
        *,
        absent: Sequence[str] = (),
        relay: bool = False,
        expired: Sequence[str] = (),
    ) -> Iterator[RunningDialled]:
        """A channel; ``expired`` parties are on its list with certificates that have."""
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            authority = InsecureAuthority(Path(folder))
            coordinator = authority.issue("coordinator", server=True)
            issued = {name: authority.issue(name, lasts=-MINUTE if name in expired else HOUR) for name in names}
            broker = self._broker(Path(folder), authority, stack)
            where = {} if broker is None else {"port": broker.port}
            channel = self.make({name: one.fingerprint for name, one in issued.items()}, **coordinator.files, **where)
            stack.callback(channel.close)
            there = urlsplit(channel.url)
            between = stack.enter_context(ChaosRelay(there.hostname or "", there.port or 0)) if relay else None
            running = self._running(stack, Path(folder), channel, between, authority, issued, coordinator, broker)
            stack.callback(lambda: running.channel.close())
            stack.callback(running.end)
            for name in names:
                if name not in absent:
                    running.start(name)
            yield running

    def _running(self, stack: contextlib.ExitStack, folder: Path, *parts: Any) -> RunningDialled:
        """What a test holds; whatever it starts besides, ``stack`` ends after channel and parties."""
        del stack, folder
        return RunningDialled(self, *parts)

    def _broker(self, folder: Path, authority: InsecureAuthority, stack: contextlib.ExitStack) -> Mosquitto | None:
        """What stands between the channel and its parties, if anything does."""
        del folder, authority, stack
        return None


class MqttRig(DialledRig):
    """MQTT, through a real broker that lets everybody do everything: the two ends refuse by themselves."""

    def __init__(self) -> None:
        super().__init__("mqtt", MqttChannel, serve_mqtt)

    def _broker(self, folder: Path, authority: InsecureAuthority, stack: contextlib.ExitStack) -> Mosquitto | None:
        return stack.enter_context(Mosquitto.open_to_all(folder, authority))


def https_rig() -> DialledRig:
    """HTTPS."""
    return DialledRig("https", HttpsChannel, serve_https)


def grpc_rig() -> DialledRig:
    """gRPC, which does not tell the log why a handshake failed."""
    return DialledRig("grpc", GrpcChannel, serve_grpc, ("on no list", "calls itself"))
