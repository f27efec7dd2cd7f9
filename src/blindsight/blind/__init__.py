"""Scoring a secret circuit on records that nobody else may see.

    scorer = Scorer(model)                   # the model holder's side
    owner = RecordOwner(scorer.offer())      # the record owner's side
    owner.open(scorer.score(owner.seal(X)))  # equal to model.decision_function(X)

The score is one integer inner product on a public encoding, evaluated under BFV and exact. Not yet audited.
"""

from ._budget import BitBudget, KeyValue, MemoryTable
from ._ckks_circuit import plan_network
from ._ckks_plan import CkksParameters
from ._engines import Model
from ._envelope import Header, read_header
from ._owner import RecordOwner
from ._plan import BlindParameters, plan
from ._planner import Cost, Option, Survey, survey
from ._planner_rounds import Connection
from ._registration import RegistrationCheck, key_id_of_registration
from ._scorer import Scorer
from ._verdict_comparison import Comparison
from ._verdict_exchange import ComparisonEnd, ComparisonRefused
from ._verdict_process import ComparisonProcess

__all__ = [
    "BitBudget",
    "BlindParameters",
    "CkksParameters",
    "Comparison",
    "ComparisonEnd",
    "ComparisonProcess",
    "ComparisonRefused",
    "Connection",
    "Cost",
    "Header",
    "KeyValue",
    "MemoryTable",
    "Model",
    "Option",
    "RecordOwner",
    "RegistrationCheck",
    "Scorer",
    "Survey",
    "key_id_of_registration",
    "plan",
    "plan_network",
    "read_header",
    "survey",
]
