"""What stands in a kit for people: README, and files to fill in."""

from __future__ import annotations

import textwrap

from ._list import ListedParty, ParticipantList

__all__ = ["BLANK_SCHEMA", "coordinator_readme", "party_readme", "party_toml"]

BLANK_SCHEMA = """\
# What everybody may know about these records: names, types, public ranges. The same file at every party, byte for
# byte in what it means: a party with another schema is refused. Agree on it before anything else.
#
# 'blindsight schema draft records.csv' writes one from a file's column names; ranges stay blank. Fill them in from what
# the columns mean, never from the records: a minimum read from records is a leak.
#
#   [[columns]]
#   name = "amount"
#   role = "feature"     # or person (whose record it is), label (0 normal, 1 anomaly), time, entity, ignore, ...
#   type = "number"      # or category, with categories = ["a", "b"]; text for persons, entities and times
#   low = 0.0
#   high = 100000.0
#   scale = "log"        # where there is a long tail; needs low >= 0
version = 1
ranges = "declared"
"""


def party_toml(name: str, listing: ParticipantList) -> str:
    """Write the file in which a party says where its records are."""
    addresses = ", ".join(f'"{address}"' for address in listing.coordinator.addresses)
    return f"""\
# This party. Paths are relative to this folder, or absolute.
name = "{name}"

# The records that may be summed: CSV or Parquet. They never leave this machine.
data = "records.csv"

# Labelled records for 'evaluate'; leave the line out to evaluate on the records above, which flatters.
# evaluation = "test.csv"

# Whom this party dials; nothing listens here. The signed participant list says which certificate must answer.
coordinator = [{addresses}]
"""


def party_readme(party: ListedParty, listing: ParticipantList, *, keys_inside: bool) -> str:
    """Say what each file of a party's kit is, and what to do next."""
    keys = (
        "keys/             YOUR PRIVATE KEYS: identity (signs your part of every sum), tls.key (your side of TLS),\n"
        "                  home.key (seals what this folder keeps). They were made by whoever ran 'init'. Move this\n"
        "                  folder over a channel that you trust, and have every other copy deleted. Better: make keys\n"
        "                  where they stay, with 'blindsight party enrol'."
        if keys_inside
        else "(no keys)         Your private keys are where you made them, and nobody else has them."
    )
    here = "this folder" if keys_inside else "the folder in which you ran 'blindsight party enrol'"
    join = "blindsight party join . --home ." if keys_inside else "blindsight party join THIS-FOLDER --home YOUR-FOLDER"
    steps = f"""\
1. Ring the federation's operator ({listing.coordinator.contact}).
   Compare this fingerprint of the federation's key, digit by digit:

       {listing.fingerprint}

   and have them compare yours:

       {party.fingerprint}

2. Fill in party.toml (where your records are), schema.toml (if it is blank) and policy.toml (what may be asked of
   you at all; your decision, and nothing replaces it).
3. {join}
   pins the federation's key and the participant list in {here}.
4. blindsight preflight --home YOUR-FOLDER
   looks at everything and says how to mend what is wrong.
5. blindsight party serve YOUR-FOLDER
   dials the coordinator and answers what your policy lets through, until you end it.
"""
    return f"""\
{party.name} in the federation '{listing.federation}'
{"=" * (len(party.name) + len(listing.federation) + 21)}

What is in this folder

policy.toml       What may be computed on your records. Enforced here, whatever anybody sends.
schema.toml       What everybody may know about the records: columns, types, public ranges.
party.toml        Where your records are, and whom to dial.
{LIST_LINE}
tls.crt           Your TLS certificate; shows the coordinator that it is you.
authority.crt     Certificate of the federation's authority; by it you know the coordinator.
{keys}

What to do next

{steps}
When keys change or parties come and go you are sent a new participants.signed.json:

    blindsight party accept participants.signed.json --home YOUR-FOLDER

A list by another key, or an older one, is refused. Your records, your ledger and your policy never leave your folder.
Back it up, but never put an old copy back into service: its ledger would forget what was spent.
"""


LIST_LINE = textwrap.dedent("""\
    participants.signed.json
                      Who takes part, with keys, signed by the federation's key. 'blindsight init show' prints it.""")


def coordinator_readme(listing: ParticipantList) -> str:
    """Say what each file of the coordinator's kit is."""
    return f"""\
The coordinator of '{listing.federation}'
{"=" * (len(listing.federation) + 21)}

tls.crt, tls.key  Certificate and PRIVATE key of the server that parties dial (TLS 1.3).
authority.crt     Certificate of the federation's authority; parties' certificates are by it.
participants.signed.json
                  Who takes part, signed by the federation's key. A party whose certificate is not on it is not let in.
federation.toml   What the federation was made from.
schema.toml       The schema that all have agreed on, if the federation file named one; steps are planned for it.

The authority's own key is NOT here, and does not belong here: who runs the coordinator could let others into the
channel with it. (The parties would still refuse them: they believe the signed list alone.)

Next: blindsight preflight --home THIS-FOLDER
      blindsight coordinator fit THIS-FOLDER --detector ecod --epsilon 1 --output MODEL
The federation's key has this fingerprint, which every party will ask for:

    {listing.fingerprint}
"""
