"""What every database server that the tests start has in common: signals, and an end."""

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final, TypeVar

import psutil

from tests.support.polling import eventually

_START_SECONDS: Final = 30.0
_HALTED: Final = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}


class DatabaseServer(ABC):
    """One server with its own directory, which a test may stop, kill and pause.

    Args:
        name: What its directory is called after.
    """

    # What makes it end every session and lose nothing.
    stop_signal: ClassVar[signal.Signals]
    # Written while it runs, and in the way of the next start when it was killed.
    pid_file: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"tidegate-{name}-"))
        self.data = self.directory / "data"
        self.data.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None:
        """Start the server and wait until it takes connections."""

    @abstractmethod
    def accepts(self) -> bool:
        """Whether it takes connections."""

    def run(self, command: Sequence[str], user: str | int | None) -> None:
        """Start the server's main process and wait until it takes connections.

        Args:
            command: The program with its arguments.
            user: Who runs it; None for whoever runs the tests.
        """
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command],
                stdout=log,
                stderr=subprocess.STDOUT,
                user=user,
                # Ctrl-C is for the test run; the fixture stops the server after it.
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self.accepts():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self.directory / "log").read_text(errors="replace"))
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server the fast way: sessions are ended, nothing is lost."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """Kill the server's main process with -9; its children notice and end."""
        children = psutil.Process(self._running().pid).children(recursive=True)
        self._end(signal.SIGKILL)
        psutil.wait_procs(children, timeout=10)
        (self.data / self.pid_file).unlink(missing_ok=True)

    def pause(self) -> None:
        """Stop every process of the server: connections stay open, and nobody answers."""
        main = psutil.Process(self._running().pid)
        main.suspend()
        # Before its children are listed: until it stands still it may begin another one.
        eventually(lambda: _is_stopped(main))
        processes = self._all()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # a session that just ended
                process.suspend()
        # A thread that runs on another processor may give an answer yet.
        eventually(lambda: all(map(_is_stopped, processes)))

    def resume(self) -> None:
        """Let them all go on."""
        for process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the server from answering for as long as the context is open."""
        try:
            self.pause()
            yield
        finally:
            self.resume()

    def remove(self) -> None:
        """Stop the server, if it runs, and delete its files."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        process = self._running()
        process.send_signal(how)
        process.wait(timeout=30)
        self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process

    def _all(self) -> list[psutil.Process]:
        main = psutil.Process(self._running().pid)
        return [main, *main.children(recursive=True)]


ServerT = TypeVar("ServerT", bound=DatabaseServer)


@contextlib.contextmanager
def running(server: ServerT) -> Iterator[ServerT]:
    """Start a server, and remove it with its files when the context ends, however it does.

    Args:
        server: One that was not started yet.
    """
    try:
        server.start()
        yield server
    finally:
        server.remove()


def _is_stopped(process: psutil.Process) -> bool:
    """Whether no thread of a process runs any longer."""
    threads = []
    with contextlib.suppress(psutil.NoSuchProcess):
        threads = process.threads()
    for thread in threads:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(thread.id).status() not in _HALTED:
                return False
    return True
