"""One release on a real ledger file; killed with SIGKILL just before its k-th step, for k = 0, 1, 2, ... in turn.

Each attempt is a process of its own (forked before the store is opened), on a file of its own. Steps are all SQL
statements of charge, output and look-up, the draw of the noise, and the publication (a file, written and renamed).
Prints one JSON line per attempt: {"k": k, "killed": true or false, "steps": [...]}.
"""

import json
import os
import signal
import sys
from pathlib import Path

from blindsight.privacy import Budget, DifferentialPrivacy, Ledger, discrete_gaussian, epsilon_of
from blindsight.store import Store

DP = DifferentialPrivacy(epsilon=1.0, delta=1e-6, shares={"fit": 1.0})
EVENT = DP.event(query="crash", purpose="fit", sensitivity_l2=1.0, coordinates=16, threshold=3)
BUDGET = Budget(epsilon=1.0, delta=1e-6)  # carries this release once, not twice
RELEASE = "run/1"


class Watched:
    """A SQLite connection that reports each statement before it runs."""

    def __init__(self, db, step):
        self._db, self._step = db, step

    def execute(self, sql, *values):
        self._step(sql.split()[0])
        return self._db.execute(sql, *values)

    def __getattr__(self, name):
        return getattr(self._db, name)


def release(folder: Path, step) -> bytes:
    """What a party does for one release; safe to repeat at any time."""
    with Store(folder / "ledger.db") as store:
        store._db = Watched(store._db, step)
        ledger = Ledger(store, BUDGET)
        ledger.reserve(RELEASE, EVENT)
        output = ledger.output(RELEASE)
        if output is None:
            step("draw")
            output = discrete_gaussian(EVENT.local_variance, EVENT.coordinates).tobytes()
            step("drawn")
            ledger.record_output(RELEASE, output)
        step("write")
        (folder / "published.tmp").write_bytes(output)
        step("publish")
        os.replace(folder / "published.tmp", folder / "published")
        step("done")
        return output


def attempt(folder: Path, k: int) -> dict:
    folder.mkdir()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def step(name: str) -> None:
            nonlocal count
            if count == k:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(write, (name + "\n").encode())
            count += 1

        release(folder, step)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        steps = pipe.read().split()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return {"k": k, "killed": code != 0, "steps": steps}


if __name__ == "__main__":
    epsilon_of([EVENT], 1e-6)  # load what is loaded lazily once, before the forks
    for k in range(200):
        report = attempt(Path(sys.argv[1]) / str(k), k)
        print(json.dumps(report), flush=True)
        if not report["killed"]:
            break
