"""Asking the workers of a server on this machine, all at once."""

import json
import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.web.control_directory import ControlAddress, ControlError, known_addresses

DEFAULT_TIMEOUT: Final = 2.0
_PIECE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class WorkerReply:
    """What one worker said.

    Attributes:
        slot: The worker's slot.
        pid: Its process, as it knows itself: another number outside of its container.
        answer: What it answered; empty where it did not, or refused.
        problem: Why not; empty where it answered.
    """

    slot: int
    pid: int
    answer: Mapping[str, Any]
    problem: str


def ask_workers(
    request: Mapping[str, Any],
    *,
    port: int,
    slot: int | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> list[WorkerReply]:
    """Ask every worker of a server, and wait for all of them together.

    Args:
        request: What to ask; `service.web.control_commands` tells what there is.
        port: Where the server serves requests.
        slot: The one worker to ask; left out, all.
        timeout: Seconds after which a worker counts as one that does not answer.

    Returns:
        One reply for each worker that lives, in the order of their slots.

    Raises:
        ControlError: No worker runs, or they are another user's.
    """
    addresses = [one for one in known_addresses() if one.port == port and slot in (None, one.slot)]
    replies = _ask_all(addresses, request, timeout)
    if not replies:
        who = "no worker" if slot is None else f"no worker {slot}"
        raise ControlError(
            f"{who} of a service on port {port} runs here; set PORT to that of the service, and"
            " run this in its container, or on its machine"
        )
    return replies


def _ask_all(
    addresses: Sequence[ControlAddress], request: Mapping[str, Any], timeout: float
) -> list[WorkerReply]:
    line = json.dumps(request).encode() + b"\n"
    deadline = time.monotonic() + timeout
    conversations = [_Conversation(address) for address in addresses]
    with selectors.DefaultSelector() as selector:
        for one in conversations:
            if one.begin(line):
                selector.register(one.socket, selectors.EVENT_READ, one)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if not key.data.read():
                    selector.unregister(key.fileobj)
    for one in conversations:
        one.socket.close()
    replies = [one.reply(timeout) for one in conversations]
    return [reply for reply in replies if reply is not None]


class _Conversation:
    def __init__(self, address: ControlAddress) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._address = address
        self._line = b""
        self._has_ended = self._is_gone = False

    def begin(self, line: bytes) -> bool:
        """Ask; False when nobody is there to ask, or too many ask already."""
        self.socket.setblocking(False)
        try:
            self.socket.connect(str(self._address.path))
            self.socket.sendall(line)
        except BlockingIOError:
            return False
        except OSError:
            self._is_gone = True
            return False
        return True

    def read(self) -> bool:
        """Read what has come; False when there is no more to come."""
        try:
            piece = self.socket.recv(_PIECE_BYTES)
        except OSError:
            piece = b""
        self._line += piece
        self._has_ended = not piece
        return bool(piece)

    def reply(self, timeout: float) -> WorkerReply | None:
        if self._is_gone:
            return None
        answer: dict[str, Any] = {}
        problem = "it ended meanwhile" if self._has_ended else f"no answer within {timeout:g} s"
        if self._line.endswith(b"\n"):
            answer = json.loads(self._line)
            problem = answer.pop("error", "")
        return WorkerReply(
            slot=self._address.slot, pid=self._address.pid, answer=answer, problem=problem
        )
