"""At the SuperLink: takes parcels from the coordinator's socket, and has Flower carry them."""

from __future__ import annotations

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from .courier import serve

__all__ = ["app"]

app = ServerApp()


class _Fleet:
    """Flower's grid, by numbers instead of ids of messages."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._open: dict[str, tuple[int, int]] = {}

    def nodes(self) -> list[int]:
        """Ids of the nodes that there are."""
        return list(self._grid.get_node_ids())

    def push(self, node: int, number: int, parcel: bytes, seconds: float) -> None:
        """Have a message carried."""
        content = RecordDict({"parcel": ConfigRecord({"body": parcel})})
        message = Message(content, dst_node_id=node, message_type="query.carry", ttl=seconds)
        for message_id in self._grid.push_messages([message]):
            if message_id:
                self._open[message_id] = node, number

    def pull(self) -> list[tuple[int, int, bytes | None, str]]:
        """Collect what is over."""
        if not self._open:
            return []
        over: list[tuple[int, int, bytes | None, str]] = []
        for reply in self._grid.pull_messages(list(self._open)):
            which = self._open.pop(reply.metadata.reply_to_message_id, None)
            if which is None:
                continue
            if reply.has_error():
                over.append((*which, None, f"{reply.error.code}: {reply.error.reason}"))
            else:
                over.append((*which, bytes(reply.content["parcel"]["body"]), ""))
        return over

    def forget(self) -> None:
        """Wait for nothing any more."""
        self._open.clear()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry until the coordinator ends."""
    path = str(context.run_config["socket"])
    if not path:
        raise RuntimeError("flwr run with --run-config 'socket=\"/path/to/flower.sock\"'")
    serve(path, _Fleet(grid), float(context.run_config["wait-s"]))
