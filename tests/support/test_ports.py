"""That servers which start at the same time, in whatever process, get ports of their own."""

import socket
import subprocess
from pathlib import Path

from tests.support.ports import free_port
from tests.support.server import PYTHON, ROOT, environment

TAKE = "from tests.support.ports import free_port; print(free_port(), flush=True); input()"


def test_ports_of_all_processes_differ(tmp_path: Path) -> None:
    ours = [free_port() for _ in range(50)]
    children = [
        subprocess.Popen(
            [PYTHON, "-c", TAKE],
            cwd=tmp_path,
            env=environment({"PYTHONPATH": str(ROOT)}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    theirs = []
    for child in children:
        assert child.stdout is not None
        theirs.append(int(child.stdout.readline()))
    for child in children:
        child.communicate("\n")
    assert len({*ours, *theirs}) == 53


def test_port_that_is_listened_on_is_passed_over() -> None:
    port = free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        # More than there are, so that it is this one's turn again.
        assert port not in [free_port() for _ in range(100)]
