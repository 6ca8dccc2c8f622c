"""The control channel: how an operator on the same machine looks into a worker, and acts on it.

Each worker listens on a Unix socket of its own. A request is one line of JSON, and so is the
answer. It is given by a thread, which also answers while the event loop is blocked: that is when
somebody wants to know.
"""

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import structlog

from service.web.control_directory import (
    ControlAddress,
    ControlError,
    addresses_in,
    own_address,
)

MAX_LINE_BYTES: Final = 64 * 1024
# How long a client may take to say what it wants, and to take the answer: others wait behind it.
_CLIENT_SECONDS: Final = 1.0
# Until it is tried again, where the process has no room for another connection.
_EXHAUSTED_PAUSE_SECONDS: Final = 1.0
_PEER: Final = struct.Struct("3i")

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]

log = structlog.stdlib.get_logger(__name__)


@contextmanager
def control_channel(answer: Answer, *, port: int, slot: int) -> Iterator[None]:
    """Listen for as long as the context is open.

    A worker that cannot listen serves its requests all the same: that is one line in the log.

    Args:
        answer: Answers a request; called in a thread, one request at a time. What it raises as
            `ControlError` is told to whoever asked.
        port: Where the server serves requests.
        slot: This worker's slot.
    """
    try:
        channel = _Channel(answer, own_address(port, slot))
    except (ControlError, OSError) as error:
        log.warning("no control channel: `tidegate pool` cannot ask this worker", reason=str(error))
        yield
        return
    try:
        yield
    finally:
        channel.close()


class _Channel:
    def __init__(self, answer: Answer, address: ControlAddress) -> None:
        self._answer = answer
        self._path = address.path
        _remove_abandoned(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # It takes its name when it listens: until then it refuses, like one that is abandoned, and
        # another worker that starts now would remove it.
        unfinished = self._path.with_suffix(".unfinished")
        try:
            # Left by a process of the same number, in a container that was killed.
            unfinished.unlink(missing_ok=True)
            self._socket.bind(str(unfinished))
            unfinished.chmod(0o600)
            self._socket.listen()
            unfinished.replace(self._path)
        except OSError:
            self._socket.close()
            raise
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_closed.set()
        # So, and not by closing it, the thread wakes from its wait for the next client.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(_CLIENT_SECONDS)
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _serve(self) -> None:
        while not self._is_closed.is_set():
            try:
                client, _ = self._socket.accept()
            except OSError as error:
                if not self._is_closed.is_set():
                    log.warning("the control channel cannot accept", reason=str(error))
                # The client that waits would be met again at once.
                self._is_closed.wait(_EXHAUSTED_PAUSE_SECONDS)
                continue
            with client, contextlib.suppress(OSError):
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        if not _is_trusted(client):
            return
        deadline = time.monotonic() + _CLIENT_SECONDS
        line = read_line(client, deadline)
        reply = self._reply(line)
        client.settimeout(_CLIENT_SECONDS)
        client.sendall(json.dumps(reply, separators=(",", ":")).encode() + b"\n")

    def _reply(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"error": "a request is one line of JSON"}
        if not isinstance(request, dict):
            return {"error": "a request is an object"}
        try:
            return self._answer(request)
        except ControlError as error:
            return {"error": str(error)}
        except Exception:
            log.exception("a control request failed")
            return {"error": "it failed: see the service's log"}


def read_line(client: socket.socket, deadline: float) -> bytes:
    """Read one line.

    Args:
        client: From whom.
        deadline: Until when (`time.monotonic`).

    Raises:
        OSError: It did not come in time, or is too long.
    """
    line = b""
    while not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
        client.settimeout(max(0.001, deadline - time.monotonic()))
        piece = client.recv(MAX_LINE_BYTES)
        if not piece:
            raise ConnectionResetError
        line += piece
    return line


def _is_trusted(client: socket.socket) -> bool:
    # The directory keeps others out already; this holds also where somebody opened it.
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, user, _ = _PEER.unpack(peer)
    return user in (0, os.geteuid())


def _remove_abandoned(own: ControlAddress) -> None:
    """Remove the sockets of workers that were killed, of whichever server of this user."""
    for address in addresses_in(own.path.parent):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # One that is too busy to be asked is not abandoned.
            probe.setblocking(False)
            try:
                probe.connect(str(address.path))
            except ConnectionRefusedError:
                address.path.unlink(missing_ok=True)
            except OSError:
                continue
