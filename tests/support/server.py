"""The service as its own process, the way it is run: signals, ports, workers and all."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil

from tests.support.ports import free_port

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = sys.executable
# As long as it takes beside much else on two processors.
_START_SECONDS: Final = 90.0


class Service:
    """A running service.

    Args:
        process: Its main process.
        port: Where it listens.
        log: The file that holds what it wrote.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def wait_until_ready(self, seconds: float = _START_SECONDS) -> None:
        """Return once `/readyz` says yes.

        Raises:
            RuntimeError: It did not in time, or the service ended; holds its log.
        """
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                if self.http.get("/readyz", timeout=2).status_code == httpx2.codes.OK:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"not ready:\n{self.text()}")

    def workers(self) -> list[psutil.Process]:
        """The processes that gunicorn has forked, and that run."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
        return found

    def text(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """What it logged so far, with LOG_FORMAT=json."""
        return [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a child process: this one's, with those given beside or instead of them."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", **variables}


def serve(_port: int) -> Sequence[str]:
    """How the service is run, on the port that its settings name."""
    return [PYTHON, "-m", "service", "serve"]


@contextmanager
def running_service(
    directory: Path,
    variables: Mapping[str, str],
    *,
    ready: bool = True,
    command: Callable[[int], Sequence[str]] = serve,
) -> Iterator[Service]:
    """Run `tidegate serve` for as long as the context is open.

    Args:
        directory: Where it works and its log lies.
        variables: Its settings.
        ready: Whether to wait until it is.
        command: What to run instead, given the port.
    """
    port = free_port()
    log = directory / f"service-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(port),
            cwd=directory,
            env=environment({"PORT": str(port), **variables}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    service = Service(process, port, log)
    try:
        if ready:
            service.wait_until_ready()
        yield service
    finally:
        service.http.close()
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
