"""Two ends of a comparison in one process, and one round of verdicts."""

import secrets
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from blindsight.blind import Comparison, RecordOwner, Scorer
from blindsight.blind.mpc import open_memory_link


def ends(transfer="softspoken"):
    """Both ends of a comparison over a link in memory."""
    name = secrets.token_hex(8)
    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(lambda rank: Comparison(open_memory_link(name, 2, rank), transfer=transfer), range(2)))


def both(scorer_side, owner_side):
    """Run both sides at once; the owner's result, and the scorer's. Errors of either are raised."""
    with ThreadPoolExecutor(2) as pool:
        theirs, mine = pool.submit(scorer_side), pool.submit(owner_side)
        return mine.result(timeout=60), theirs.result(timeout=60)


def verdicts(scorer: Scorer, owner: RecordOwner, X: np.ndarray, pair) -> np.ndarray:
    sealed = owner.seal(X)
    answer = scorer.score(sealed)
    mine, header = both(lambda: scorer.compare(pair[0]), lambda: owner.verdicts(answer, pair[1], sealed=sealed))
    assert (header.key.hex(), header.rows) == (owner.key_id, len(X))
    return mine
