"""The image that the Dockerfile builds, looked at from outside and from inside."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.conftest import Measured
from tests.deploy.engine import CREATED, REVISION, VERSION, built_image, inspect
from tests.deploy.support import run
from tests.support.server import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

# What the image may add to its base. The whole is to stay under 220 MB, and the public
# python:3.13-slim-trixie takes about 120 of them; measured: 78 MB.
OWN_LAYERS_LIMIT = 95 * 10**6


@pytest.fixture(scope="module")
def image(measured: Measured) -> Iterator[str]:
    start = time.monotonic()
    with built_image() as name:
        measured(f"docker build: {time.monotonic() - start:.1f} s")
        yield name


@pytest.fixture(scope="module")
def configuration(image: str) -> dict[str, Any]:
    result: dict[str, Any] = inspect("image", image)["Config"]
    return result


def inside(image: str, *command: str) -> str:
    """The output of a command in a container as locked down as the pods are."""
    hardening = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")
    return run("docker", "run", "--rm", "--network=none", *hardening, image, *command).stdout


def test_it_runs_as_a_numbered_user_without_rights(
    image: str, configuration: dict[str, Any]
) -> None:
    assert configuration["User"] == "10001:10001", "runAsNonRoot cannot judge a name"
    status = inside(image, "cat", "/proc/self/status")
    assert re.search(r"^Uid:\s+10001\s", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)


def test_the_user_owns_no_file_of_the_image(image: str) -> None:
    owned = inside(image, "find", "/app", "/opt", "(", "-user", "10001", "-o", "-writable", ")")
    links = inside(image, "find", "/app", "/opt", "-type", "l")
    assert set(owned.split()) <= set(links.split()), "a link's own mode means nothing"


def test_it_stops_and_starts_as_kubernetes_and_compose_expect(
    configuration: dict[str, Any],
) -> None:
    assert configuration["StopSignal"] == "SIGTERM"
    assert configuration["Cmd"][0] == "gunicorn", "a shell in between would swallow signals"
    assert configuration["Entrypoint"] is None
    assert configuration["Healthcheck"]["Test"] == ["CMD", "tidegate", "probe", "ready"]
    assert configuration["ExposedPorts"] == {"8000/tcp": {}}


def test_the_labels_tell_what_was_built(configuration: dict[str, Any]) -> None:
    prefix = "org.opencontainers.image."
    labels = configuration["Labels"]
    assert labels[f"{prefix}title"] == "tidegate"
    assert labels[f"{prefix}version"] == VERSION
    assert labels[f"{prefix}revision"] == REVISION
    assert labels[f"{prefix}created"] == CREATED


@pytest.mark.parametrize("tool", ["gcc", "cc", "ld", "strip", "make", "git", "uv", "hatchling"])
def test_no_tool_of_the_build_is_left(image: str, tool: str) -> None:
    assert inside(image, "sh", "-c", f"command -v {tool} || true") == ""


def test_the_environment_holds_the_service_and_its_requirements_alone(image: str) -> None:
    listing = inside(
        image,
        "python",
        "-c",
        "from importlib.metadata import distributions\n"
        "for d in distributions(): print(d.metadata['Name'].replace('_', '-'), d.version)",
    )
    installed = dict(line.lower().split() for line in listing.splitlines())
    assert installed.keys().isdisjoint({"pip", "setuptools", "uv", "hatchling", "pytest"})
    pins = (ROOT / "requirements.txt").read_text()
    required = dict(re.findall(r"^([\w.-]+)==(\S+)", pins, re.MULTILINE))
    assert installed.pop("tidegate")
    assert installed.items() <= required.items()


def test_every_module_is_compiled(image: str) -> None:
    """A container cannot write bytecode: what is not compiled is compiled at every start."""
    script = (
        "import importlib.util, os, pathlib, sys\n"
        "for source in pathlib.Path('/opt/venv/lib').rglob('*.py'):\n"
        "    cached = pathlib.Path(importlib.util.cache_from_source(str(source)))\n"
        "    if not cached.exists():\n"
        "        print('missing', source)\n"
        "    elif int.from_bytes(cached.read_bytes()[8:12], 'little') != "
        "int(source.stat().st_mtime):\n"
        "        print('stale', source)\n"
    )
    assert inside(image, "python", "-c", script) == ""


def test_a_missing_setting_is_one_line(image: str) -> None:
    failed = run("docker", "run", "--rm", "--network=none", image, check=False)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("DATABASE_URL: ")


def test_the_size_is_bounded(image: str, measured: Measured) -> None:
    history = run(
        *("docker", "history", "--no-trunc", "--human=false"),
        *("--format", "{{.Size}} {{.CreatedBy}}", image),
    ).stdout.splitlines()
    (first,) = (number for number, line in enumerate(history) if "groupadd --gid 10001" in line)
    own = sum(int(line.split()[0]) for line in history[: first + 1])
    whole = inspect("image", image)["Size"]
    measured(f"image: base {(whole - own) / 1e6:.1f} MB, our layers {own / 1e6:.1f} MB")
    assert own < OWN_LAYERS_LIMIT
