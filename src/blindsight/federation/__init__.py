"""Who does what in a run: steps, parties with their policies, the coordinator, and what is read off the totals."""

from ._alone import alone_in
from ._asked import for_describing
from ._breakdown import Breakdown, breakdown_of, evaluate_locally
from ._caveats import warn_of_few
from ._certificate import certificate_of
from ._coordinator_site import CoordinatorSite, open_coordinator, wait_for_parties
from ._enrol import accept_list, enrol, join
from ._evaluation import Evaluation, known
from ._federation import Federation
from ._forgotten import Forgetting, ModelOutcome
from ._heads import HeadStatement, read_statement
from ._home import check_parties, open_audit, open_party, provision
from ._interrupts import interrupts_held
from ._jobs import Job
from ._journal import Journal, RunHeader
from ._ledger_export import LedgerExport, read_ledger_export
from ._party import Party
from ._party_log import log_to
from ._policy import Policy
from ._preflight import PreflightFinding, preflight
from ._rules import Asker, Hours, Limit
from ._run import RunRecord, StepRecord
from ._selection import FeatureSelection
from ._shelf import CURRENT_FILE, MODELS_FOLDER, KeptModel, ModelShelf
from ._simulated import FleetReport
from ._site import PartySite, open_site
from ._statistics import ColumnDescription
from ._steps import as_asked, check_suits
from ._wire import glance

__all__ = [
    "CURRENT_FILE",
    "MODELS_FOLDER",
    "Asker",
    "Breakdown",
    "ColumnDescription",
    "CoordinatorSite",
    "Evaluation",
    "FeatureSelection",
    "Federation",
    "FleetReport",
    "Forgetting",
    "HeadStatement",
    "Hours",
    "Job",
    "Journal",
    "KeptModel",
    "LedgerExport",
    "Limit",
    "ModelOutcome",
    "ModelShelf",
    "Party",
    "PartySite",
    "Policy",
    "PreflightFinding",
    "RunHeader",
    "RunRecord",
    "StepRecord",
    "accept_list",
    "alone_in",
    "as_asked",
    "breakdown_of",
    "certificate_of",
    "check_parties",
    "check_suits",
    "enrol",
    "evaluate_locally",
    "for_describing",
    "glance",
    "interrupts_held",
    "join",
    "known",
    "log_to",
    "open_audit",
    "open_coordinator",
    "open_party",
    "open_site",
    "preflight",
    "provision",
    "read_ledger_export",
    "read_statement",
    "wait_for_parties",
    "warn_of_few",
]
