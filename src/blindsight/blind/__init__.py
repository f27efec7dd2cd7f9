"""Scoring a secret circuit on records that nobody else may see.

    scorer = Scorer(model)                   # the model holder's side
    owner = RecordOwner(scorer.offer())      # the record owner's side
    owner.open(scorer.score(owner.seal(X)))  # equal to model.decision_function(X)

The score is one integer inner product on a public encoding, evaluated under BFV and exact. Not yet audited.
"""

from ._budget import BitBudget, KeyValue, MemoryTable
from ._owner import RecordOwner
from ._plan import BlindParameters, plan
from ._scorer import Model, Scorer

__all__ = [
    "BitBudget",
    "BlindParameters",
    "KeyValue",
    "MemoryTable",
    "Model",
    "RecordOwner",
    "Scorer",
    "plan",
]
