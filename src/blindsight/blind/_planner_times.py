"""How long it takes: constants measured once, times what a circuit asks for. Estimates, within a factor of about two."""

from __future__ import annotations

from dataclasses import dataclass

from ._ckks_circuit import IntegerNetwork
from ._ckks_plan import CkksParameters
from ._plan import BlindParameters
from .mpc._program import Program

__all__ = ["Times", "bfv_times", "ckks_times", "mpc_times"]

# Printed by benchmarks/blind_costs.py, on one core of a machine with two, beside other load.
# MPC: all operators in one process, so that no network is in it; each round trip between them adds its own time.
BFV_MS = {
    ("rows", 4096): (3.0, 0.65, 4.1, 1.4),
    ("columns", 4096): (4.6, 0.05, 3.9, 1.7),
    ("rows", 8192): (9.3, 2.6, 16.0, 8.3),
    ("columns", 8192): (17.0, 0.11, 14.0, 5.9),
}
"""By packing and N: to seal and to answer an uploaded ciphertext; to mask and protect an answer; to open it."""

CKKS_SEAL_NS, CKKS_PRODUCT_NS, CKKS_WORD_NS, CKKS_OPEN_NS = 300.0, 0.14, 7.0, 80.0
"""An input, prime and coefficient; a weight times a residue; a residue read, squared or summed; an answer's residue."""

COMPARISON_SET_UP_S, COMPARISON_US, COMPARISON_BYTES = 12.0, 21.0, 91.0
"""Of a verdict on encrypted scores: CHEETAH, oblivious transfers by Ferret."""

MPC_SHARE_NS = {"aby3": 20.0, "cheetah": 20.0}
"""To share one number of a record."""

MPC_MS = {
    "aby3": (1.0, 10.0, 10.0, 2.0, 3.0),
    "cheetah": (1.0, 10.0, 100.0, 5.0, 50.0),
}
"""Set-up in seconds; a run in milliseconds; nanoseconds a product; microseconds a nonlinear step, and a comparison."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Estimated times of one batch.

    Parameters
    ----------
    owner_ms : float
        To seal and to open, on one core.
    server_ms : float
        To answer, on one core: the model's holder, or each operator.
    set_up_s : float
        Once, before the first.
    """

    owner_ms: float
    server_ms: float
    set_up_s: float


def bfv_times(p: BlindParameters, rows: int) -> Times:
    """Estimate a batch under BFV; of verdicts including the comparisons."""
    seal, answer, protect, opened = BFV_MS[p.packing, p.degree]
    groups = p.groups(rows)
    ciphertexts = groups * p.ciphertexts_per_group
    compare_ms = rows * p.thresholds * COMPARISON_US / 1e3
    return Times(
        owner_ms=ciphertexts * seal + groups * opened + compare_ms,
        server_ms=ciphertexts * answer + groups * protect + compare_ms,
        set_up_s=COMPARISON_SET_UP_S if p.thresholds else p.zeros * seal / 1e3,
    )


def ckks_times(p: CkksParameters, network: IntegerNetwork, rows: int) -> Times:
    """Estimate a batch under CKKS."""
    linear = sum(digit.size for digit in network.linear)
    outputs = len(network.linear[0])
    if network.second is None:
        products, words = 2 * linear, 2 * p.entries + 3 * outputs
    else:
        first, second = sum(d.size for d in network.first), sum(d.size for d in network.second)
        hidden = len(network.first[0])
        products, words = 2 * (linear + first) + 3 * second, 2 * p.entries + 3 * hidden + 5 * outputs
    residues, groups = p.count * p.degree, p.groups(rows)
    answer_ns = residues * (products * CKKS_PRODUCT_NS + words * CKKS_WORD_NS)
    open_ns = p.kept * p.degree * p.parts * CKKS_OPEN_NS
    seal_ns = residues * CKKS_SEAL_NS
    return Times(
        owner_ms=groups * (p.entries * seal_ns + open_ns) / 1e6,
        server_ms=groups * answer_ns / 1e6,
        set_up_s=p.zeros * seal_ns / 1e9,
    )


def mpc_times(program: Program, rows: int, runs: int) -> Times:
    """Estimate a batch under MPC, for each operator; network aside."""
    set_up_s, run_ms, product_ns, step_us, compare_us = MPC_MS[program.protocol]
    products, nonlinear = _work(program)
    wide = 1 if program.ring_bits == 64 else 4
    a_row_us = products * product_ns / 1e3 + nonlinear * step_us + (program.answer == "verdict") * compare_us
    return Times(
        owner_ms=rows * program.inputs * wide * MPC_SHARE_NS[program.protocol] / 1e6,
        server_ms=runs * run_ms + rows * a_row_us * wide / 1e3,
        set_up_s=set_up_s,
    )


def _work(program: Program) -> tuple[int, int]:
    """Products with weights, and nonlinear steps on single numbers, of one record."""
    if program.form == "inner_product":
        return program.inputs, 0
    if program.form == "quadratic":
        return program.inputs**2, program.inputs
    products, nonlinear, width = 0, 0, program.inputs
    for step in program.steps:
        if step.kind == "dense":
            products += width * step.outputs
            width = step.outputs
        else:
            nonlinear += width * (TANH_STEPS if step.kind == "tanh" else 1)
    return products, nonlinear + width


TANH_STEPS = 12
"""Products one after the other in a tanh."""
