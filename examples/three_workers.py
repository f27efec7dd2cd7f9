"""Alice, Bob and Charlie train one autoencoder together; nobody sees anybody's records, or anybody's update.

What the well-known PySyft walk-through does (three workers, 20 features each, an autoencoder 20-10-5-10-20, five rounds
of five local epochs, federated averaging, reconstruction errors), with what it leaves out: updates are masked, so that
the coordinator opens only their sum; DP-SGD bounds what one record can change; and the result is distilled into a table
that scores records which the model's holder never sees. Charlie has 2% of readings five times too wide.

    pip install 'blindsight[deep,he]'
    python examples/three_workers.py
"""

import warnings

import numpy as np

import blindsight as bs
from blindsight.data import Column

warnings.simplefilter("ignore", bs.BlindsightWarning)  # it says, rightly, that this is little data for this much noise


def readings(rows: int, outliers: float, seed: int) -> dict[str, np.ndarray]:
    """Twenty sensors that follow five hidden causes; outliers are five times too wide."""
    generator, causes = np.random.default_rng(seed), np.random.default_rng(0).normal(size=(5, 20)) / np.sqrt(5)
    values = generator.normal(size=(rows, 5)) @ causes + 0.1 * generator.normal(size=(rows, 20))
    odd = generator.random(rows) < outliers
    values[odd] = 5 * generator.normal(size=(odd.sum(), 20))
    return {**{f"x{j}": values[:, j] for j in range(20)}, "odd": odd}


workers = {"alice": readings(4000, 0, 1), "bob": readings(4000, 0, 2), "charlie": readings(4000, 0.02, 3)}
ranges = [Column(name=f"x{j}", low=-5.0, high=5.0) for j in range(20)]
schema = bs.Schema((*ranges, Column(name="odd", role="label")))

# every policy names what it allows: these detectors, and no exact sum
policy = bs.Policy(detectors=("AutoEncoder", "TableStudent"), maximum_epsilon=20)
federation = bs.Federation.embedded(workers, schema=schema, policy=policy)
privacy = bs.DifferentialPrivacy(epsilon=8, delta=1e-5, unit="record")
training = bs.Training(rounds=5, local_epochs=5, learning_rate=0.2)
model = federation.fit(bs.AutoEncoder(hidden=(10, 5, 10), contamination=0.01, training=training), privacy=privacy)
print(f"epsilon {model.certificate_['epsilon_spent']:.2f} per record, delta {privacy.delta:g}")

for name, records in workers.items():  # each on its own machine
    errors, alerts, odd = model.decision_function(records), model.predict(records) == 1, records["odd"]
    wide = f", five times too wide {errors[odd].mean():.3f}" if odd.any() else ""
    print(f"{name:8} reconstruction error: ordinary {errors[~odd].mean():.3f}{wide}")
    print(f"{'':8} alerts: {alerts.sum()} of {len(odd)}, of them {alerts[odd].sum()} odd")

# a network is too deep to be scored blind exactly: a table that imitates it is not
student = federation.fit(bs.TableStudent(teacher=model, bins=16), privacy=privacy)
scorer = bs.blind.Scorer(student)  # the model's holder
owner = bs.blind.RecordOwner(scorer.offer())  # somebody with records of her own
fresh = readings(8, 0.25, 4)
blind = owner.open(scorer.score(owner.seal(fresh)))
print("scored blind:", *(f"{score:.1f}{'!' if odd else ''}" for score, odd in zip(blind, fresh["odd"], strict=True)))
print("as in the clear:", np.array_equal(blind, student.decision_function(fresh)))
