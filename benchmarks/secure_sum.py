"""Private sums: wall time of all parties and the coordinator, one party's own part, and bytes; beside two peers.

Every sum runs from keys to unmasking in one process and one thread, moves only bytes, and is checked against NumPy's
sum of the survivors' vectors. "party" is the slowest party's own computing time over its five answers.

A second table sets the three ways to hide the vectors side by side: masks, BFV and Paillier (``--methods`` prints it
alone). It counts processor time of one core, which another load on the machine changes less than wall time; the wall
time stands beside it. Every sum there has 64 bits a coordinate, as federations use.

Peers in the same run: ``numpy`` is the same sum in the clear. ``flower`` runs the functions of Flower 1.41's SecAgg+
(shares, pairwise keys, masks, unmasking) on a complete graph, without its transport, quantisation and orchestration,
in a process of Flower's own environment; its masks have 32 bits of seed (a Mersenne twister), its keys are unsigned,
and no survivor set is confirmed. Without that environment the line is left out.

Run: ``python benchmarks/secure_sum.py``: about a minute; ``--quick`` leaves out n=100, ``--large`` adds n=100 with a
million coordinates (2 GB of memory, since all parties are in this process).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from _flower import flower_python
from blindsight.securesum import (
    Participant,
    Phase,
    SumSpec,
    default_threshold,
    make_client,
    make_server,
    smallest_width,
)

Ints = npt.NDArray[np.int64]
MAX_ABS = 1_000_000


class Signer:
    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes, /) -> bytes:
        return self._key.sign(message)


@dataclass(frozen=True, kw_only=True)
class Measured:
    wall_s: float
    party_s: float
    server_s: float
    up_bytes: int
    down_bytes: int
    numpy_s: float
    survivors: int
    party_cpu_s: float
    server_cpu_s: float


def measure(
    n: int,
    length: int,
    *,
    bits: int | None = None,
    drop_at: Phase | None = None,
    dropped: int = 2,
    method: str = "masked",
) -> Measured:
    names = [f"party-{i:03d}" for i in range(n)]
    signers = {name: Signer() for name in names}
    spec = SumSpec(
        federation="benchmark",
        run="run",
        step="step",
        participants=tuple(Participant(name=name, public_key=signers[name].public) for name in names),
        length=length,
        bits=bits or smallest_width(n, MAX_ABS),  # type: ignore[arg-type]
        threshold=default_threshold(n),
        max_abs=MAX_ABS,
        method=method,  # type: ignore[arg-type]
    )
    generator = np.random.default_rng(0)
    vectors = {name: generator.integers(-MAX_ABS, MAX_ABS, length, endpoint=True) for name in names}
    clients = {name: make_client(spec, name, signers[name]) for name in names}
    cpu, server_cpu = dict.fromkeys(names, 0.0), 0.0
    own, up, down = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0), dict.fromkeys(names, 0)

    start = time.perf_counter()
    server = make_server(spec)
    silent: set[str] = set()
    while server.phase is not Phase.DONE:
        if server.phase is drop_at:
            silent = set(names[:: max(1, n // dropped)][:dropped])
        spent = time.process_time()
        requests = server.requests()
        server_cpu += time.process_time() - spent
        for name, request in requests.items():
            if name in silent:
                continue
            began, spent = time.perf_counter(), time.process_time()
            reply = clients[name].handle(request, lambda name=name: vectors[name])
            own[name] += time.perf_counter() - began
            cpu[name] += time.process_time() - spent
            up[name] += len(reply)
            down[name] += len(request)
            spent = time.process_time()
            assert server.receive(name, reply)
            server_cpu += time.process_time() - spent
        spent = time.process_time()
        server.close_phase()
        server_cpu += time.process_time() - spent
    total = server.result()
    wall = time.perf_counter() - start

    began = time.perf_counter()
    clear = np.zeros(length, dtype=np.int64)
    for name in server.survivors:
        clear += vectors[name]
    numpy_s = time.perf_counter() - began
    np.testing.assert_array_equal(total, clear)
    return Measured(
        wall_s=wall,
        party_s=max(own.values()),
        server_s=wall - sum(own.values()),
        up_bytes=max(up.values()),
        down_bytes=max(down.values()),
        numpy_s=numpy_s,
        survivors=len(server.survivors),
        party_cpu_s=max(cpu.values()),
        server_cpu_s=server_cpu,
    )


def compare_methods() -> None:
    """Masks, BFV and Paillier for the same sums."""
    cases = [(3, 1_000), (3, 100_000), (20, 1_000), (20, 100_000)]
    runs = [(method, n, length) for n, length in cases for method in ("masked", "he")]
    runs += [("paillier", 3, 1_000), ("paillier", 20, 100)]
    for method in ("he", "paillier"):
        measure(3, 1, bits=64, method=method)  # set-up of the libraries, once a process
    print(f"\n{'method':>9} {'n':>4} {'length':>9} {'party CPU s':>12} {'server CPU s':>12} ", end="")
    print(f"{'wall s':>8} {'up kB':>9} {'down kB':>9} {'colluders':>9}")
    for method, n, length in sorted(runs, key=lambda run: run[1:]):
        got = measure(n, length, bits=64, method=method)
        colluders = 2 * default_threshold(n) - n - 1 if method == "masked" else 0
        print(
            f"{method:>9} {n:>4} {length:>9,} {got.party_cpu_s:>12.4f} {got.server_cpu_s:>12.4f} "
            f"{got.wall_s:>8.2f} {got.up_bytes / 1000:>9.1f} {got.down_bytes / 1000:>9.1f} {colluders:>9}",
            flush=True,
        )


def measure_flower(n: int, length: int) -> tuple[float, float] | None:
    """Seconds of all parties and server, and of one party, in Flower's own SecAgg+ functions; None without Flower."""
    python = flower_python()
    if python is None:
        return None
    script = Path(__file__).with_name("_flower_secagg.py")
    done = subprocess.run(
        [python, script, str(n), str(length), str(default_threshold(n)), str(MAX_ABS)],
        capture_output=True,
        check=True,
        timeout=600,
    )
    found = json.loads(done.stdout)
    return found["wall_s"], found["party_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out n=100")
    parser.add_argument("--large", action="store_true", help="add n=100, length 1,000,000")
    parser.add_argument("--methods", action="store_true", help="only the table of masks, BFV and Paillier")
    options = parser.parse_args()
    if options.methods:
        compare_methods()
        return

    cases: list[tuple[int, int, int | None, Phase | None]] = [(3, 100_000, None, None), (20, 100_000, None, None)]
    cases += [(20, 100_000, None, phase) for phase in Phase if phase is not Phase.DONE]
    cases += [(20, 100_000, 64, None), (20, 1_000_000, None, None)]
    if not options.quick:
        cases += [(100, 100_000, None, None), (100, 100_000, None, Phase.MASK)]
    if options.large:
        cases += [(100, 1_000_000, None, Phase.MASK)]
    head = f"{'n':>4} {'length':>9} {'bits':>4} {'two drop at':>11} {'in sum':>6} "
    print(head + f"{'wall s':>8} {'party s':>8} {'server s':>8} {'up kB':>8} {'down kB':>8} {'numpy ms':>8}")
    for n, length, bits, phase in cases:
        got = measure(n, length, bits=bits, drop_at=phase)
        where, width = "-" if phase is None else phase.label, bits or smallest_width(n, MAX_ABS)
        print(
            f"{n:>4} {length:>9,} {width:>4} {where:>11} "
            f"{got.survivors:>6} {got.wall_s:>8.3f} {got.party_s:>8.4f} {got.server_s:>8.3f} "
            f"{got.up_bytes / 1000:>8.1f} {got.down_bytes / 1000:>8.1f} {1000 * got.numpy_s:>8.2f}",
            flush=True,
        )
    compare_methods()
    peer = measure_flower(20, 100_000)
    if peer is None:
        print("\nflower: no environment of its own here (make .venv/.flower); not measured")
    else:
        ours = measure(20, 100_000, bits=None, drop_at=None)
        print(
            f"\nn=20, length 100,000, no dropout: flower's SecAgg+ functions {peer[0]:.3f} s, one party "
            f"{peer[1]:.4f} s; ours {ours.wall_s:.3f} s, {ours.party_s:.4f} s: {peer[0] / ours.wall_s:.1f} and "
            f"{peer[1] / ours.party_s:.1f} times faster"
        )


if __name__ == "__main__":
    main()
