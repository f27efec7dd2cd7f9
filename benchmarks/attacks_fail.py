"""Attacks on blind scoring: each recovers the weights with its protection switched off, and fails with all of them on.

The attacks are the tests' own (tests/blind/attacks); here they print their figures, engine by engine. Printed: the
correlation of what is recovered with what is secret (weights; under CKKS also scores that were not paid for), and the
correlation that chance alone reaches once in 15,000 runs at that number of weights.

    python benchmarks/attacks_fail.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
from tests.blind import _models, test_budget
from tests.blind.attacks import test_attacks as attacks
from tests.blind.attacks import test_ckks_attacks as ckks
from tests.blind.attacks import test_every_engine as every

from blindsight.blind import BitBudget, RecordOwner, Scorer
from blindsight.blind._protect import Protections
from blindsight.errors import BudgetError, WireError

CHANCE_DEVIATIONS = 4.0
"""Of a correlation of chance, whose standard deviation is 1 / sqrt(number)."""


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
    flooded = Protections(owed_only=False)
    slots = [ckks.slots_not_owed(switch)[0] for switch in (flooded, on)]
    results = [
        ("rows: large-noise monomial", 1344, *(attacks.large_noise_monomial(switch) for switch in (flooded, on))),
        ("rows: unmasked second part", 1344, *(attacks.unmasked_second_part_rows(switch) for switch in (unmasked, on))),
        ("rows: known noise", 480, *attacks.known_noise("rows", [bare, on])),
        ("columns: 4,096 answers for one record", 200, *(every.columns_of_one_record(s) for s in (flooded, on))),
        ("columns: unmasked second part", 465, *(attacks.unmasked_second_part_columns(s) for s in (unmasked, on))),
        ("columns, seeded: unmasked second part", 200, *(every.unmasked_seeded_columns(s) for s in (unmasked, on))),
        ("columns: known noise", 465, *attacks.known_noise("columns", [bare, on])),
        ("columns: zero `a` in the key", 465, attacks.shaped_a(accepted=True), attacks.shaped_a(accepted=False)),
        ("columns: equal seeds in the key", 465, attacks.equal_seeds(scorer_takes_them=True), equal_on),
        ("columns: shaped `b` (textbook mask)", 465, *shaped),
        ("explanations: large-noise monomial", 200, *(every.explained_monomial(s) for s in (flooded, on))),
        ("explanations: unmasked second parts", 200, *(every.unmasked_explanations(s) for s in (unmasked, on))),
        ("explanations: known noise", 200, *every.known_noise_of_explanations([bare, on])),
        ("verdicts: unmasked second part", 200, *(every.unmasked_verdict_words(s) for s in (unmasked, on))),
        ("CKKS: imaginary parts", 4096, *(ckks.imaginary_part(s) for s in (flooded, on))),
        ("CKKS: slots that were not paid for", 4096, *slots),
        ("CKKS: unmasked last part", 435, *(ckks.unmasked_parts(s, 2) for s in (unmasked, on))),
    ]
    failures = 0
    print(f"{'attack':40s}{'protection off':>16s}{'all on':>10s}{'chance below':>14s}")
    for name, numbers, off, protected in results:
        limit = CHANCE_DEVIATIONS / numbers**0.5
        failures += off <= 0.9 or (protected is not None and abs(protected) >= limit)
        shown = "refused" if protected is None else format(protected, ".3f")
        print(f"{name:40s}{off:16.3f}{shown:>10s}{limit:14.3f}")

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
