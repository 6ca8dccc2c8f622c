"""A real PgBouncer for tests, where it is installed (Debian's `pgbouncer`)."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from tests.support.missing import missing
from tests.support.polling import eventually
from tests.support.ports import free_port

_PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


def require_pgbouncer() -> None:
    """Skip the test, or fail in CI, where PgBouncer is not installed."""
    if _PROGRAM is None:
        missing("PgBouncer is not installed (Debian's package is pgbouncer)")


@contextmanager
def pgbouncer(url: str, **settings: str) -> Iterator[str]:
    """Run PgBouncer before a database; gives the URL to reach that through it.

    Args:
        url: The database.
        settings: What its configuration says beside where it listens and who may come.
    """
    target = make_url(url)
    port = free_port()
    options = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "any",
        **settings,
    }
    lines = [f"{name} = {value}" for name, value in options.items()]
    databases = f"* = host={target.host} port={target.port} user={target.username}"
    text = "\n".join(["[databases]", databases, "[pgbouncer]", *lines])
    with running_pgbouncer({"pgbouncer.ini": text}, port):
        yield target.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)


@contextmanager
def running_pgbouncer(files: Mapping[str, str], port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run PgBouncer; it is stopped at the end, if it still runs.

    Args:
        files: What they hold, by name; `{directory}` stands for where they lie. The first one is
            the configuration.
        port: Where that says that it listens.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-pgbouncer-") as name:
        directory = Path(name)
        for file, text in files.items():
            (directory / file).write_text(text.replace("{directory}", name))
        # It refuses to run as root.
        directory.chmod(0o755)
        user = "nobody" if os.geteuid() == 0 else None
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [str(_PROGRAM), str(directory / next(iter(files)))],
                stdout=log,
                stderr=log,
                user=user,
            )
        try:
            eventually(lambda: _accepts(port))
            yield process
        finally:
            process.terminate()
            process.wait(timeout=10)


def pgbouncer_version() -> tuple[int, ...]:
    """Of the one that is installed; empty without any."""
    if _PROGRAM is None:
        return ()
    told = subprocess.run([_PROGRAM, "--version"], capture_output=True, text=True, check=True)
    (found,) = re.findall(r"^PgBouncer (\d+)\.(\d+)", told.stdout, re.MULTILINE)
    return tuple(map(int, found))


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
