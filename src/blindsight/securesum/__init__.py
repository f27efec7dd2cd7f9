"""How a sum stays private: masked sums after Bonawitz et al. 2017, as pure state machines.

Parties mask integer vectors so that a coordinator can open their sum and nothing else. Long-term Ed25519
identities are pinned in the specification; everything else is fresh for each sum. No I/O, no clock: the
federation moves the bytes. Wire format and claims: docs/wire-securesum.md. Not yet audited.
"""

from ._client import SumClient
from ._phased_server import Dropout
from ._phases import Phase
from ._server import SumServer
from ._spec import Participant, SumSpec, default_threshold, smallest_width
from ._wire import Signer

__all__ = [
    "Dropout",
    "Participant",
    "Phase",
    "Signer",
    "SumClient",
    "SumServer",
    "SumSpec",
    "default_threshold",
    "smallest_width",
]
