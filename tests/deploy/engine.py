"""The Docker Engine that the tests marked `docker` need, and images built on it."""

import functools
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.deploy.support import run
from tests.support.missing import missing

VERSION = "9.9.9"
REVISION = "0123456789abcdef0123456789abcdef01234567"
CREATED = "2001-02-03T04:05:06Z"


@functools.cache
def require_engine() -> None:
    """Skip, or fail in CI, without an engine and its Compose plugin."""
    if not shutil.which("docker"):
        missing("needs Docker: no `docker` on PATH")
    for command in (("docker", "info"), ("docker", "compose", "version")):
        if run(*command, check=False).returncode:
            missing(f"needs Docker: `{' '.join(command)}` failed")


def inspect(kind: str, name: str) -> dict[str, Any]:
    """What the engine knows of an object: `docker KIND inspect NAME`."""
    (found,) = json.loads(run("docker", kind, "inspect", name).stdout)
    result: dict[str, Any] = found
    return result


@contextmanager
def built_image() -> Iterator[str]:
    """The image of this source tree, under a name of its own until the block ends."""
    require_engine()
    name = f"tidegate:test-{uuid.uuid4().hex[:8]}"
    arguments = {"VERSION": VERSION, "REVISION": REVISION, "CREATED": CREATED}
    options = [word for pair in arguments.items() for word in ("--build-arg", "=".join(pair))]
    run("docker", "build", "--quiet", "--tag", name, *options, ".")
    try:
        yield name
    finally:
        run("docker", "image", "rm", name, check=False)
