"""How a sum stays private: masked sums after Bonawitz et al. 2017, or sums under a shared key, as pure state machines.

Parties hide integer vectors so that a coordinator can open their sum and nothing else: with masks (``SumClient``,
``SumServer``), or encrypted under a key that all of them hold and the coordinator lacks (``SharedKeyClient``,
``SharedKeyServer``: BFV or Paillier; there one party that colludes with the coordinator opens everything). Long-term
Ed25519 identities are pinned in the specification; everything else is fresh for each sum. No I/O, no clock: the
federation moves the bytes. Wire format and claims: docs/wire-securesum.md. Not yet audited.
"""

from ._choose import SumChoice, SumOption, choose_sum
from ._client import SumClient
from ._make import load_client, load_server, make_client, make_server
from ._phased_client import PhasedClient
from ._phased_server import Dropout, PhasedServer
from ._phases import Phase
from ._server import SumServer
from ._shared_client import SharedKeyClient
from ._shared_server import SharedKeyServer
from ._spec import (
    Method,
    Participant,
    SumSpec,
    default_threshold,
    longest_vector,
    names_shared_key,
    smallest_width,
)
from ._wire import Signer

__all__ = [
    "Dropout",
    "Method",
    "Participant",
    "Phase",
    "PhasedClient",
    "PhasedServer",
    "SharedKeyClient",
    "SharedKeyServer",
    "Signer",
    "SumChoice",
    "SumClient",
    "SumOption",
    "SumServer",
    "SumSpec",
    "choose_sum",
    "default_threshold",
    "load_client",
    "load_server",
    "longest_vector",
    "make_client",
    "make_server",
    "names_shared_key",
    "smallest_width",
]
