"""A party's side of one private sum: a pure state machine without I/O or clock."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import (
    AuthenticationError,
    ParameterError,
    WireError,
)

from ._advertisements import Advertisement, open_advertisements
from ._agreement import KeyPair, OwnKeys
from ._dealing import deal_to_peers, open_inbox
from ._digests import request_digest, sharers_digest, survivors_digest, transcript_of
from ._envelopes import SharePair, commit_seed
from ._hashing import PROTOCOL
from ._masking import mask_vector
from ._phased_client import PhasedClient, second_answer, vector_digest
from ._phases import Phase
from ._ring import check_vector
from ._spec import SumSpec
from ._state import Secrets, State, dump_state, load_state
from ._wire import Signer, UnmaskBody, decode_request, encode_body, open_message

__all__ = ["SumClient"]

Ints = npt.NDArray[np.int64]


class SumClient(PhasedClient[State]):
    """One party in one sum, after Bonawitz et al. 2017 (CCS), Figure 4, the variant for active adversaries.

    Call :meth:`handle` with each request of the coordinator, or the five methods in order. After each call,
    *before* the reply is sent, persist :meth:`dump`.

    Parameters
    ----------
    spec : SumSpec
        What this party agreed to, built from its own pinned participant list.
    name : str
        Which participant this is.
    signer : Signer
        Its long-term identity; the public key must be the one in the specification.

    Raises
    ------
    ParameterError
        ``name`` takes no part.
    AuthenticationError
        The signer's key is not the one in the specification.

    Privacy
    -------
    The coordinator, with up to ``spec.tolerated_colluders`` parties, learns the total over the survivors and
    nothing else of this party's vector. Noise, if any, is in the vector before it comes here: every survivor
    set that can be opened has at least ``spec.min_survivors`` parties.

    Security
    --------
    Each method answers once. The same input again gives the same bytes (a retry); another input raises
    ReleaseError. An error changes nothing. The survivor set is fixed by the first :meth:`confirm`; for each
    peer one share is ever released, of the mask key *or* of the seed. Python cannot wipe memory: secrets are
    dropped from the state as soon as the protocol allows, not overwritten.
    """

    def __init__(self, spec: SumSpec, name: str, signer: Signer) -> None:
        super().__init__(spec, name, signer)
        self._state = State(version=PROTOCOL, spec=spec.digest, name=name)
        self._keys: OwnKeys | None = None  # parsed from the state's secrets when first used, and dropped with them

    def dump(self) -> bytes:
        """The whole state as bytes, for :meth:`load`.

        Security
        --------
        As secret as the party's vector: private keys, seed, peers' shares. Seal it at rest, write it durably
        before the reply leaves, and never go back to an older one: a party that signed one survivor set and
        forgot it could be made to sign another.
        """
        return dump_state(self._state)

    @classmethod
    def load(cls, state: bytes, *, spec: SumSpec, name: str, signer: Signer) -> SumClient:
        """Continue from a dumped state.

        Raises
        ------
        FormatError
            The state is malformed or belongs to another sum or party.
        """
        client = cls(spec, name, signer)
        client._state = load_state(state, spec=spec, name=name)
        return client

    def handle(self, request: bytes, vector: Callable[[], Ints] | None = None) -> bytes:
        """Answer one request of the coordinator, whatever phase it is for.

        Parameters
        ----------
        request : bytes
            From ``SumServer.requests()``.
        vector : callable returning ndarray of shape (length,), int64; optional
            Called only for the mask phase, only once all peers' shares have been found good, and never for a
            retry: this is where budget is charged and noise is drawn.

        Returns
        -------
        bytes
            The reply, for ``SumServer.receive``; persist :meth:`dump` before sending it.

        Raises
        ------
        ProtocolError
            The request is malformed, forged or out of turn (WireError, AuthenticationError).
        RefusedError
            Too few parties (SurvivorsError), or a second answer that differs from the first (ReleaseError).
        ParameterError
            The vector is not what the specification allows, or is missing.
        """
        phase, parts = decode_request(self._spec, request)
        if phase in (Phase.ADVERTISE, Phase.CONFIRM) and any(parts.values()):
            raise WireError(f"The {phase.label} request carries more than names", rule="names only")
        if phase is Phase.ADVERTISE:
            if parts:
                raise WireError("The advertise request names parties", rule="it is empty")
            return self.advertise()
        if phase is Phase.SHARE:
            return self.share(parts)
        if phase is Phase.CONFIRM:
            return self.confirm(parts)
        if phase is Phase.UNMASK:
            return self.unmask(parts)
        again = self._repeated(Phase.MASK, request_digest(self._spec, parts))
        if again is not None:
            return again
        held = self._open_inbox(parts)
        if vector is None:
            raise ParameterError("The mask phase needs the party's vector", fix="pass handle(request, vector)")
        return self._mask(parts, held, vector())

    def advertise(self) -> bytes:
        """Round 0, AdvertiseKeys: fresh X25519 keys c and s, and a commitment to a fresh self-mask seed."""
        asked = request_digest(self._spec, {})
        again = self._repeated(Phase.ADVERTISE, asked)
        if again is not None:
            return again
        keys = OwnKeys.generate()
        body = Advertisement(
            share_public=keys.sealing.public,
            mask_public=keys.masking.public,
            seed_commitment=commit_seed(self._spec, keys.seed, owner=self._name),
        ).to_bytes()
        secrets = Secrets(keys.sealing.secret, keys.masking.secret, keys.seed)
        return self._answer(Phase.ADVERTISE, asked, body, secrets=secrets)

    def share(self, advertisements: Mapping[str, bytes]) -> bytes:
        """Round 1, ShareKeys: check every advertisement; deal mask key and seed to all who advertised.

        Parameters
        ----------
        advertisements : mapping of name to bytes
            The round-0 messages (the paper's U1), this party's own among them.

        Raises
        ------
        WireError, AuthenticationError
            An advertisement is malformed, forged, repeats a key or is a point of low order; its peer is
            named.
        SurvivorsError
            Fewer than ``spec.min_survivors`` advertised.
        """
        spec, name = self._spec, self._name
        advertisements = self._checked(advertisements)
        asked = request_digest(spec, advertisements)
        again = self._repeated(Phase.SHARE, asked)
        if again is not None:
            return again
        if advertisements.get(name) != self._state.answered[Phase.ADVERTISE].reply:
            raise AuthenticationError(
                f"The advertisement of {name!r} is not the one it sent",
                rule="the coordinator forwards advertisements unchanged",
                fix="do not trust this coordinator; start a new sum through another",
            )
        opened = open_advertisements(spec, advertisements)
        transcript = transcript_of(spec, advertisements)
        body, own = deal_to_peers(spec, name, self._own_keys(), opened, transcript)
        return self._answer(
            Phase.SHARE,
            asked,
            encode_body(body),
            advertised={peer: advertisement.to_bytes() for peer, advertisement in opened.items()},
            transcript=transcript,
            own_pair=own.to_bytes(),
        )

    def mask(self, inbox: Mapping[str, bytes], vector: Ints) -> bytes:
        """Round 2, MaskedInputCollection: hide the vector under a mask per peer and one of its own.

        Parameters
        ----------
        inbox : mapping of name to bytes
            One sealed item per peer that shared; with this party they are the paper's U2.
        vector : ndarray of shape (length,), int64
            Noise included; every ``|value| <= spec.max_abs``.

        Raises
        ------
        ParameterError
            The vector has another type or shape, or a value that could overflow the sum. Nothing was sent.
        WireError, AuthenticationError
            An item does not open; its source is named.
        SurvivorsError
            Fewer than ``spec.min_survivors`` shared.

        Privacy
        -------
        What leaves is uniformly random to anybody who lacks the seed or any one peer's mask.
        """
        inbox = self._checked(inbox)
        check_vector(self._spec, vector)
        asked = request_digest(self._spec, inbox)
        again = self._repeated(Phase.MASK, asked)
        if again is None:
            return self._mask(inbox, self._open_inbox(inbox), vector)
        if not hmac.compare_digest(vector_digest(self._spec, asked, vector), self._state.vector_digest):
            raise second_answer(Phase.MASK)
        return again

    def _open_inbox(self, inbox: Mapping[str, bytes]) -> dict[str, SharePair]:
        spec, name, state = self._spec, self._name, self._state
        if name in inbox or not set(inbox) <= set(state.advertised):
            raise WireError(
                "The inbox of shares has the wrong senders",
                rule="peers that advertised, and not this party itself",
            )
        if len(inbox) + 1 < spec.min_survivors:
            raise self._too_few("shared their keys", len(inbox) + 1)
        return {
            name: SharePair.from_bytes(state.own_pair),
            **open_inbox(spec, name, self._own_keys(), self._advertised(), state.transcript, inbox),
        }

    def _mask(self, inbox: Mapping[str, bytes], held: Mapping[str, SharePair], vector: Ints) -> bytes:
        spec, name, transcript = self._spec, self._name, self._state.transcript
        check_vector(spec, vector)
        masked = mask_vector(spec, name, vector, self._own_keys(), self._advertised(), transcript, inbox)
        asked = request_digest(spec, inbox)
        return self._answer(
            Phase.MASK,
            asked,
            sharers_digest(spec, transcript, spec.ordered(held)) + masked,
            vector_digest=vector_digest(spec, asked, vector),
            held={peer: pair.to_bytes() for peer, pair in held.items()},
            secrets=None,  # dealt and used: from now on only t peers together can bring them back
            advertised={},
            own_pair=b"",
        )

    def confirm(self, survivors: Iterable[str]) -> bytes:
        """Round 3, ConsistencyCheck: sign the survivor set (the paper's U3), once and for all.

        Parameters
        ----------
        survivors : iterable of str
            Names of those whose masked vectors the coordinator has, in any order; this party among them.

        Raises
        ------
        SurvivorsError
            Fewer than ``spec.min_survivors``.
        ReleaseError
            Another set was signed before. Totals over different sets subtract to single parties' vectors; a
            retry over another set is a new sum, with fresh noise and a new charge.
        WireError
            A name is repeated or did not share, or this party's own is missing.
        """
        spec, name, state = self._spec, self._name, self._state
        names = list(survivors)
        parts = self._checked(dict.fromkeys(names, b""))
        if len(parts) < len(names):
            raise WireError("The survivor set names a party twice", rule="each once")
        asked = request_digest(spec, parts)
        again = self._repeated(Phase.CONFIRM, asked)
        if again is not None:
            return again
        if name not in parts or not set(parts) <= set(state.held):
            raise WireError(
                "The survivor set is not one of those who shared",
                rule=f"includes {name!r}, and only parties whose shares it holds",
            )
        if len(parts) < spec.min_survivors:
            raise self._too_few("survived", len(parts))
        ordered = tuple(parts)
        body = survivors_digest(spec, state.transcript, spec.ordered(state.held), ordered)
        return self._answer(Phase.CONFIRM, asked, body, survivors=ordered)

    def unmask(self, signatures: Mapping[str, bytes]) -> bytes:
        """Round 4, Unmasking: release one share per peer, of the kind that the survivor set decides.

        Parameters
        ----------
        signatures : mapping of name to bytes
            Round-3 messages of at least ``spec.threshold`` survivors, all over the set this party signed.

        Raises
        ------
        AuthenticationError
            A signature is not by its survivor or is over another set.
        SurvivorsError
            Fewer than ``spec.threshold`` signatures.

        Privacy
        -------
        Seed shares of survivors; mask-key shares of those who dropped out between sharing and masking. Both
        for one peer would open its vector: the state forgets all shares with this answer.
        """
        spec, state = self._spec, self._state
        signatures = self._checked(signatures)
        asked = request_digest(spec, signatures)
        again = self._repeated(Phase.UNMASK, asked)
        if again is not None:
            return again
        if len(signatures) < spec.threshold:
            raise self._too_few("confirmed the survivor set", len(signatures), spec.threshold)
        sharers = spec.ordered(state.held)
        expected = survivors_digest(spec, state.transcript, sharers, state.survivors)
        for peer, message in signatures.items():
            if peer not in state.survivors:
                raise WireError(f"{peer!r} confirmed a survivor set it is not in", rule="survivors sign")
            if open_message(spec, Phase.CONFIRM, peer, message) != expected:
                raise AuthenticationError(
                    f"{peer!r} signed another survivor set",
                    rule="all survivors sign the same set, of the same sharers and keys",
                    fix="the coordinator told parties different stories: do not trust it with this sum again",
                )
        held = {peer: SharePair.from_bytes(pair) for peer, pair in state.held.items()}
        body = UnmaskBody(
            {peer: held[peer].key_share for peer in sharers if peer not in state.survivors},
            {peer: held[peer].seed_share for peer in state.survivors},
        )
        return self._answer(Phase.UNMASK, asked, encode_body(body), held={}, transcript=b"")

    def _own_keys(self) -> OwnKeys:
        secrets = self._state.secrets
        assert secrets is not None  # held from advertising to masking; the phase has been checked
        if self._keys is None:
            self._keys = OwnKeys(
                sealing=KeyPair(secrets.share_secret), masking=KeyPair(secrets.mask_secret), seed=secrets.seed
            )
        return self._keys

    def _advertised(self) -> dict[str, Advertisement]:
        return {peer: Advertisement.from_bytes(body, owner=peer) for peer, body in self._state.advertised.items()}

    def _checked(self, parts: Mapping[str, bytes]) -> dict[str, bytes]:
        """The parts in the order of the participant list; WireError for strangers or what is not bytes."""
        for name, value in parts.items():
            if name not in self._spec.names or not isinstance(value, bytes):
                raise WireError(
                    "A request names a party that takes no part, or carries no bytes for it",
                    got=repr(name)[:80],
                    rule="participants of the specification",
                )
        return {name: parts[name] for name in self._spec.ordered(parts)}

    def _answer(self, phase: Phase, asked: bytes, body: bytes, **changes: Any) -> bytes:
        reply = super()._answer(phase, asked, body, **changes)
        if self._state.secrets is None:
            self._keys = None
        return reply
