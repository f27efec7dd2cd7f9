"""Operators as real processes on 127.0.0.1, with real certificates."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blind._recording import free_ports
from blindsight.blind.mpc import MpcHolder, MpcOwner, OperatorAddress, make_certificate
from blindsight.errors import BlindsightError


class Nodes:
    """Two or three ``blindsight mpc-node serve`` in folders of their own.

    ``seen``: what an operator believes the others' links to be, for tests that put something between.
    """

    def __init__(
        self,
        folder: Path,
        operators: int,
        *,
        run_timeout_s: float = 20.0,
        more: Any = lambda rank: "",
        seen: Callable[[int, list[str]], list[str]] = lambda rank, links: links,
    ) -> None:
        self.folder, self.count = folder, operators
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"operator-{rank}" for rank in range(operators)]
        for name in (*names, "owner", "other", "holder", "rival", "stranger"):
            make_certificate(name, folder)
        ports = free_ports(2 * operators)
        self.addresses = [f"127.0.0.1:{port}" for port in ports[:operators]]
        self.links = [f"127.0.0.1:{port}" for port in ports[operators:]]
        clients = "".join(
            f'[[clients]]\nname = "{n}"\nrole = "{r}"\ncertificate = "{n}.crt"\n'
            for n, r in (("owner", "owner"), ("other", "owner"), ("holder", "holder"), ("rival", "holder"))
        )
        for rank, name in enumerate(names):
            entries = "".join(
                f'[[operators]]\naddress = "{a}"\nlink = "{k}"\ncertificate = "{n}.crt"\n'
                for a, k, n in zip(self.addresses, seen(rank, self.links), names, strict=True)
            )
            (folder / f"node-{rank}.toml").write_text(
                f'rank = {rank}\nprivate_key = "{name}.key"\nstate = "state-{rank}"\n'
                f"run_timeout_s = {run_timeout_s}\nconnect_timeout_s = 15.0\n{more(rank)}{entries}{clients}"
            )
        self.processes: list[Any] = [None] * operators
        self.logs = [folder / f"node-{rank}.log" for rank in range(operators)]
        for rank in range(operators):
            self.start(rank)
        try:
            self.wait()
        except BlindsightError:
            self.close()
            raise

    @property
    def operators(self) -> list[OperatorAddress]:
        return [
            OperatorAddress(address=a, certificate=self.folder / f"operator-{rank}.crt")
            for rank, a in enumerate(self.addresses)
        ]

    def identity(self, name: str) -> dict[str, Any]:
        return {"certificate": self.folder / f"{name}.crt", "private_key": self.folder / f"{name}.key"}

    def start(self, rank: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with self.logs[rank].open("ab") as log:
            self.processes[rank] = subprocess.Popen(self.command(rank), cwd=self.folder, stderr=log, env=environment)

    def command(self, rank: int) -> list[str]:
        return [sys.executable, "-m", "blindsight", "mpc-node", "serve", "--config", f"node-{rank}.toml"]

    def wait(self, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                MpcHolder(self.operators, **self.identity("holder")).health()
                return
            except BlindsightError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def kill(self, rank: int) -> None:
        self.processes[rank].kill()
        self.processes[rank].wait()

    def close(self) -> list[int]:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        codes = []
        for process in self.processes:
            try:
                codes.append(process.wait(timeout=30))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
        return codes

    def holder(self) -> MpcHolder:
        return MpcHolder(self.operators, **self.identity("holder"))

    def owner(self, model: str, name: str = "owner", **options: Any) -> MpcOwner:
        return MpcOwner(self.operators, model, **self.identity(name), **options)
