"""Attacks on blind scoring: each recovers the weights with its protection switched off, and fails with all of them on.

The attacks are the tests' own (tests/blind); here they print their figures. Printed: the correlation of the recovered
weights with the true ones, on one-hot tables (rows) and quadratics (columns).

    python benchmarks/attacks_fail.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
from tests.blind import _models, test_budget
from tests.blind.attacks import test_attacks as attacks

from blindsight.blind import BitBudget, RecordOwner, Scorer
from blindsight.blind._protect import Protections
from blindsight.errors import BudgetError, WireError

LIMIT = 0.2


def main() -> int:
    on = attacks.ALL_ON
    unmasked = Protections(rerandomise=False)
    bare = Protections(flood=False, rerandomise=False)
    with pytest.MonkeyPatch.context() as patch:
        shaped = [attacks.shaped_b(patch, textbook=textbook) for textbook in (True, False)]
    try:
        equal_on: float | None = attacks.equal_seeds(scorer_takes_them=False)
    except WireError:
        equal_on = None
    results = [
        (
            "large-noise monomial, rows",
            attacks.large_noise_monomial(Protections(owed_only=False)),
            attacks.large_noise_monomial(on),
        ),
        (
            "unmasked second part, columns",
            attacks.unmasked_second_part_columns(unmasked),
            attacks.unmasked_second_part_columns(on),
        ),
        ("unmasked second part, rows", *(attacks.unmasked_second_part_rows(switch) for switch in (unmasked, on))),
        ("known noise, rows", *attacks.known_noise("rows", [bare, on])),
        ("known noise, columns", *attacks.known_noise("columns", [bare, on])),
        ("zero `a` in the key", attacks.shaped_a(accepted=True), attacks.shaped_a(accepted=False)),
        ("equal seeds in the key", attacks.equal_seeds(scorer_takes_them=True), equal_on),
        ("shaped `b` in the key (textbook mask)", *shaped),
    ]
    failures = 0
    print(f"{'attack':40s}{'protection off':>16s}{'all on':>10s}")
    for name, off, protected in results:
        failures += off <= 0.9 or (protected is not None and abs(protected) >= LIMIT)
        print(f"{name:40s}{off:16.3f}{'refused' if protected is None else format(protected, '.3f'):>10s}")

    model = _models.table_model(4, 8)
    scorer = Scorer(model)
    predicted = scorer.rows_to_extract
    stolen = test_budget.extract_table(scorer, RecordOwner(scorer.offer()), model)
    X = _models.records(model, 500)
    exact = bool((stolen(X) == model.decision_function(X)).all())
    short = scorer.parameters.charge_bits(1) * predicted - 1
    try:
        guarded = Scorer(model, budget=BitBudget(bits_per_owner=short))
        test_budget.extract_table(guarded, RecordOwner(guarded.offer()), model)
        stopped = False
    except BudgetError:
        stopped = True
    failures += (not exact) + (not stopped)
    print(
        f"\nextraction of a 4 x 8 table from exact scores: {predicted} rows predicted, "
        f"{'succeeds with exactly these' if exact else 'FAILS'}; "
        f"a budget of {short} bits {'stops it' if stopped else 'DOES NOT STOP IT'}"
    )
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
