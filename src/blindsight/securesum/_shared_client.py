"""A party's side of one sum under a shared key: a pure state machine without I/O or clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from blindsight.errors import AuthenticationError, ParameterError, WireError

from ._agreement import KeyPair
from ._digests import transcript_of
from ._hashing import HASH_BYTES, PROTOCOL, tagged_hash
from ._key_advertisements import open_key_advertisements
from ._phased_client import PhasedClient, vector_digest
from ._phases import Phase
from ._ring import check_vector
from ._scheme import scheme_of
from ._sealed_key import checked_key, commit_key, deal_key, holders_of, open_item
from ._shared_state import SharedState, dump_shared_state, load_shared_state
from ._shared_wire import (
    ConfirmRequest,
    DealtBody,
    EncryptRequest,
    OpenRequest,
    ShareRequest,
    decode_body_request,
    encode_dealt,
    parse_request,
    story_of,
    sum_digest,
    survivors_digest,
)
from ._spec import SumSpec
from ._wire import Signer, open_message

__all__ = ["SharedKeyClient"]

Ints = npt.NDArray[np.int64]


class SharedKeyClient(PhasedClient[SharedState]):
    """One party in one sum under a key that all parties share and the coordinator lacks.

    Call :meth:`handle` with each request of the coordinator. After each call, *before* the reply is sent, persist
    :meth:`dump`.

    Parameters
    ----------
    spec : SumSpec
        Whose ``method`` is "he" or "paillier".
    name : str
    signer : Signer
        As for :class:`SumClient`.

    Privacy
    -------
    The coordinator alone learns the total and nothing else of this party's vector. **Any one party together with the
    coordinator learns all vectors**: it has the key, and the coordinator the ciphertexts. A party alone sees no
    other's ciphertext, and learns the total.

    Security
    --------
    Each phase is answered once, as in a masked sum. A party decrypts one ciphertext: that of which t survivors have
    signed the hash, and only if it is the sum of exactly the survivors' ciphertexts. So no request makes it a
    decryption oracle. The key lives for one sum and is forgotten with the last answer; who is never asked for that
    keeps it.
    """

    def __init__(self, spec: SumSpec, name: str, signer: Signer) -> None:
        super().__init__(spec, name, signer)
        self._state = SharedState(version=PROTOCOL, spec=spec.digest, name=name)

    def dump(self) -> bytes:
        """The whole state as bytes, for :meth:`load`.

        Security
        --------
        Holds the shared key, hence as secret as all parties' vectors. Seal it at rest, write it durably before the
        reply leaves, and never go back to an older one.
        """
        return dump_shared_state(self._state)

    @classmethod
    def load(cls, state: bytes, *, spec: SumSpec, name: str, signer: Signer) -> SharedKeyClient:
        """Continue from a dumped state; FormatError if it is malformed or belongs to another sum or party."""
        client = cls(spec, name, signer)
        client._state = load_shared_state(state, spec=spec, name=name)
        return client

    def handle(self, request: bytes, vector: Callable[[], Ints] | None = None) -> bytes:
        """Answer one request of the coordinator, whatever phase it is for.

        Parameters
        ----------
        request : bytes
            From ``SharedKeyServer.requests()``.
        vector : callable returning ndarray of shape (length,), int64; optional
            Called only in the phase that encrypts, only once the key has been found good, and never for a retry.

        Returns
        -------
        bytes
            The reply; persist :meth:`dump` before sending it.

        Raises
        ------
        ProtocolError
            The request is malformed, forged or out of turn, or asks to decrypt what is not the sum.
        RefusedError
            Too few parties (SurvivorsError), or a second answer that differs from the first (ReleaseError).
        ParameterError
            The vector is not what the specification allows, or is missing.
        MissingExtraError
            The scheme is not installed here.
        """
        phase, body = decode_body_request(self._spec, request)
        asked = tagged_hash("request", self._spec.digest, body)
        again = self._repeated(phase, asked)
        if again is not None:
            return again
        if phase is Phase.ADVERTISE:
            if body:
                raise WireError("The advertise request carries something", rule="it is empty")
            return self.advertise()
        if phase is Phase.SHARE:
            return self._share(asked, parse_request(self._spec, body, ShareRequest).advertisements)
        if phase is Phase.MASK:
            return self._encrypt(asked, parse_request(self._spec, body, EncryptRequest), vector)
        if phase is Phase.CONFIRM:
            return self._confirm(asked, parse_request(self._spec, body, ConfirmRequest))
        return self._open(asked, parse_request(self._spec, body, OpenRequest))

    def advertise(self) -> bytes:
        """Round 0: a fresh X25519 key, under which a key holder will seal the shared one."""
        asked = tagged_hash("request", self._spec.digest, b"")
        again = self._repeated(Phase.ADVERTISE, asked)
        if again is not None:
            return again
        scheme_of(self._spec).check_installed()  # before anybody else has done anything
        pair = KeyPair.generate()
        return self._answer(Phase.ADVERTISE, asked, pair.public, own_secret=pair.secret)

    def _share(self, asked: bytes, advertisements: Mapping[str, bytes]) -> bytes:
        """Round 1: check every advertisement; draw and seal the key, if this party is one of its holders."""
        spec, name = self._spec, self._name
        if advertisements.get(name) != self._state.answered[Phase.ADVERTISE].reply:
            raise AuthenticationError(
                f"The advertisement of {name!r} is not the one it sent",
                rule="the coordinator forwards advertisements unchanged",
                fix="do not trust this coordinator; start a new sum through another",
            )
        advertised = open_key_advertisements(spec, advertisements)
        transcript = transcript_of(spec, advertisements)
        body, secret = DealtBody(transcript), b""
        if name in holders_of(spec, advertised):
            body, secret = deal_key(spec, name, KeyPair(self._state.own_secret), advertised, transcript)
        return self._answer(
            Phase.SHARE, asked, encode_dealt(body), advertised=advertised, transcript=transcript, key=secret
        )

    def _encrypt(self, asked: bytes, request: EncryptRequest, vector: Callable[[], Ints] | None) -> bytes:
        """Round 2: open the key, and encrypt the vector under it."""
        spec, name, state = self._spec, self._name, self._state
        sharers, dealer = request.sharers, request.dealer
        if (
            name not in sharers
            or dealer not in sharers
            or not set(sharers) <= set(state.advertised)
            or dealer not in holders_of(spec, state.advertised)
        ):
            raise WireError(
                "The key in use is not one that this sum can have",
                rule=f"{name!r} and a key holder are among those who shared, and all of them advertised",
            )
        if len(sharers) < spec.min_survivors:
            raise self._too_few("shared their keys", len(sharers))
        secret = self._key_in_use(request)
        key = checked_key(
            spec,
            secret,
            dealer=dealer,
            public=request.public,
            transcript=state.transcript,
            commitment=request.commitment,
        )
        if vector is None:
            raise ParameterError("The mask phase needs the party's vector", fix="pass handle(request, vector)")
        values = vector()
        check_vector(spec, values)
        story = story_of(spec, state.transcript, request)
        return self._answer(
            Phase.MASK,
            asked,
            story + key.encrypt(name, values),
            story=story,
            sharers=sharers,
            key=secret,
            vector_digest=vector_digest(spec, asked, values),
            own_secret=b"",
            advertised={},
        )

    def _key_in_use(self, request: EncryptRequest) -> bytes:
        state = self._state
        if request.dealer == self._name:
            own = commit_key(self._spec, state.transcript, dealer=self._name, public=request.public, secret=state.key)
            if own != request.commitment or request.item:
                raise AuthenticationError(
                    "The key in use is not the one that this party dealt",
                    rule="the coordinator forwards commitments unchanged",
                    fix="do not trust this coordinator; start a new sum through another",
                )
            return state.key
        return open_item(
            self._spec,
            request.item,
            own=KeyPair(state.own_secret),
            dealer=request.dealer,
            dealer_public=state.advertised[request.dealer],
            destination=self._name,
            transcript=state.transcript,
            commitment=request.commitment,
        )

    def _confirm(self, asked: bytes, request: ConfirmRequest) -> bytes:
        """Round 3: sign the survivor set and the hash of the encrypted sum, once and for all."""
        spec, state = self._spec, self._state
        if self._name not in request.survivors or not set(request.survivors) <= set(state.sharers):
            raise WireError(
                "The survivor set is not one of those who shared",
                rule=f"includes {self._name!r}, and only parties that have the key in use",
            )
        if len(request.survivors) < spec.min_survivors:
            raise self._too_few("survived", len(request.survivors))
        if len(request.sum_digest) != HASH_BYTES:
            raise WireError("The hash of the encrypted sum has the wrong length", rule=f"{HASH_BYTES} bytes")
        signed = survivors_digest(spec, state.story, request.survivors, request.sum_digest)
        return self._answer(Phase.CONFIRM, asked, signed, survivors=request.survivors, sum_digest=request.sum_digest)

    def _open(self, asked: bytes, request: OpenRequest) -> bytes:
        """Round 4: decrypt the one sum that t survivors signed, and report the total."""
        spec, state = self._spec, self._state
        if len(request.signatures) < spec.threshold:
            raise self._too_few("confirmed the survivor set", len(request.signatures), spec.threshold)
        expected = survivors_digest(spec, state.story, state.survivors, state.sum_digest)
        for peer, message in request.signatures.items():
            if peer not in state.survivors:
                raise WireError(f"{peer!r} confirmed a survivor set it is not in", rule="survivors sign")
            if open_message(spec, Phase.CONFIRM, peer, message) != expected:
                raise AuthenticationError(
                    f"{peer!r} signed another survivor set or another sum",
                    rule="all survivors sign the same set and the same encrypted sum",
                    fix="the coordinator told parties different stories: do not trust it with this sum again",
                )
        if sum_digest(spec, state.story, request.total) != state.sum_digest:
            raise AuthenticationError(
                "The encrypted sum is not the one that was signed",
                rule="one ciphertext is decrypted in a sum: the one whose hash the survivors signed",
                fix="do not trust this coordinator; start a new sum through another",
            )
        total = scheme_of(spec).open(state.key, state.transcript).decrypt(request.total, state.survivors)
        largest = len(state.survivors) * spec.max_abs
        if max(int(total.max()), -int(total.min())) > largest:
            # says neither where nor what: a party encrypted something else than it should
            raise WireError("The total is larger than honest parties can make it", rule=f"|total| <= {largest}")
        return self._answer(Phase.UNMASK, asked, total.astype("<i8").tobytes(), key=b"", transcript=b"", story=b"")
