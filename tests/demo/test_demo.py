"""`make demo`: its scenes name what there is, its rules are the real ones, and it cleans up."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
import yaml

from deploy.demo.__main__ import write_mounted
from deploy.demo.load import Load
from deploy.demo.monitoring import FACTOR, faster_rules, write_faster
from deploy.demo.runbooks import advice
from deploy.demo.scenes import SCENES, Scene
from tests.deploy.engine import require_engine
from tests.deploy.support import run
from tests.monitoring.rules import MONITORING, RULES, alerts
from tests.support.server import ROOT

COMMAND: Final = [sys.executable, "-m", "deploy.demo"]
KINDS: Final = ("container", "network", "volume")


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_scene_awaits_alerts_that_have_runbooks(scene: Scene) -> None:
    names = {alert.name for alert in alerts()}
    assert scene.expected
    for expected in scene.expected:
        assert expected.name in names
        assert advice(expected.name, expected.case)


def test_advice_that_no_runbook_gives_is_an_error() -> None:
    with pytest.raises(LookupError, match="nothing under `## Mitigation`"):
        advice(SCENES[0].expected[0].name, "paint it blue")


def test_rules_are_the_real_ones_with_shorter_times(tmp_path: Path) -> None:
    write_faster(tmp_path)
    written = {path.name for path in tmp_path.glob("rules/*.yml")}
    assert written == {path.name for path in RULES}
    for path in RULES:
        real, faster = as_json(path), as_json(tmp_path / "rules" / path.name)
        times = r'(?<="for": ")\w+|(?<=\[)\d+\w+(?=\])'
        assert re.sub(times, "T", real) == re.sub(times, "T", faster)
        assert all(time.endswith("ms") for time in re.findall(times, faster))
    real_file, written_file = MONITORING / "prometheus.yml", tmp_path / "prometheus.yml"
    real_jobs = yaml.safe_load(real_file.read_text(encoding="utf-8"))["scrape_configs"]
    configuration = yaml.safe_load(written_file.read_text(encoding="utf-8"))
    assert configuration["scrape_configs"][: len(real_jobs)] == real_jobs
    assert configuration["rule_files"] == ["rules/*.yml"]


def test_other_users_can_read_what_is_mounted(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        monitoring, revision = write_mounted(tmp_path)
    finally:
        os.umask(before)
    assert revision.is_file()
    assert (monitoring / "prometheus.yml").is_file()
    for path in (tmp_path, *tmp_path.rglob("*")):
        needed = 0o755 if path.is_dir() else 0o644
        assert path.stat().st_mode & 0o777 == needed, path


class LateLoad(Load):
    """Clients whose thread begins its work when it has been told to end."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        told = self._told = threading.Event()
        tell = self._loop.call_soon_threadsafe

        def tell_and_note(callback: Callable[[], object]) -> None:
            tell(callback)
            told.set()

        setattr(self._loop, "call_soon_threadsafe", tell_and_note)  # noqa: B010 - a method

    def _run(self) -> None:
        assert self._told.wait(timeout=30)
        super()._run()


def test_load_that_ends_before_it_began_ends() -> None:
    def begin_and_end() -> None:
        # Nobody listens there.
        with LateLoad(9):
            pass

    thread = threading.Thread(target=begin_and_end, daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive()


def as_json(path: Path) -> str:
    return json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")), sort_keys=True)


def test_times_are_divided() -> None:
    rule = {"alert": "A", "expr": "rate(a[5m]) > 1 and b > 300", "for": "1h"}
    (group,) = faster_rules({"groups": [{"name": "g", "rules": [rule]}]})["groups"]
    minute = 60_000 // FACTOR
    expected = {"expr": f"rate(a[{5 * minute}ms]) > 1 and b > 300", "for": f"{60 * minute}ms"}
    assert group["rules"] == [rule | expected]


def test_without_docker_one_line_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        COMMAND,
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "make demo needs Docker with Compose: there is no `docker` on PATH\n"


@contextmanager
def project() -> Iterator[str]:
    """A name for a stack, of which nothing is left at the end."""
    require_engine()
    name = f"tidegate-demo-{uuid.uuid4().hex[:8]}"
    yield name
    label = f"label=com.docker.compose.project={name}"
    for kind in KINDS:
        every = ["--all"] if kind == "container" else []
        assert run("docker", kind, "ls", *every, "--quiet", "--filter", label).stdout == ""
    assert run("docker", "image", "ls", "--quiet", f"tidegate:{name}").stdout == ""


@pytest.mark.docker
# The image is built, on a machine that may have nothing of it yet.
@pytest.mark.timeout(900)
def test_scenes_play_to_the_end() -> None:
    with project() as name:
        scenes = ("--scene", "leak", "--scene", "migration")
        told = run(*COMMAND, "--project", name, *scenes, env={"COLUMNS": "160"}).stdout
    for alert in ("TidegateConnectionsLeaked", "TidegateMigrationFailed"):
        pending, fires = told.index(f"{alert} is pending"), told.index(f"{alert} FIRES")
        resolved = told.index(f"{alert} is resolved")
        assert pending < fires < told.index(f"deploy/runbooks/{alert}.md") < resolved
    assert "held by process" in told
    assert "nightly-script, idle in transaction" in told
    assert told.index("exit code 12") < told.index("exit code 0")
    assert "never" not in told.partition("What was seen")[2]


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_ctrl_c_removes_everything() -> None:
    with project() as name:
        process = subprocess.Popen(
            [*COMMAND, "--project", name, "--scene", "pool"],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert any("LOCK TABLE" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (130, "")
