"""Channels on loopback: one exchange, big messages, bytes on the wire, and a whole ECOD federation of three parties.

Every party is a process of its own but for ``memory``; HTTPS and gRPC speak mutual TLS with certificates made for the
run, MQTT does so through a mosquitto that is started for it, and is left out where there is none. An exchange asks
three parties at a time and ends when all have answered. Bytes on the wire are counted by a relay between the parties
and the coordinator, or the broker: TLS records and everything in them, without TCP and IP; the overhead is what is left
when the messages themselves are taken off. The federation is ``fit(ECOD)`` on three parties' CSV files, from the first
request to the model; the parties are running and have been greeted; every model is held against the embedded one.

    python benchmarks/channels.py [--exchanges 300] [--rows 20000] [--only mqtt https]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

import blindsight as bs
from blindsight import modelfile
from blindsight.channels import Channel, GrpcChannel, HttpsChannel, MqttChannel
from blindsight.data import Column
from blindsight.federation import Policy
from blindsight.federation._home import provision
from blindsight.testing import (
    NO_MOSQUITTO,
    InsecureAuthority,
    MemoryRig,
    Mosquitto,
    MqttRig,
    ProcessRig,
    grpc_rig,
    https_rig,
)

BAR_MS = 50.0
NAMES = ["party-a", "party-b", "party-c"]
RIGS = {"memory": MemoryRig, "process": ProcessRig, "https": https_rig, "grpc": grpc_rig, "mqtt": MqttRig}
DIALLED = {"https": HttpsChannel, "grpc": GrpcChannel, "mqtt": MqttChannel}
SMALL, BIG = 200, 64 << 20
WIRE_EXCHANGES = 50


@contextlib.contextmanager
def parties(kind: str, *, relay: bool = False) -> Iterator[tuple[Channel, object]]:
    """A channel to three processes that answer with what they were sent, reversed; warm."""
    rig = RIGS[kind]()
    options = {"absent": NAMES, "relay": relay} if rig.dialled else {}
    with rig.running(NAMES, **options) as running:
        for name in NAMES if rig.dialled else ():
            running.start(name, process=True)
        for _ in range(5):
            assert len(running.channel.exchange(dict.fromkeys(NAMES, b"warm"), 60)) == 3
        yield running.channel, getattr(running, "relay", None)


def exchange_times(kind: str, count: int) -> tuple[float, float, float]:
    """Median and 95th percentile of one exchange with three parties, in ms; seconds for 64 MiB each way with one."""
    with parties(kind) as (channel, _):
        times = []
        for number in range(count):
            requests = {name: bytes([number % 256]) * SMALL for name in NAMES}
            begin = time.perf_counter()
            answers = channel.exchange(requests, 60)
            times.append(1000 * (time.perf_counter() - begin))
            assert answers == requests
        big = os.urandom(BIG)
        begin = time.perf_counter()
        assert channel.exchange({NAMES[0]: big}, 300)[NAMES[0]] == big[::-1]
        seconds = time.perf_counter() - begin
    return statistics.median(times), float(np.percentile(times, 95)), seconds


def overhead(kind: str, size: int) -> tuple[float, float]:
    """Bytes on the wire for one party in one exchange beyond the two messages: to the coordinator, to the party."""
    with parties(kind, relay=True) as (channel, relay):
        before = relay.up_bytes, relay.down_bytes
        for _ in range(WIRE_EXCHANGES):
            assert len(channel.exchange(dict.fromkeys(NAMES, bytes(size)), 60)) == 3
        asked = WIRE_EXCHANGES * len(NAMES)
        return (relay.up_bytes - before[0]) / asked - size, (relay.down_bytes - before[1]) / asked - size


def federation_seconds(kind: str, rows: int, folder: Path) -> tuple[float, int, bytes]:
    """Seconds of one fit, bytes of its messages, and the model's own bytes."""
    generator = np.random.default_rng(0)
    columns = [f"f{i}" for i in range(10)]
    schema = bs.Schema(tuple(Column(name=name, low=-6, high=6) for name in columns))
    tables = {name: pl.DataFrame(generator.normal(size=(rows, 10)), schema=columns) for name in NAMES}
    paths = {name: folder / f"{name}.csv" for name in NAMES}
    for name, table in tables.items():
        table.write_csv(paths[name])
    policy = Policy(allow_exact_sums=True)
    with contextlib.ExitStack() as stack:
        if kind == "memory":
            federation = bs.Federation.embedded(paths, schema=schema, policy=policy)
        elif kind == "process":
            federation = bs.Federation.processes(paths, schema=schema, home=folder / "home", policy=policy)
        else:
            listing = provision(folder / "home", data=paths, evaluation={}, schema=schema, policy=policy, key_file=None)
            authority = InsecureAuthority(folder)
            issued = {name: authority.issue(name) for name in NAMES}
            prints = {name: one.fingerprint for name, one in issued.items()}
            own, where = authority.issue("coordinator", server=True), {}
            if kind == "mqtt":
                where["port"] = stack.enter_context(Mosquitto.open_to_all(folder, authority)).port
            channel = DIALLED[kind](prints, **own.files, **where)
            stack.enter_context(channel)
            for name, one in issued.items():
                command = [sys.executable, "-m", "blindsight.federation.worker", str(folder / "home" / name)]
                command += ["--url", channel.url, "--certificate", str(one.certificate)]
                command += ["--private-key", str(one.private_key), "--authority", str(one.authority)]
                command += ["--coordinator", own.fingerprint]
                process = stack.enter_context(subprocess.Popen(command))
                stack.callback(process.terminate)
            federation = bs.Federation.over(channel, participants=listing, schema=schema, greeting_s=200)
        with federation:
            begin = time.perf_counter()
            model = federation.fit(bs.ECOD(), privacy=None)
            seconds = time.perf_counter() - begin
            traffic = sum(step.sent_bytes + step.received_bytes for step in federation.history[0].steps)
    model.certificate_ = model.provenance_ = None
    return seconds, traffic, modelfile.dumps(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exchanges", type=int, default=300)
    parser.add_argument("--rows", type=int, default=20_000, help="of each party")
    parser.add_argument("--only", nargs="+", choices=sorted(RIGS), help="and memory, for the model")
    options = parser.parse_args()
    kinds = [kind for kind in RIGS if options.only is None or kind in ("memory", *options.only)]
    if NO_MOSQUITTO is not None and "mqtt" in kinds:
        kinds.remove("mqtt")
        print(f"mqtt is left out: {NO_MOSQUITTO}")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")

    print(f"\nOne exchange with three parties, {SMALL} bytes each way; {BIG >> 20} MiB each way with one")
    print(f"{'channel':10}{'median':>10}{'95%':>10}{'64 MiB':>10}")
    slow = []
    for kind in kinds:
        median, upper, big = exchange_times(kind, options.exchanges)
        print(f"{kind:10}{median:7.2f} ms{upper:7.2f} ms{big:8.2f} s")
        if median >= BAR_MS:
            slow.append(kind)

    print("\nBytes on the wire beyond the messages, for one party in one exchange")
    print(f"{'channel':10}{'message':>12}{'up':>10}{'down':>10}")
    for kind in [kind for kind in kinds if kind in DIALLED]:
        for size in (SMALL, 1 << 20):
            up, down = overhead(kind, size)
            print(f"{kind:10}{size:>12,}{up:>10,.0f}{down:>10,.0f}")

    print(f"\nfit(ECOD) of three parties, {options.rows:,} records of 10 features each")
    print(f"{'channel':10}{'wall':>10}{'messages':>14}  model")
    models = {}
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            seconds, traffic, models[kind] = federation_seconds(kind, options.rows, Path(folder))
        same = "as embedded, bit for bit" if models[kind] == models["memory"] else "DIFFERS"
        print(f"{kind:10}{seconds:8.2f} s{traffic:>12,} B  {same}")
    if slow or len(set(models.values())) > 1:
        sys.exit(f"missed: {', '.join(slow) or 'models differ'}")


if __name__ == "__main__":
    main()
