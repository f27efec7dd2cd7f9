"""What verdicts give away: a model guessed from verdict bits, against the bits that they cost.

An owner encrypts random records, learns one bit for each, and fits a logistic regression on the public encoding: no
encryption stands in its way. Printed: the correlation of the guessed scores with the true ones over fresh records, and
how often the guessed verdict is right; beside it how many exact scores (and bits of them) give the model exactly. The
verdicts are ``predict``'s, to which blind verdicts are equal (tests/blind/test_verdict.py).

    python benchmarks/verdict_extraction.py
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression

import blindsight as bs
from blindsight.blind import plan

SIZES = (100, 1_000, 5_000, 20_000)


def main() -> int:
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    mixing = np.eye(10) + 0.3 * rng.normal(size=(10, 10))
    train = rng.standard_t(4, size=(20_000, 10)) @ mixing
    # records that straddle the threshold tell most: those like the data, stretched
    queries = rng.standard_t(4, size=(25_000, 10)) @ mixing * rng.uniform(0.5, 2.0, size=(25_000, 1))
    schema = bs.Schema.infer(train).declare()
    print(
        f"{'model':14s}{'scores that tell all':>21s}{'their bits':>11s}   verdicts: correlation of scores, share right"
    )
    for make in (bs.ECOD, bs.Mahalanobis):
        model = make(schema=schema, contamination=0.05).fit(train)
        bits = plan(model.encoder_, model.circuit_).charge_bits(model.encoder_.freedom())
        verdicts, truth = model.predict(queries), model.decision_function(queries[-5_000:])
        encoded = model.encoder_.encode(queries).astype(float)
        encoded = (encoded - encoded.mean(axis=0)) / (encoded.std(axis=0) + 1e-9)
        results = []
        for n in SIZES:
            guess = LogisticRegression(C=1.0, max_iter=2_000).fit(encoded[:n], verdicts[:n])
            correlation = np.corrcoef(guess.decision_function(encoded[-5_000:]), truth)[0, 1]
            right = (guess.predict(encoded[-5_000:]) == verdicts[-5_000:]).mean()
            results.append(f"{n:,}: {correlation:.2f}, {right:.1%}")
        results.append(f"always normal: {1 - verdicts[-5_000:].mean():.1%}")
        print(f"{make.__name__:14s}{model.encoder_.freedom():21,d}{bits:11,d}   {'; '.join(results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
