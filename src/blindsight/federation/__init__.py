"""Who does what in a run: steps, parties with their policies, the coordinator, and what is read off the totals."""

from ._breakdown import Breakdown, breakdown_of, evaluate_locally
from ._caveats import warn_of_few
from ._certificate import certificate_of
from ._evaluation import Evaluation, known
from ._federation import Federation
from ._home import check_parties, open_party, provision
from ._interrupts import interrupts_held
from ._party import Party
from ._policy import Policy
from ._run import RunRecord, StepRecord
from ._selection import FeatureSelection
from ._statistics import ColumnDescription
from ._steps import check_suits

__all__ = [
    "Breakdown",
    "ColumnDescription",
    "Evaluation",
    "FeatureSelection",
    "Federation",
    "Party",
    "Policy",
    "RunRecord",
    "StepRecord",
    "breakdown_of",
    "certificate_of",
    "check_parties",
    "check_suits",
    "evaluate_locally",
    "interrupts_held",
    "known",
    "open_party",
    "provision",
    "warn_of_few",
]
