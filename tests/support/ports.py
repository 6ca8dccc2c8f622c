"""Ports of the loopback interface for whatever the tests start."""

import functools
import itertools
import socket
from collections.abc import Iterator
from typing import Final

# Linux and macOS give ports from 32768 and 49152 on to whoever asks for any, which would be in the
# way of a server that binds its port seconds after it was found free.
_FIRST: Final = 20_000
_END: Final = 30_000
_BLOCK: Final = 100


def free_port() -> int:
    """A port that nobody listens on, and that no other process of a test run is given.

    Raises:
        RuntimeError: There is none.
    """
    ports = _ports()
    for port in itertools.islice(ports, _BLOCK):
        if (listener := _bound(port)) is not None:
            listener.close()
            return port
    raise RuntimeError("no port of this process's block is free")


@functools.cache
def _ports() -> Iterator[int]:
    """The ports of a block that is ours, over and over."""
    for first in range(_FIRST, _END, _BLOCK):
        if (mark := _bound(first)) is not None:
            # Held until the process ends: whoever finds it bound takes another block.
            mark.detach()
            return itertools.cycle(range(first + 1, first + _BLOCK))
    raise RuntimeError(f"no block of ports from {_FIRST} to {_END} is free")


def _bound(port: int) -> socket.socket | None:
    listener = socket.socket()
    try:
        # Of every interface: a port that Docker publishes on another one is not free either.
        listener.bind(("", port))
    except OSError:
        listener.close()
        return None
    return listener
