"""How long it takes, and what servers say to each other: measured constants times what a circuit asks for.

Right to a factor of two or so, on such a machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from msgspec import UNSET

from ._ckks_circuit import IntegerNetwork
from ._ckks_plan import CkksParameters
from ._plan import BlindParameters
from .mpc._program import Program
from .mpc._steps import PRECISE

__all__ = ["Times", "bfv_times", "ckks_times", "mpc_times"]

# From what benchmarks/blind_costs.py prints, measured beside other load: encryption in processor time on one thread,
# MPC with all operators on two cores and no network in it: each round trip between them adds its own time.
BFV_MS = {
    ("rows", 4096): (1.6, 0.85, 3.7, 1.4),
    ("columns", 4096): (2.6, 0.04, 5.6, 1.8),
    ("rows", 8192): (5.6, 2.7, 17.0, 3.9),
    ("columns", 8192): (8.4, 0.1, 24.0, 3.9),
}
"""By packing and N: to seal and to answer an uploaded ciphertext; to mask and protect an answer; to open it."""

CKKS_SEAL_NS, CKKS_PRODUCT_NS, CKKS_WORD_NS, CKKS_REST_NS, CKKS_OPEN_NS = 205.0, 0.05, 2.0, 450.0, 60.0
"""An input's residue; a weight times a residue; a residue read, squared or summed; for each residue of one ciphertext,
to mask and protect; an answer's residue."""

COMPARISON_SET_UP_S, COMPARISON_US, COMPARISON_BYTES = 7.0, 25.0, 91.0
"""Of a verdict on encrypted scores: CHEETAH, oblivious transfers by Ferret. Bytes: benchmarks/verdicts.py."""

MPC_SHARE_NS = {"aby3": 270.0, "cheetah": 85.0}
"""To share one number of a record."""

MPC_COSTS = {"aby3": (6.4, 70.0, 0.1, 0.8, 30.0), "cheetah": (12.0, 90.0, 2.2, 26.0, 100.0)}
"""Set-up in seconds, links included (benchmarks/mpc.py); a run in milliseconds, between processes with TLS
(benchmarks/network_rounds.py); then microseconds: a product with a weight, a product of two shared numbers that is not
one of many in a sum, a comparison."""

MPC_LINK_BYTES = {"aby3": (24.0, 48.0, 200.0), "cheetah": (166.0, 166.0, 170.0)}
"""Between the operators, all of them together (benchmarks/mpc.py): for each result of products, whole or fixed point;
for a comparison."""

TANH_PRODUCTS = 40
"""What a tanh takes, in products."""

MPC_DEEP = {"aby3": (0.1, 3.0, 2_500.0), "cheetah": (2.2, 200.0, 28_000.0)}
"""Networks with recurrent layers, attention or convolutions, in the ring that they have: microseconds of one operator
for a product with a weight, and for an exponential or a root (benchmarks/mpc_sequences.py); bytes between the operators
for one of these (benchmarks/mpc.py)."""

WIDE_RING = 4
"""A ring of 128 bits, in rings of 64."""


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
    link_bytes : int
        What the comparisons of verdicts, or the operators, exchange besides the messages, all together.
    """

    owner_ms: float
    server_ms: float
    set_up_s: float
    link_bytes: int


def bfv_times(p: BlindParameters, rows: int) -> Times:
    """Estimate a batch under BFV; of verdicts including the comparisons."""
    seal, answer, protect, opened = BFV_MS[p.packing, p.degree]
    groups = p.groups(rows)
    ciphertexts = groups * p.ciphertexts_per_group
    compare_ms = rows * p.thresholds * COMPARISON_US / 1e3
    return Times(
        owner_ms=ciphertexts * seal + groups * opened + compare_ms,
        server_ms=ciphertexts * answer + groups * protect + compare_ms,
        set_up_s=p.zeros * seal / 1e3 + (COMPARISON_SET_UP_S if p.thresholds else 0.0),
        link_bytes=round(rows * p.thresholds * COMPARISON_BYTES),
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
    answer_ns = residues * (products * CKKS_PRODUCT_NS + words * CKKS_WORD_NS + CKKS_REST_NS)
    open_ns = p.kept * p.degree * p.parts * CKKS_OPEN_NS
    seal_ns = residues * CKKS_SEAL_NS
    return Times(
        owner_ms=groups * (p.entries * seal_ns + open_ns) / 1e6,
        server_ms=groups * answer_ns / 1e6,
        set_up_s=p.zeros * seal_ns / 1e9,
        link_bytes=0,
    )


def mpc_times(program: Program, rows: int, runs: int) -> Times:
    """Estimate a batch under MPC, for each operator; the network between them aside."""
    set_up_s, run_ms, *_ = MPC_COSTS[program.protocol]
    row_us, row_bytes = (_deep_row if any(form.step.kind in PRECISE for form in program.forms) else _row)(program)
    return Times(
        owner_ms=rows * program.inputs * MPC_SHARE_NS[program.protocol] * (2 if program.ring_bits == 128 else 1) / 1e6,
        server_ms=runs * run_ms + rows * row_us / 1e3,
        set_up_s=set_up_s,
        link_bytes=round(rows * row_bytes),
    )


def _row(program: Program) -> tuple[float, float]:
    """Microseconds of one record, and bytes between the operators."""
    _, _, weight_us, product_us, compare_us = MPC_COSTS[program.protocol]
    whole_bytes, fixed_bytes, compare_bytes = MPC_LINK_BYTES[program.protocol]
    weights, sums, products, comparisons = _work(program)
    row_us = weights * weight_us + products * product_us + comparisons * compare_us
    row_bytes = (sums + products) * (whole_bytes if program.whole else fixed_bytes) + comparisons * compare_bytes
    wide = program.ring_bits == 128
    return row_us * (WIDE_RING if wide else 1), row_bytes * (2 if wide else 1)


def _deep_row(program: Program) -> tuple[float, float]:
    """As :func:`_row`, with recurrent layers, attention or convolutions."""
    weight_us, curved_us, curved_bytes = MPC_DEEP[program.protocol]
    curved = sum(form.curved for form in program.forms) + 1  # the verdict's comparison, or near enough
    return _work(program)[0] * weight_us + curved * curved_us, curved * curved_bytes


def _work(program: Program) -> tuple[int, int, int, int]:
    """Products with weights and their sums, other products, and comparisons of one record."""
    comparisons = int(program.answer == "verdict")
    if program.form == "inner_product":
        return program.inputs, 1, 0, comparisons
    if program.form == "quadratic":
        return program.inputs**2, program.inputs, program.inputs, comparisons
    weights, sums, products = 0, 0, 0
    for form in program.forms:
        width, kind = math.prod(form.shape), form.step.kind
        if kind in ("relu", "leaky"):
            comparisons += width
        elif kind in ("tanh", "square"):
            products += width * (TANH_PRODUCTS if kind == "tanh" else 2)
        elif form.step.outputs and form.secrets:  # every row, or place, meets every matrix once
            rows = form.shape[0] if kind == "block" else math.prod(form.after or ()) // form.step.outputs
            for matrix in (shape for shape in form.secrets if len(shape) == 2):
                weights, sums = weights + rows * math.prod(matrix), sums + rows * matrix[0]
    compared = math.prod(program.outputs) if program.compared is UNSET else program.compared
    return weights, sums, products + compared, comparisons
