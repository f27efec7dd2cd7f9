"""What local training keeps from round to round: on disk with the round's output, and in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from blindsight.errors import ParameterError
from blindsight.store import Store

__all__ = ["MAX_MEMORY_BYTES", "RunMemory"]

MAX_MEMORY_BYTES = 1 << 26
MAX_KEYS = 256
MAX_KEY_CHARS = 64
MAX_RUNS_ON_DISK = 4
MAX_RUNS_IN_PROCESS = 2

_Runs = Annotated[list[str], msgspec.Meta(max_length=MAX_RUNS_ON_DISK)]
_index = msgspec.msgpack.Decoder(_Runs)
_content = msgspec.msgpack.Decoder(dict[str, bytes])


class RunMemory:
    """Memory and cache of the runs that a party takes part in; the oldest run gives way to a new one.

    Parameters
    ----------
    store : Store
        Sealed like everything else that the party keeps: control variates say much of its records.
    """

    def __init__(self, store: Store) -> None:
        self._table = store.table("memory")
        self._caches: dict[str, dict[str, object]] = {}

    def load(self, run: str) -> dict[str, bytes]:
        """Return what the last committed round of this run left; empty at first."""
        runs = self._runs()
        stored = self._table.get(f"slot-{runs.index(run)}") if run in runs else None
        return _content.decode(stored) if stored else {}

    def save(self, run: str, memory: Mapping[str, bytes]) -> None:
        """Keep it; to be called inside the transaction that commits the round's output.

        Raises
        ------
        ParameterError
            It is not what may be kept: text to bytes, at most 64 MiB in all.
        """
        content = dict(memory)
        runs = self._runs()
        if not content and run not in runs:
            return
        if len(content) > MAX_KEYS or not all(_is_entry(key, value) for key, value in content.items()):
            raise ParameterError("The memory of a run holds something else than short names and bytes")
        size = sum(map(len, content.values()))
        if size > MAX_MEMORY_BYTES:
            raise ParameterError(
                "The memory of a run is too large", got=f"{size} bytes", rule=f"at most {MAX_MEMORY_BYTES}"
            )
        if run not in runs:
            # a slot of its own while there are any, else that of the run that has been there longest
            slot = runs.index("") if "" in runs else len(runs) if len(runs) < MAX_RUNS_ON_DISK else self._oldest()
            runs[slot : slot + 1] = [run]
            self._table.put("runs", msgspec.msgpack.encode(runs))
            self._table.put("next", bytes([(slot + 1) % MAX_RUNS_ON_DISK]))
        self._table.put(f"slot-{runs.index(run)}", msgspec.msgpack.encode(content))

    def cache(self, run: str) -> dict[str, object]:
        """Return this run's cache in this process; that of another run may be dropped for it."""
        cache = self._caches.pop(run, {})
        self._caches[run] = cache
        while len(self._caches) > MAX_RUNS_IN_PROCESS:
            self._caches.pop(next(iter(self._caches)))
        return cache

    def drop_cache(self, run: str) -> None:
        """Forget what this process has in memory, which may be ahead of the disk."""
        self._caches.pop(run, None)

    def finish(self, run: str) -> None:
        """Forget a run whose rounds are over."""
        self.drop_cache(run)
        runs = self._runs()
        if run in runs:
            self._table.put(f"slot-{runs.index(run)}", b"")
            self._table.put("runs", msgspec.msgpack.encode(["" if name == run else name for name in runs]))

    def _runs(self) -> list[str]:
        stored = self._table.get("runs")
        return _index.decode(stored) if stored else []

    def _oldest(self) -> int:
        stored = self._table.get("next")
        return stored[0] % MAX_RUNS_ON_DISK if stored else 0


def _is_entry(key: object, value: object) -> bool:
    return isinstance(key, str) and 0 < len(key) <= MAX_KEY_CHARS and isinstance(value, bytes)
