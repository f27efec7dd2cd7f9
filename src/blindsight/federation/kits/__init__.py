"""What a federation is made of before it runs: authority, signed participant list, a kit for every party."""

from ._list import LIST_FILE, ListedParty, ParticipantList, RevokedParty
from ._names import name_problem
from ._pinned import PinnedList
from ._plan import FederationPlan, read_plan
from ._request import EnrolmentRequest
from ._signed import read_limited
from ._workshop import Workshop

__all__ = [
    "LIST_FILE",
    "EnrolmentRequest",
    "FederationPlan",
    "ListedParty",
    "ParticipantList",
    "PinnedList",
    "RevokedParty",
    "Workshop",
    "name_problem",
    "read_limited",
    "read_plan",
]
