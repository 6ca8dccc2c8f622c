"""`python -m deploy.demo`, which `make demo` runs.

Exits with 0 when every alert fired and resolved, with 1 when one did not, with 2 without Docker.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import Final, NoReturn

import httpx2
from rich.console import Console

from deploy.demo.load import CLIENTS, Load
from deploy.demo.monitoring import FACTOR, write_faster
from deploy.demo.narrator import Narrator, Timing
from deploy.demo.next_release import write_next_revision
from deploy.demo.play import Player, SceneError
from deploy.demo.prometheus import Prometheus
from deploy.demo.runbooks import advice
from deploy.demo.scenes import SCENES, Scene, Stage
from deploy.demo.stack import Stack, StackError, engine_complaint, running

PROJECT: Final = "tidegate-demo"
_SCRAPED_SECONDS: Final = 30.0
_USAGE, _FAILED, _INTERRUPTED, _TERMINATED = 2, 1, 130, 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the scenes; returns the exit code."""
    options = _parser().parse_args(arguments)
    if complaint := engine_complaint():
        print(f"make demo needs Docker with Compose: {complaint}", file=sys.stderr)  # noqa: T201
        return _USAGE
    signal.signal(signal.SIGTERM, _terminate)
    scenes = [scene for scene in SCENES if not options.scene or scene.name in options.scene]
    try:
        return _demo(options.project, scenes, remove=options.remove)
    except (StackError, LookupError, FileNotFoundError, httpx2.HTTPError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED


def _demo(project: str, scenes: Sequence[Scene], *, remove: bool) -> int:
    start = time.monotonic()
    narrator = Narrator(Console(highlight=False))
    timings: list[Timing] = []
    complaints: list[str] = []
    for expected in chain.from_iterable(scene.expected for scene in scenes):
        # Better now than in the middle of it.
        advice(*expected)
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        stack = Stack(project, *write_mounted(directory))
        if remove:
            stack.down()
            return 0
        if stack.is_there():
            raise StackError(
                "another demo runs, or was killed: `make demo ARGS=--remove` removes what there is"
            )
        narrator.heading("The stack", _introduction(stack))
        narrator.event("$ docker compose build; docker compose up --wait", "bold")
        cleanup.callback(narrator.event, "everything is removed again")
        with narrator.working("building the image and starting the stack"):
            cleanup.enter_context(running(stack))
        load = cleanup.enter_context(Load(stack.api_port))
        prometheus = cleanup.enter_context(closing(Prometheus(stack.prometheus_port)))
        _await_metrics(prometheus)
        narrator.event(f"everything is healthy; {CLIENTS} clients begin to ask for products")
        player = Player(Stage(stack, load), prometheus, narrator)
        for number, scene in enumerate(scenes, 1):
            narrator.heading(f"{number} of {len(scenes)}: {scene.title}", scene.story)
            try:
                player.play(scene, timings)
            except SceneError as error:
                complaints.append(str(error))
                narrator.event(str(error), "bold red")
        narrator.heading("The end", "Containers, volumes and the image go.")
        narrator.restart_clock()
    narrator.summary(timings, complaints, time.monotonic() - start)
    return _FAILED if complaints else 0


def write_mounted(directory: Path) -> tuple[Path, Path]:
    """Write what containers are given to read.

    Args:
        directory: An empty one.

    Returns:
        The directory of Prometheus' configuration, and the next release's revision.
    """
    monitoring = directory / "monitoring"
    monitoring.mkdir()
    write_faster(monitoring)
    revision = write_next_revision(directory)
    for path in (directory, *directory.rglob("*")):
        # Those who read it are other users, whatever the umask says.
        path.chmod(0o755 if path.is_dir() else 0o644)
    return monitoring, revision


def _introduction(stack: Stack) -> str:
    return (
        "docker-compose.yml and deploy/demo/compose.yml, under a name and ports of their own: the"
        f" service on {stack.api_port}, Prometheus on {stack.prometheus_port}. Its alerts are those"
        f" of deploy/monitoring, with each time divided by {FACTOR}: an alert that waits for 5"
        f" minutes in production waits for {300 // FACTOR} seconds here."
    )


def _await_metrics(prometheus: Prometheus) -> None:
    deadline = time.monotonic() + _SCRAPED_SECONDS
    while prometheus.value('min(up{job=~"tidegate|migrations"})') != 1:
        if time.monotonic() > deadline:
            raise StackError("Prometheus does not scrape the service")
        time.sleep(0.25)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make demo", description="Break the whole stack on cue, and see what follows."
    )
    parser.add_argument(
        "--scene",
        action="append",
        choices=[scene.name for scene in SCENES],
        help="play this one only; can be given several times",
    )
    parser.add_argument(
        "--remove", action="store_true", help="only remove what a killed demo has left"
    )
    parser.add_argument("--project", default=PROJECT, help="Compose's name for the stack")
    return parser


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
