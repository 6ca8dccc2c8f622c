"""Small histories of revisions, written for a test, and the command line run on them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any, Final

import pytest
from typer.testing import CliRunner

import service.migrator.revisions
from service.cli.errors import explain
from service.cli.main import app, run
from service.database import DatabaseSettings
from service.migrator.cancellation import Cancellation
from service.migrator.events import Event, Events
from service.migrator.revisions import Revisions
from service.migrator.runner import Runner, make_runner
from service.migrator.settings import MigratorSettings
from tests.support.revision_project import write_revision
from tests.support.server import PYTHON, environment

CREATE: Final = 'op.create_table("things", sa.Column("id", sa.Integer, primary_key=True))'
ADD: Final = 'op.add_column("things", sa.Column("size", sa.Integer))'

_HEAD: Final = """
import os
import time

from service.migrations.backfill import backfill
from service.migrations.indexes import create_index_concurrently, drop_index_concurrently

phase = "{phase}"
{more}
"""
_UPGRADE: Final = """
dialect = op.get_context().dialect.name
{upgrade}
"""


@dataclass
class History:
    """Revisions in a directory of their own.

    Args:
        directory: Which; made where it is missing.
        names: The revisions, from the first to the last.
    """

    directory: Path
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the directory."""
        self.directory.mkdir(exist_ok=True)

    def add(  # noqa: PLR0913 - what a revision consists of
        self,
        revision: str,
        upgrade: str = "pass",
        *,
        downgrade: str = "pass",
        phase: str = "expand",
        more: str = "",
        down: str | None = None,
    ) -> Path:
        """Write a revision behind the last one, or another one."""
        former = down or (self.names[-1] if self.names else None)
        path = self.directory / f"{len(self.names):03}-{revision}.py"
        write_revision(
            path,
            revision,
            after=former,
            title=f"Revision {revision}",
            upgrade=_UPGRADE.format(upgrade=dedent(upgrade)),
            downgrade=downgrade,
            head=_HEAD.format(phase=phase, more=dedent(more)),
        )
        self.names.append(revision)
        return path

    def runner(
        self,
        url: str,
        *,
        told: list[Event] | None = None,
        wait: float = 10,
        cancellation: Cancellation | None = None,
        **limits: Any,
    ) -> Runner:
        """A runner for these revisions, in this process."""
        return make_runner(
            DatabaseSettings(url=url),
            wait=wait,
            events=Events(told.append) if told is not None else None,
            limits=MigratorSettings(**limits),
            revisions=Revisions(self.directory),
            cancellation=cancellation,
        )

    def start(self, url: str, *words: str, **variables: str) -> "subprocess.Popen[str]":
        """Start `tidegate migrate …` on these revisions, as a process of its own."""
        return subprocess.Popen(
            [PYTHON, "-m", "tests.migrator.histories", str(self.directory), "migrate", *words],
            env=environment({"DATABASE_URL": url, "PYTHONPATH": _ROOT, **variables}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def invoke(self, url: str, *words: str, **variables: str) -> "Result":
        """As `command`, in this process, which takes a tenth of the time."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(service.migrator.revisions, "VERSIONS", self.directory)
            done = CliRunner().invoke(
                app, ["migrate", *words], env={"DATABASE_URL": url, **variables}
            )
        if isinstance(done.exception, Exception):
            line, code = explain(done.exception)
            if line is None:
                raise done.exception
            return Result(code, done.stdout, f"{done.stderr}tidegate: {line}\n")
        return Result(done.exit_code, done.stdout, done.stderr)

    def command(self, url: str, *words: str, **variables: str) -> "Result":
        """Run `tidegate migrate …` on these revisions to its end."""
        return finish(self.start(url, *words, **variables))


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    output: str
    errors: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it told on standard error."""
        return [json.loads(line) for line in self.errors.splitlines() if line.startswith("{")]

    @property
    def json(self) -> dict[str, Any]:
        """What it printed with `--json`."""
        value: dict[str, Any] = json.loads(self.output)
        return value


def finish(process: "subprocess.Popen[str]") -> Result:
    """Wait for a command; what was read of it before is not in the result."""
    try:
        output, errors = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        raise AssertionError(f"it does not end: {errors}") from None
    return Result(process.returncode, output, errors)


def read_until(process: "subprocess.Popen[str]", event: str) -> str:
    """Read what a command tells, up to an event; returns the line."""
    assert process.stderr is not None
    while (line := process.stderr.readline()) and f'"event": "{event}"' not in line:
        pass
    assert line, f"no {event}"
    return line


def named(events: "list[Event] | list[dict[str, Any]]", name: str) -> list[Mapping[str, Any]]:
    """The events of a name."""
    return [event for event in events if event["event"] == name]


_ROOT = str(Path(__file__).parents[2])


def _run_on_a_directory() -> None:
    """What `History.start` runs: the command line, with another directory for its revisions."""
    versions = Path(sys.argv.pop(1))
    service.migrator.revisions.VERSIONS = versions  # type: ignore[misc] # for this process
    os.chdir(versions)
    run()


if __name__ == "__main__":
    _run_on_a_directory()
