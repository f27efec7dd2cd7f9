"""Two ends of a comparison in one process, and one round of verdicts."""

import secrets
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from blindsight.blind import Comparison, RecordOwner, Scorer
from blindsight.blind.mpc import open_memory_link

SCORER, OWNER = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
"""A lasting thread for each side: SPU's library now and then ends the process when its threads come and go."""


def ends(transfer="softspoken"):
    """Both ends of a comparison over a link in memory."""
    name = secrets.token_hex(8)

    def opened(rank):
        return Comparison(open_memory_link(name, 2, rank), transfer=transfer)

    theirs, mine = SCORER.submit(opened, 0), OWNER.submit(opened, 1)
    return theirs.result(timeout=60), mine.result(timeout=60)


def both(scorer_side, owner_side):
    """Run both sides at once; the owner's result, and the scorer's. Errors of either are raised."""
    theirs, mine = SCORER.submit(scorer_side), OWNER.submit(owner_side)
    return mine.result(timeout=60), theirs.result(timeout=60)


def verdicts(scorer: Scorer, owner: RecordOwner, X: np.ndarray, pair) -> np.ndarray:
    sealed = owner.seal(X)
    answer = scorer.score(sealed)
    mine, header = both(lambda: scorer.compare(pair[0]), lambda: owner.verdicts(answer, pair[1], sealed=sealed))
    assert (header.key.hex(), header.rows) == (owner.key_id, len(X))
    return mine
