"""The process that reads strangers' keys: ``python -m blindsight.service._keyworker MEMORY_BYTES CPU_SECONDS``.

It gets an offer and a registration over its standard input and says which key id that is, or what is wrong with it. It
holds no model, no identity and no store, and the kernel limits what it may use. If it dies, only the stranger's
registration is refused.
"""

from __future__ import annotations

import hashlib
import resource
import signal
import struct
import sys

from blindsight.blind import RegistrationCheck
from blindsight.channels import serve_frames
from blindsight.errors import BlindsightError, WireError

__all__ = ["main"]

LENGTH = struct.Struct("<I")
MAX_OPEN_FILES = 64
MAX_FILE_BYTES = 256 << 20


def limit(memory_bytes: int, cpu_seconds: int) -> None:
    """Let the kernel end this process rather than let it grow."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))


def main() -> int:
    """Answer frames until the input ends."""
    limit(int(sys.argv[1]), int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's shutdown ends it, by closing its input
    checks: dict[bytes, RegistrationCheck] = {}

    def handle(frame: bytes) -> bytes:
        try:
            (length,) = LENGTH.unpack_from(frame)
            offer, registration = frame[LENGTH.size : LENGTH.size + length], frame[LENGTH.size + length :]
            digest = hashlib.sha256(offer).digest()
            if digest not in checks:
                checks.clear()
                checks[digest] = RegistrationCheck(offer)
            return b"+" + checks[digest].check(registration).encode()
        except BlindsightError as error:
            return b"-" + error.what.encode()
        except (struct.error, MemoryError) as error:
            return b"-" + WireError(f"The registration cannot be read ({type(error).__name__})").what.encode()

    serve_frames(handle, sys.stdin.buffer, sys.stdout.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
