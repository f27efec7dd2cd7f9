"""A coordinator written from ``docs/wire-formats.md``, ``docs/wire-securesum.md`` and ``docs/channels.md`` alone.

It imports nothing of Blindsight, so that it believes the documents where they and the code differ. It keeps the rules
or breaks them, as a test asks. Its *puppets* are parties of its own making: enrolled like any other, but colluding.
"""

from .desk import Desk, Kit
from .heads import Relay
from .messages import Party, Step, enrolment_request
from .puppet import Puppet
from .sums import Sum, Total, commitment_digest, spec_digest, survivors_digest

__all__ = [
    "Desk",
    "Kit",
    "Party",
    "Puppet",
    "Relay",
    "Step",
    "Sum",
    "Total",
    "commitment_digest",
    "enrolment_request",
    "spec_digest",
    "survivors_digest",
]
