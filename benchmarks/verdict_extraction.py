"""What verdicts give away: a model guessed from verdict bits, against the bits that they cost.

Two ways, neither of which encryption stands in the way of. *An owner that follows the protocol* has random records
scored, learns one bit of each, and fits a logistic regression on the public encoding. Printed: the correlation of the
guessed scores with the true ones over fresh records, and how often the guessed verdict is right. *An owner that adds to
its share* moves the threshold by as much (tests/blind/attacks/test_every_engine.py does it through the protocol), and
finds scores bit by bit: as many records as the encoding has freedom give the model. Printed: the bits that this takes,
beside those of the same scores sold as scores, and the correlation that it ends with. The verdicts are ``predict``'s,
to which blind verdicts are equal (tests/blind/test_verdict.py).

    python benchmarks/verdict_extraction.py
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
from scipy.linalg import qr
from sklearn.linear_model import LogisticRegression

import blindsight as bs
from blindsight.blind import plan

SIZES = (100, 1_000, 5_000, 20_000)


def shifted(model: object, queries: np.ndarray, fresh: np.ndarray) -> tuple[int, float]:
    """Verdict bits with which halving intervals finds a model, and the correlation of its scores with the true ones."""
    encoder, circuit = model.encoder_, model.circuit_  # type: ignore[attr-defined]
    low, high = circuit.bounds(encoder)
    some = encoder.encode(queries[:8_000]).astype(float)
    chosen = qr(some.T, mode="r", pivoting=True)[1][: encoder.freedom()]  # records that tell different things
    secret = encoder.encode(queries[chosen]) @ np.asarray(circuit.weights) + circuit.bias
    least, most, bits = np.full(len(chosen), low - 1), np.full(len(chosen), high), 0
    while (most - least > 1).any():
        middle = (least + most) // 2
        above = secret > middle  # a verdict whose threshold was moved
        bits += int((most - least > 1).sum())
        least, most = np.where(above, middle, least), np.where(above, most, middle)
    weights = np.linalg.lstsq(some[chosen], most.astype(float), rcond=None)[0]
    truth = encoder.encode(fresh) @ np.asarray(circuit.weights)
    return bits, float(np.corrcoef(encoder.encode(fresh) @ weights, truth)[0, 1])


def main() -> int:
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    mixing = np.eye(10) + 0.3 * rng.normal(size=(10, 10))
    train = rng.standard_t(4, size=(20_000, 10)) @ mixing
    # records that straddle the threshold tell most: those like the data, stretched
    queries = rng.standard_t(4, size=(25_000, 10)) @ mixing * rng.uniform(0.5, 2.0, size=(25_000, 1))
    schema = bs.Schema.infer(train).declare()
    print(
        f"{'model':14s}{'scores that tell all':>21s}{'their bits':>11s}{'as verdicts':>12s}{'correlation':>12s}   "
        "random verdicts: correlation of scores, share right"
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
        spent, reached = shifted(model, queries, queries[-5_000:])
        print(
            f"{make.__name__:14s}{model.encoder_.freedom():21,d}{bits:11,d}{spent:12,d}{reached:12.4f}   "
            f"{'; '.join(results)}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
