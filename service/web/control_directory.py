"""Where the workers of a server listen for their operator, and who may come in.

The directory is the server's user's own, and closed to everybody else but root. A socket in it is
named by the server's port, the worker's slot and its process: so the servers of one machine are
told apart, and an old worker and a new one beside each other during a reload.
"""

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.web.memory_directory import memory_directory

_PREFIX: Final = "tidegate-control-"
_NAME: Final = re.compile(r"(\d+)-(\d+)-(\d+)\.sock")
_PRIVATE: Final = 0o700


class ControlError(RuntimeError):
    """A worker cannot be asked; the text says why, and what to do."""


@dataclass(frozen=True, order=True)
class ControlAddress:
    """One worker's socket.

    Args:
        port: Where its server serves requests.
        slot: The worker's slot.
        pid: Its process, as it knows itself.
        path: The socket.
    """

    port: int
    slot: int
    pid: int
    path: Path


def own_directory() -> Path:
    """The directory of this process's user, which is made where there is none.

    Raises:
        ControlError: Somebody else has made it, or it stands open to others.
    """
    directory = memory_directory() / f"{_PREFIX}{os.geteuid()}"
    with suppress(FileExistsError):
        directory.mkdir(mode=_PRIVATE)
    found = directory.lstat()
    is_private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == _PRIVATE
    if not is_private or found.st_uid != os.geteuid():
        raise ControlError(f"{directory}: not a private directory of this user; remove it")
    return directory


def own_address(port: int, slot: int) -> ControlAddress:
    """Where this process listens.

    Args:
        port: Where its server serves requests.
        slot: Its slot.

    Raises:
        ControlError: As of `own_directory`.
        OSError: The directory cannot be made.
    """
    pid = os.getpid()
    return ControlAddress(port, slot, pid, own_directory() / f"{port}-{slot}-{pid}.sock")


def known_addresses() -> list[ControlAddress]:
    """The sockets that this user may connect to, those of workers that were killed included.

    For root they are those of every user.

    Raises:
        ControlError: There are none, but another user has some.
    """
    directories = sorted(memory_directory().glob(f"{_PREFIX}*"))
    closed = [one for one in directories if not _is_open(one)]
    found = [address for one in directories if one not in closed for address in addresses_in(one)]
    if closed and not found:
        users = ", ".join(one.name.removeprefix(_PREFIX) for one in closed)
        raise ControlError(
            f"no worker of this user runs, but there are such of user {users}: run this as that"
            " user, or as root"
        )
    return sorted(found)


def addresses_in(directory: Path) -> list[ControlAddress]:
    """The sockets in a directory.

    Args:
        directory: As of `own_directory`.
    """
    try:
        paths = [*directory.iterdir()]
    except OSError:
        # It went away meanwhile.
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in paths]
    return [
        ControlAddress(int(match[1]), int(match[2]), int(match[3]), path)
        for match, path in matches
        if match
    ]


def _is_open(directory: Path) -> bool:
    try:
        return os.geteuid() in (0, directory.lstat().st_uid)
    except OSError:
        return True
