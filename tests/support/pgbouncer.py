"""A real PgBouncer for tests, where it is installed (Debian's `pgbouncer`)."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import make_url

from tests.support.polling import eventually
from tests.support.postgres import free_port

_PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


def require_pgbouncer() -> None:
    """Skip a test where PgBouncer is not installed."""
    if _PROGRAM is None:
        pytest.skip("PgBouncer is not installed")


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
    with tempfile.TemporaryDirectory(prefix="tidegate-pgbouncer-") as directory:
        file = Path(directory, "ini")
        file.write_text(
            f"[databases]\n* = host={target.host} port={target.port} user={target.username}\n"
            "[pgbouncer]\n" + "".join(f"{name} = {value}\n" for name, value in options.items())
        )
        # It refuses to run as root.
        Path(directory).chmod(0o755)
        user = "nobody" if os.geteuid() == 0 else None
        with Path(directory, "log").open("wb") as log:
            process = subprocess.Popen(
                [str(_PROGRAM), str(file)], stdout=log, stderr=log, user=user
            )
        try:
            eventually(lambda: _accepts(port))
            yield target.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        finally:
            process.terminate()
            process.wait(timeout=10)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
