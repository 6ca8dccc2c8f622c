"""Where files of a running server lie that nobody needs after it."""

import os
import tempfile
from pathlib import Path


def memory_directory() -> Path:
    """A directory in memory, which is there also where the root file system is read-only.

    Where there is none, it is the temporary directory.
    """
    memory = Path("/dev/shm")  # noqa: S108 - what is made in it is private
    return memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
