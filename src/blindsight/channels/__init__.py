"""How bytes travel. A channel knows nothing of federations: it carries requests to named parties and answers back.

Contract of every channel: ``exchange(requests, timeout_s)`` returns the answers of those who answered in time. Who
did not is absent from the result; silence is a dropout, never an exception.
"""

from ._channel import Channel, Traffic
from ._memory import MemoryChannel
from ._process import ProcessChannel, serve_frames

__all__ = ["Channel", "MemoryChannel", "ProcessChannel", "Traffic", "serve_frames"]
