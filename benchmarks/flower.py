"""One ECOD federation of three parties through Flower, beside Flower's own FedAvg of a vector of the same length.

The same SuperLink and SuperNodes on this machine carry both, one after the other: TLS, node keys, a process of Flower's
for each message. ``fit(ECOD)`` is from the first request to the model, parties greeted and sessions established; before
it, the first greeting is timed, which establishes them. The model is held against the embedded one, bit for bit. FedAvg
is ``flwr.serverapp.strategy.FedAvg`` without evaluation, over a vector of 64-bit numbers as long as the longest sum of
the fit; its clients send it back. It hides nothing from the SuperLink and adds up once a round; the fit has two sums of
several phases each. FedAvg's time is taken inside its server, without the start of that process.

    python benchmarks/flower.py [--rows 20000] [--exchanges 10]       # needs Flower: BLINDSIGHT_FLOWER, or .venv/flower
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
from pathlib import Path

import numpy as np
import polars as pl

import blindsight as bs
from blindsight import modelfile
from blindsight.channels import FlowerChannel, write_flower_app
from blindsight.data import Column
from blindsight.federation import Policy
from blindsight.federation._home import provision
from blindsight.testing import FlowerFleet, InsecureAuthority, flower_bin

NAMES = ["party-a", "party-b", "party-c"]
PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "plain-average"
version = "1.0.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41,<1.42"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "blindsight"
[tool.flwr.app.components]
serverapp = "average.server:app"
clientapp = "average.client:app"
[tool.flwr.app.config]
length = 0
rounds = 0
told = ""
"""
CLIENT = """\
from flwr.app import MetricRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    content = RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)
"""
SERVER = """\
import time
from pathlib import Path
import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid, context):
    config = context.run_config
    vector = ArrayRecord([np.zeros(config["length"])])
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    begin = time.perf_counter()
    result = strategy.start(grid, vector, num_rounds=config["rounds"])
    seconds = time.perf_counter() - begin
    assert len(result.train_metrics_clientapp) == config["rounds"]
    Path(config["told"]).write_text(str(seconds))
"""


def write_fedavg(folder: Path) -> Path:
    """Flower's own average, as an app."""
    (folder / "average").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "LICENSE").write_text("Apache-2.0\n")
    for name, text in (("__init__", ""), ("client", CLIENT), ("server", SERVER)):
        (folder / "average" / f"{name}.py").write_text(text)
    return folder


def ended(fleet: FlowerFleet, run: int) -> None:
    """Wait until a run is over, and well."""
    while (status := fleet.status(run)) != "finished:completed":
        if status.startswith("finished"):
            raise RuntimeError(f"{status}\n{fleet.told('superlink')[-3000:]}")
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="of each party")
    parser.add_argument("--exchanges", type=int, default=10)
    options = parser.parse_args()
    commands = flower_bin()
    if commands is None:
        print("Flower is not there: make flower, or set BLINDSIGHT_FLOWER to the folder of its commands")
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    generator = np.random.default_rng(0)
    columns = [f"f{i}" for i in range(10)]
    schema = bs.Schema(tuple(Column(name=name, low=-6, high=6) for name in columns))
    policy = Policy(allow_exact_sums=True)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        paths = {name: folder / f"{name}.csv" for name in NAMES}
        for path in paths.values():
            pl.DataFrame(generator.normal(size=(options.rows, 10)), schema=columns).write_csv(path)
        listing = provision(folder / "home", data=paths, evaluation={}, schema=schema, policy=policy, key_file=None)
        authority = InsecureAuthority(folder)
        issued = {name: authority.issue(name) for name in NAMES}
        prints = {name: one.fingerprint for name, one in issued.items()}
        agents = {name: folder / f"{name}.sock" for name in NAMES}
        own = authority.issue("coordinator", server=True)
        channel = stack.enter_context(FlowerChannel(prints, **own.files))
        for name, one in issued.items():
            command = [sys.executable, "-m", "blindsight.federation.worker", str(folder / "home" / name)]
            command += ["--url", "flower://here", "--socket", str(agents[name]), "--certificate", str(one.certificate)]
            command += ["--private-key", str(one.private_key), "--authority", str(one.authority)]
            command += ["--coordinator", own.fingerprint]
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.terminate)
        begin = time.perf_counter()
        fleet = stack.enter_context(FlowerFleet(commands, folder / "fleet", agents))
        print(f"SuperLink and three SuperNodes are up after {time.perf_counter() - begin:.1f} s")

        told = folder / "told"
        run = fleet.run(write_flower_app(folder / "app"), socket=str(channel.socket), wait_s=60.0)
        begin = time.perf_counter()
        federation = bs.Federation.over(channel, participants=listing, schema=schema, greeting_s=200)
        greeting_s = time.perf_counter() - begin
        times = []
        for _ in range(options.exchanges):
            begin = time.perf_counter()
            federation.greet()
            times.append(time.perf_counter() - begin)
        before, begin = channel.traffic.exchanges, time.perf_counter()
        model = federation.fit(bs.ECOD(), privacy=None)
        fit_s = time.perf_counter() - begin
        exchanges, steps = channel.traffic.exchanges - before, federation.history[0].steps
        federation.close()
        ended(fleet, run)

        inside = bs.Federation.embedded(paths, schema=schema, policy=policy).fit(bs.ECOD(), privacy=None)
        model.certificate_ = model.provenance_ = inside.certificate_ = inside.provenance_ = None
        same = modelfile.dumps(model) == modelfile.dumps(inside)

        length = max(step.length for step in steps)
        run = fleet.run(write_fedavg(folder / "fedavg"), length=length, rounds=len(steps), told=str(told))
        ended(fleet, run)
        fedavg_s = float(told.read_text())

    print(f"first greeting, with three handshakes: {greeting_s:.1f} s")
    print(f"one exchange with three parties: median {statistics.median(times):.1f} s of {len(times)}, "
          f"from {min(times):.1f} to {max(times):.1f} s")  # fmt: skip
    print(f"fit(ECOD), {len(NAMES)} x {options.rows:,} records of 10 features: {fit_s:.1f} s, {len(steps)} sums of "
          f"{', '.join(f'{step.length:,}' for step in steps)} numbers, {exchanges} exchanges, "
          f"model {'as embedded, bit for bit' if same else 'DIFFERS from the embedded one'}")  # fmt: skip
    print(f"FedAvg of {length:,} numbers, {len(steps)} rounds, in the clear at the SuperLink: {fedavg_s:.1f} s")
    print(
        f"ratio {fit_s / fedavg_s:.1f}; per exchange {fit_s / exchanges:.1f} s, per round {fedavg_s / len(steps):.1f} s"
    )


if __name__ == "__main__":
    main()
