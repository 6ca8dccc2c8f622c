"""A real Prometheus with our rules, for which a minute is a second."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2
import yaml

from deploy.demo import prometheus
from deploy.demo.monitoring import faster_rules
from tests.monitoring.installed import program
from tests.monitoring.rules import RULES
from tests.support.polling import eventually
from tests.support.ports import free_port

# So much faster than written do the rules run: their `for`, and the ranges that they look back.
HURRY: Final = 60
_INTERVAL: Final = "250ms"


class Prometheus(prometheus.Prometheus):
    """A running server, and what it scrapes.

    Args:
        directory: Where its files lie.
        port: Where it listens.
    """

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(port)
        self._targets = directory / "targets.json"

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            self.alerts()
        except httpx2.HTTPError:
            return False
        return True

    def scrape(self, ports: Sequence[int]) -> None:
        """Scrape the services that listen on these ports, and no others."""
        addresses = [f"127.0.0.1:{port}" for port in ports]
        # In its place as a whole: Prometheus reads it whenever it changes.
        new = self._targets.with_suffix(".new")
        new.write_text(json.dumps([{"targets": addresses}]))
        new.replace(self._targets)

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {name for name, alert in self.alerts().items() if alert.state == "firing"}


@contextmanager
def running_prometheus(directory: Path) -> Iterator[Prometheus]:
    """Run Prometheus for as long as the context is open.

    Args:
        directory: An empty one.
    """
    executable = program("prometheus")
    for path in RULES:
        rules = faster_rules(yaml.safe_load(path.read_text(encoding="utf-8")), HURRY)
        (directory / path.name).write_text(yaml.safe_dump(rules))
    configuration = {
        "global": {
            "scrape_interval": _INTERVAL,
            "scrape_timeout": _INTERVAL,
            "evaluation_interval": _INTERVAL,
        },
        "rule_files": [path.name for path in RULES],
        "scrape_configs": [
            {
                "job_name": "tidegate",
                "scrape_timeout": _INTERVAL,
                "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}],
            }
        ],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                executable,
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                # What has gone is to be gone as soon as everything else happens.
                "--query.lookback-delta=5s",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = Prometheus(directory, port)
    try:
        server.scrape(())
        eventually(server.is_ready, within=30, every=0.1)
        yield server
    finally:
        server.close()
        process.terminate()
        process.wait(timeout=30)
