"""A PostgreSQL on what is another host to the kernel, so that packets can be kept from it."""

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.support.postgres import PostgresServer

_TOOLS: Final = ("ip", "iptables", "nsenter")
_numbers: Final = itertools.count()


def missing() -> str | None:
    """What a network of one's own needs and this machine has not; None when it can be made."""
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"needs {' and '.join(lacking)}"
    if os.geteuid() != 0:
        return "needs root, for `ip netns`"
    try:
        Network().remove()
    except subprocess.CalledProcessError as error:
        return f"needs `ip netns` and iptables, and {error.cmd[0]} fails here"
    return None


class Network:
    """A network namespace, joined to ours by one cable; whoever makes it removes it.

    `here` and `there` are the addresses of the cable's ends.

    Raises:
        subprocess.CalledProcessError: It cannot be made here.
    """

    def __init__(self) -> None:
        number = next(_numbers)
        # RFC 2544 sets 198.18.0.0/15 apart for tests: no machine has such an address. Of its halves
        # the second, as a Docker of a test may make its networks from the beginning on.
        block = (os.getpid() * 8 + number) % (1 << 14)
        prefix = f"198.19.{block >> 6}"
        self.here = f"{prefix}.{(block & 63) * 4 + 1}"
        self.there = f"{prefix}.{(block & 63) * 4 + 2}"
        self.name = f"tidegate-{os.getpid()}-{number}"
        # A name of an interface has 15 characters at most.
        self._near, self._far = (f"tg{os.getpid()}-{number}{end}" for end in "ab")

        try:
            self._lay()
        except BaseException:
            self.remove()
            raise

    def drop_packets(self) -> None:
        """Let nothing through in either direction, and tell nobody."""
        for chain in ("INPUT", "OUTPUT"):
            self._run_there("iptables", "--policy", chain, "DROP")

    def pass_packets(self) -> None:
        """Let everything through again."""
        for chain in ("INPUT", "OUTPUT"):
            self._run_there("iptables", "--policy", chain, "ACCEPT")

    def command(self, user: str | int | None) -> list[str]:
        """What to write before a command, so that it runs there.

        Args:
            user: As whom it runs; None for root.
        """
        entry = ["nsenter", f"--net={Path('/run/netns', self.name)}"]
        if user is None:
            return entry
        who = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
        return [*entry, f"--setgid={who.pw_gid}", f"--setuid={who.pw_uid}"]

    def remove(self) -> None:
        """Delete the namespace, and the cable with it."""
        # The cable goes with the namespace, but only once the last socket in it is closed.
        for what, name in (("netns", self.name), ("link", self._near)):
            with contextlib.suppress(subprocess.CalledProcessError):
                _run("ip", what, "delete", name)

    def _lay(self) -> None:
        _run("ip", "netns", "add", self.name)
        far = ("peer", "name", self._far, "netns", self.name)
        _run("ip", "link", "add", self._near, "type", "veth", *far)
        _run("ip", "address", "add", f"{self.here}/30", "dev", self._near)
        _run("ip", "link", "set", self._near, "up")
        self._run_there("ip", "address", "add", f"{self.there}/30", "dev", self._far)
        self._run_there("ip", "link", "set", self._far, "up")
        self._run_there("iptables", "--list")

    def _run_there(self, *command: str) -> None:
        _run(*self.command(None), *command)


class FarServer(PostgresServer):
    """A PostgreSQL in a network of its own.

    Args:
        settings: Parameters beside or instead of the usual ones.
    """

    def __init__(self, **settings: str) -> None:
        self.network = Network()
        self.host = self.network.there
        super().__init__(listen_addresses=self.host, **settings)

    def run(self, command: list[str], user: str | int | None) -> None:  # type: ignore[override]
        """As any server, in its network."""
        super().run([*self.network.command(user), *command], None)

    def remove(self) -> None:
        """Stop the server, delete its files, and its network."""
        self.network.pass_packets()
        super().remove()
        self.network.remove()

    def _fill(self) -> None:
        super()._fill()
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {self.network.here}/32 trust\n")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
