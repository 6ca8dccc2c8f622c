"""The Compose stack under a name and ports of its own, so that one that runs is left alone."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_FILES: Final = (ROOT / "docker-compose.yml", ROOT / "deploy" / "demo" / "compose.yml")
_DATABASE: Final = ("--username=tidegate", "--dbname=tidegate", "--no-psqlrc", "--quiet")
_CLOSING_SECONDS: Final = 5
_DONE: Final = "done"
# Of one command, for instance to build the image where nothing of it is cached.
_LONGEST_SECONDS: Final = 600
# Of a migration, which gives up sooner.
_MIGRATION_SECONDS: Final = 60


class StackError(Exception):
    """A command of Docker failed; the text says which, and the end of what it wrote."""


class Stack:
    """One run of the Compose files.

    Args:
        project: Compose's name for it.
        monitoring: The directory with Prometheus' configuration.
        next_revision: The file of a revision that only the next release has.
    """

    def __init__(self, project: str, monitoring: Path, next_revision: Path) -> None:
        self.api_port, self.prometheus_port = _free_ports()
        self._project = project
        self._next_revision = next_revision
        self._image = f"tidegate:{project}"
        self._environment = {
            **os.environ,
            "TIDEGATE_IMAGE": self._image,
            "API_PORT": str(self.api_port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "DEMO_MONITORING": str(monitoring),
        }
        self._sessions: list[subprocess.Popen[bytes]] = []

    def is_there(self) -> bool:
        """Whether containers of that name are there already, of another demo or a killed one."""
        return bool(self._compose("ps", "--all", "--quiet").stdout)

    def build(self) -> None:
        """Build the image of this source tree."""
        self._compose("build", "--quiet", "migrate")

    def up(self) -> None:
        """Start everything, and return when all of it is healthy."""
        self._compose("up", "--wait", "--wait-timeout", "120")

    def down(self) -> None:
        """Remove everything: containers, networks, volumes and the image."""
        for session in self._sessions:
            session.kill()
            # Closes its pipes as well.
            session.communicate()
        try:
            self._compose(
                "down", "--volumes", "--remove-orphans", "--timeout", str(_CLOSING_SECONDS)
            )
        finally:
            _docker("image", "rm", "--force", self._image, env=self._environment, check=False)

    def stop(self, service: str) -> None:
        """Stop a service's container."""
        self._compose("stop", service)

    def start(self, service: str) -> None:
        """Start it again."""
        self._compose("start", service)

    def tool(self, *arguments: str) -> str:
        """What `tidegate` prints when it is run in the service's container."""
        return self._compose("exec", "-T", "api", "tidegate", *arguments).stdout

    def migrate_to_next_release(self) -> subprocess.CompletedProcess[str]:
        """Run `tidegate migrate up` in a container, as the deploy of a next release does.

        That release is this one and a revision more.
        """
        package = "import service.migrations as package; print(*package.__path__)"
        migrations = self._compose("exec", "-T", "api", "python", "-c", package).stdout.strip()
        mount = f"{self._next_revision}:{migrations}/versions/{self._next_revision.name}:ro"
        return self._compose(
            *("run", "--rm", "--no-deps", "-T", "--volume", mount),
            *("migrate", "tidegate", "migrate", "up"),
            check=False,
            timeout=_MIGRATION_SECONDS,
        )

    def open_transaction(self, name: str, sql: str) -> None:
        """Have a client begin a transaction and forget it.

        Args:
            name: What the client calls itself, by which `end_session` finds it.
            sql: What it does first.
        """
        client = self._command("exec", "-T", "--env", f"PGAPPNAME={name}", "db", "psql", *_DATABASE)
        session = subprocess.Popen(  # noqa: S603 - our own command
            client,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._sessions.append(session)
        assert session.stdin is not None  # noqa: S101 - they are pipes
        assert session.stdout is not None  # noqa: S101 - the same
        session.stdin.write(f"BEGIN; {sql};\n\\echo {_DONE}\n".encode())
        session.stdin.flush()
        if not any(line.strip() == _DONE.encode() for line in session.stdout):
            raise StackError(f"{name} could not: {sql}")

    def end_session(self, name: str) -> None:
        """End a client's sessions, as the runbooks tell to.

        Raises:
            StackError: It has none.
        """
        ended = self._compose(
            *("exec", "-T", "db", "psql", *_DATABASE, "--tuples-only", "--no-align", "--command"),
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"  # noqa: S608 - our own name
            f" WHERE application_name = '{name}'",
        )
        if ended.stdout.strip() == "0":
            raise StackError(f"{name} has no session in the database")

    def _compose(
        self, *arguments: str, check: bool = True, timeout: float = _LONGEST_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        command = self._command(*arguments)[1:]
        return _docker(*command, env=self._environment, check=check, timeout=timeout)

    def _command(self, *arguments: str) -> list[str]:
        files = [word for path in _FILES for word in ("--file", str(path))]
        docker = shutil.which("docker") or "docker"
        return [docker, "compose", "--project-name", self._project, *files, *arguments]


@contextmanager
def running(stack: Stack) -> Iterator[None]:
    """Start a stack, and remove it when the block ends, however it does."""
    try:
        stack.build()
        stack.up()
        yield
    finally:
        # A second Ctrl-C would leave half of it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stack.down()
        signal.signal(signal.SIGINT, signal.default_int_handler)


def engine_complaint() -> str | None:
    """Why there is no Docker to use; None when there is."""
    if shutil.which("docker") is None:
        return "there is no `docker` on PATH"
    for command in (("info",), ("compose", "version")):
        if _docker(*command, check=False).returncode:
            return f"`docker {' '.join(command)}` failed"
    return None


def _docker(
    *arguments: str,
    env: dict[str, str] | None = None,
    check: bool = True,
    timeout: float = _LONGEST_SECONDS,
) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            [shutil.which("docker") or "docker", *arguments],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            # Ctrl-C is for us, who then remove what there is.
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise StackError(f"docker {' '.join(arguments)}: no end after {timeout:g} s") from None
    if check and done.returncode:
        last = "\n".join(done.stderr.splitlines()[-10:])
        raise StackError(f"docker {' '.join(arguments)} exited {done.returncode}\n{last}")
    return done


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
