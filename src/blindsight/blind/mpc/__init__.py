"""Scoring by secure multi-party computation, with SecretFlow SPU; extra ``mpc``. Semi-honest, not yet audited.

    MpcHolder(operators, ...).share(model, "fraud", answer="verdict")   # the model holder: shares of the weights
    MpcOwner(operators, "fraud", ...).score(X)                          # the record owner: shares of the records

Three operators run ABY3, two run CHEETAH, each a process of its own: ``blindsight mpc-node``. Neither holder nor owner
need be one of them.
"""

from ._certificates import TlsFiles, make_certificate, peer_certificate
from ._client import MpcHolder, MpcOwner, OperatorAddress
from ._config import NodeConfig
from ._describe import program_of
from ._link import LastingThread, import_spu, open_link, open_memory_link
from ._program import Program

__all__ = [
    "LastingThread",
    "MpcHolder",
    "MpcOwner",
    "NodeConfig",
    "OperatorAddress",
    "Program",
    "TlsFiles",
    "import_spu",
    "make_certificate",
    "open_link",
    "open_memory_link",
    "peer_certificate",
    "program_of",
]
