"""wrk, a closed loop of clients in C, and what it saw."""

import re
import shutil
import subprocess
import sys
from typing import Final, NamedTuple

from tests.support.server import Service

CLIENTS: Final = 16
_MILLISECONDS: Final = {"us": 0.001, "ms": 1, "s": 1000}


class Load(NamedTuple):
    """What wrk saw: requests per second, latencies in milliseconds, and requests that failed."""

    rate: float
    p50: float
    p99: float
    failed: int


def require_wrk() -> None:
    """End the program where it is not installed."""
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk (apt-get install wrk)")


def wrk(service: Service, path: str, seconds: int, *script: str, clients: int = CLIENTS) -> Load:
    """Load one path, or what a script asks for, from the core of whoever calls this.

    Args:
        service: Whom.
        path: For what.
        seconds: For how long.
        script: The option that names a script, and the script's own arguments.
        clients: How many connections ask at once.
    """
    done = subprocess.run(
        ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--latency", "--timeout", "10s",
         *script[:1], f"http://127.0.0.1:{service.port}{path}", *script[1:]],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done)
    latencies = {
        share: float(value) * _MILLISECONDS[unit]
        for share, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", done)
    }
    if rate is None or len(latencies) != len(("50", "99")):
        raise RuntimeError(done)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done)
    errors = re.search(r"Socket errors: .*", done)
    failed = sum(map(int, re.findall(r"\d+", errors[0]))) if errors else 0
    return Load(
        float(rate[1]), latencies["50"], latencies["99"], failed + int(refused[1] if refused else 0)
    )
