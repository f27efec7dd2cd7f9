"""Flower's nodes as the coordinator sees them: whose they are, what to send them, what an answer of theirs means.

No sockets and no clock: :class:`Nodes` is told what came and what time it is, and says what is to be carried. It does
not believe the fleet anything: which node is which party's follows from the certificate in the session with it alone.
"""

from __future__ import annotations

import itertools
import logging
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from blindsight._text import printable
from blindsight.errors import AuthenticationError, BlindsightError, WireError

from ._backoff import Backoff
from ._desk import Desk
from ._flower_party import GREETING_ID
from ._frames import Frame, FrameReader, parts_of
from ._https import HOLD_SECONDS
from ._parcels import KNOCK, Parcel, ParcelSession
from ._reception import Reception
from ._roll import Roll

__all__ = ["Errand", "Nodes"]

log = logging.getLogger(__name__)

MAX_NODES = 4096
MAX_NAME_BYTES = 256
MAX_BACKOFF_SECONDS = 10.0
CARRYING_SECONDS = 60.0
BYTES_PER_SECOND = 250_000
"""Slower than this a fleet is not expected to be."""
GRACE_SECONDS = 10.0


class _Stranger(AuthenticationError):
    """A certificate of our authority's that is on no list, or has expired."""


@dataclass(frozen=True)
class Errand:
    """A parcel to be carried.

    Parameters
    ----------
    node, number : int
        To whom; a number that no other errand has.
    seconds : float
        For how long it is worth carrying.
    parcel : bytes
    """

    node: int
    number: int
    seconds: float
    parcel: bytes


@dataclass
class _Node:
    """One node; one errand at a time."""

    id: int
    number: int | None = None  # of the errand that is on its way
    until: float = 0.0  # when that is given up
    not_before: float = 0.0  # when the next may go
    backoff: Backoff = field(default_factory=lambda: Backoff(MAX_BACKOFF_SECONDS))
    carried: ParcelSession | None = None
    party: str | None = None  # once it has shown a certificate and said a name
    letter: str = ""  # the last one that was put into the session
    last_words: Parcel | None = None
    reader: FrameReader = field(default_factory=FrameReader)
    reception: Reception | None = None  # as soon as there is a party


class Nodes:
    """Every node that the fleet has shown.

    Parameters
    ----------
    roll : Roll
    desk : Desk
    context : ssl.SSLContext
        The coordinator's.
    max_message_bytes : int
        Longest answer that is kept.
    """

    def __init__(self, roll: Roll, desk: Desk, context: ssl.SSLContext, max_message_bytes: int) -> None:
        self._roll, self._desk, self._context, self._max_bytes = roll, desk, context, max_message_bytes
        self._nodes: dict[int, _Node] = {}
        self._of_party: dict[str, _Node] = {}
        self._numbers = itertools.count(1)

    # -- what happens -------------------------------------------------------------------------------------------------

    def seen(self, ids: Iterable[int]) -> None:
        """The nodes that there are now; sessions with others are over."""
        listed = set(itertools.islice(ids, MAX_NODES))
        for gone in set(self._nodes) - listed:
            self._disown(self._nodes.pop(gone))
        for new in listed - set(self._nodes):
            self._nodes[new] = _Node(new)

    def unheard(self) -> None:
        """Nobody carries any more: what was on its way is lost."""
        for node in self._nodes.values():
            node.number = None

    def lost(self, node_id: int, number: int, reason: str, now: float) -> None:
        """An errand has failed, or taken too long."""
        node = self._nodes.get(node_id)
        if node is not None and node.number == number:
            self._failed(node, reason, now)

    def answered(self, node_id: int, number: int, data: bytes | bytearray, now: float) -> None:
        """An errand's answer; one that was given up before is read as well, for what it says to the session."""
        node = self._nodes.get(node_id)
        if node is None:
            return
        asked = node.number == number
        if asked:
            node.number = None
        try:
            parcel = Parcel.decode(data)
        except WireError as error:
            self._failed(node, str(error), now)
            return
        if node.carried is None or parcel.session != node.carried.session:
            if asked and now >= node.not_before:
                self._begin(node, parcel, now)
            return
        self._take(node, node.carried, parcel, now)

    def know(self, node_id: int, header: bytes) -> bool:
        """Whether a parcel that begins so may be of a session with a party, whose certificate was compared."""
        node = self._nodes.get(node_id)
        try:
            return (
                node is not None
                and node.party is not None
                and node.carried is not None
                and node.carried.fits(Parcel.decode(header))
            )
        except WireError:
            return False

    def drop(self, party: str) -> None:
        """End a party's session: its certificate is not accepted any more."""
        node = self._of_party.get(party)
        if node is not None:
            self._end(node)

    # -- what to do ---------------------------------------------------------------------------------------------------

    def due(self, now: float) -> Iterator[Errand]:
        """What is to be carried now."""
        for node in list(self._nodes.values()):
            if node.number is not None and now >= node.until:
                self._failed(node, "no answer in time", now)
            if node.number is not None or (now < node.not_before and node.last_words is None):
                continue
            try:
                parcel = self._next(node)
            except AuthenticationError as error:  # the session had ended
                self._failed(node, str(error), now)
                continue
            if parcel is not None:
                data = parcel.encode()
                seconds = HOLD_SECONDS + CARRYING_SECONDS + len(data) / BYTES_PER_SECOND
                node.number, node.until = next(self._numbers), now + seconds + GRACE_SECONDS
                yield Errand(node.id, node.number, seconds, data)

    def _next(self, node: _Node) -> Parcel | None:
        if node.last_words is not None:
            last, node.last_words = node.last_words, None
            return last
        if node.carried is None:
            return KNOCK
        if node.party is None:  # in the middle of the handshake
            return node.carried.parcel()
        letter = self._desk.letter(node.party)
        if letter is None:
            return None
        if letter.id != node.letter:
            node.letter = letter.id
            for part in parts_of(letter.id, letter.body):
                node.carried.send(part.encode())
        return node.carried.parcel()  # without anything new it asks whether there is an answer by now

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _begin(self, node: _Node, parcel: Parcel, now: float) -> None:
        """Another session, as the party asks for."""
        if node.carried is not None and node.party is None:
            self._failed(node, "the party has begun anew in the middle of a handshake", now)
            return
        self._end(node)
        if parcel.session == KNOCK.session or parcel.offset:
            self._failed(node, "this is no beginning of a session", now)
            return
        node.carried = ParcelSession(self._context, server=True, session=parcel.session, accept=self._who)
        self._take(node, node.carried, parcel, now)

    def _take(self, node: _Node, carried: ParcelSession, parcel: Parcel, now: float) -> None:
        try:
            if carried.established:
                self._who(carried.certificate)  # it may have expired since, or was revoked
            plain = carried.take(parcel)
        except _Stranger as error:  # it is told nothing, and nothing behind its certificate is decrypted
            self._failed(node, error.got or "", now)
            return
        except BlindsightError as error:
            told = carried.parcel()
            self._failed(node, str(error), now)
            node.last_words = told if told.records else None  # tells the party what was wrong
            return
        if not carried.established:
            return
        try:
            for frame in node.reader.feed(plain):
                if node.reception is None:
                    self._greet(node, self._who(carried.certificate), frame)
                else:
                    node.reception.take(frame)
        except BlindsightError as error:
            self._failed(node, str(error), now)

    def _who(self, certificate: bytes) -> str:
        """Whose certificate it is.

        Raises
        ------
        _Stranger
            Nobody's.
        """
        who, why = self._roll.who(certificate)
        if who is None:
            log.warning("a stranger was refused: %s", why)
            raise _Stranger("A stranger was refused", got=why)
        return who

    def _greet(self, node: _Node, who: str, frame: Frame) -> None:
        """A session's first words: the name, which finds swapped files."""
        claimed = frame.body[:MAX_NAME_BYTES].decode(errors="replace")
        if frame.id != GREETING_ID or claimed != who:
            log.warning("%s was refused: it calls itself %r", who, claimed[:64])
            raise AuthenticationError("A certificate is another party's", got=claimed[:64], rule=who)
        log.info("%s is there, over node %d", who, node.id)
        node.backoff.worked()
        node.party, node.reception = who, Reception(self._desk, who, self._max_bytes)
        before = self._of_party.get(who)
        if before is not None and before is not node:
            self._end(before)
        self._of_party[who] = node

    def _failed(self, node: _Node, reason: str, now: float) -> None:
        """Begin anew with a node, some time later."""
        level = logging.WARNING if node.backoff.failures % 100 == 0 else logging.DEBUG
        log.log(level, "node %d%s: %s", node.id, f" of {node.party}" if node.party else "", printable(reason[:400]))
        self._end(node)
        node.number = None
        node.not_before = now + node.backoff.failed()

    def _end(self, node: _Node) -> None:
        self._disown(node)
        node.carried, node.party, node.letter, node.last_words = None, None, "", None
        node.reader, node.reception = FrameReader(), None

    def _disown(self, node: _Node) -> None:
        if node.party is not None and self._of_party.get(node.party) is node:
            del self._of_party[node.party]
