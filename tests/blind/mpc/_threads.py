"""All operators as threads of this process, over memory links: the engine without its network."""

import itertools
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from blindsight.blind.mpc import open_memory_link
from blindsight.blind.mpc._engine import Engine
from blindsight.blind.mpc._program import Program
from blindsight.blind.mpc._shares import split

_count = itertools.count()


class Threads:
    """Operators whose shares a test may look at."""

    def __init__(self, operators: int) -> None:
        self.operators = operators
        self.name = f"test-{next(_count)}"
        self.engines: list[Any] = [None] * operators
        # one lasting thread an operator: SPU's library now and then ends the process when its threads come and go
        self._pools = [ThreadPoolExecutor(1) for _ in range(operators)]
        self.each(self._open)

    def _open(self, rank: int) -> None:
        self.engines[rank] = Engine(open_memory_link(self.name, self.operators, rank))

    def each(self, do: Any) -> list[Any]:
        """What every operator returned, or raised."""
        futures = [pool.submit(do, rank) for rank, pool in enumerate(self._pools)]
        wait(futures, timeout=120)
        return [future.exception(0) or future.result(0) for future in futures]

    def load(self, name: str, program: Program, secrets: list[np.ndarray]) -> list[list[bytes]]:
        shares = [split(program, a, s) for a, s in zip(program.secrets(), secrets, strict=True)]
        mine = [[share[rank] for share in shares] for rank in range(self.operators)]
        for rank, engine in enumerate(self.engines):
            engine.load(name, program, mine[rank])
        return mine

    def run(self, name: str, program: Program, records: np.ndarray, run: str = "run") -> list[Any]:
        shares = split(program, program.records(len(records)), records)
        return self.each(lambda rank: self.engines[rank].run(run, name, len(records), shares[rank]))
