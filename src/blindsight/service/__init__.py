"""Blind scoring as a service over HTTPS: for strangers with a token or a certificate, within budgets.

    blindsight serve fraud.blindsight --home service      # the model holder's side
    client = Client("https://host:8443", token=...)       # the record owner's side
    owner = RecordOwner(client.offer("fraud"), home=...)
    scores = client.score_records("fraud", owner, X)

Not yet audited.
"""

from ._certificates import make_certificate
from ._client import Client, new_key
from ._credentials import SCOPES, Credential, Credentials
from ._link_client import ComparisonLink, Comparisons
from ._models import Facts, Models, Version
from ._problems import Problem, RequestError
from ._server import Address, Tls, check_installed, serve
from ._settings import Settings, open_service_store

__all__ = [
    "SCOPES",
    "Address",
    "Client",
    "ComparisonLink",
    "Comparisons",
    "Credential",
    "Credentials",
    "Facts",
    "Models",
    "Problem",
    "RequestError",
    "Settings",
    "Tls",
    "Version",
    "check_installed",
    "make_certificate",
    "new_key",
    "open_service_store",
    "serve",
]
