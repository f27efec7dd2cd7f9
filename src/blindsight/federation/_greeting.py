"""Who answers under each name: every party is asked before anything else, and a wrong key or schema is an error."""

from __future__ import annotations

from collections.abc import Sequence

from blindsight.channels import Channel
from blindsight.data import Schema
from blindsight.errors import AuthenticationError, SchemaError

from ._wire import Greeting, Hello, decode_reply, encode

__all__ = ["greet_parties"]


def greet_parties(
    channel: Channel, participants: Sequence[tuple[str, bytes]], schema: Schema, timeout_s: float
) -> list[str]:
    """Ask every party who it is; return those that answered, sorted.

    Raises
    ------
    AuthenticationError, SchemaError
        A party has another identity than the list says, or another schema.
    """
    answers = channel.exchange({name: encode(Hello()) for name, _ in participants}, timeout_s)
    for name, key in participants:
        if name not in answers:
            continue
        greeting = decode_reply(answers[name])
        if not isinstance(greeting, Greeting) or (greeting.name, greeting.public_key) != (name, key):
            raise AuthenticationError(
                f"{name} does not answer with the identity on the participant list",
                fix="check which process or folder answers under this name",
            )
        if greeting.schema_digest != schema.digest():
            raise SchemaError(
                f"{name} has another schema",
                got=greeting.schema_digest[:12],
                rule=schema.digest()[:12],
                fix="give every party the same schema.toml",
            )
    return sorted(answers)
