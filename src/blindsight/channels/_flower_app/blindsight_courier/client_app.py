"""At a party: hands the parcel to the party's own process over its socket, and takes the answer back."""

from __future__ import annotations

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from .courier import ask

__all__ = ["app"]

app = ClientApp()


@app.query("carry")
def carry(message: Message, context: Context) -> Message:
    """Carry one parcel there and one back."""
    path = context.node_config.get("agent")
    if not isinstance(path, str) or not path:
        raise RuntimeError("start flower-supernode with --node-config 'agent=\"/path/to/flower.sock\"'")
    answer = ask(path, bytes(message.content["parcel"]["body"]))
    return Message(RecordDict({"parcel": ConfigRecord({"body": answer})}), reply_to=message)
