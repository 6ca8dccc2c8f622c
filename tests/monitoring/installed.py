"""Prometheus as it is installed."""

import shutil
from pathlib import Path

from tests.support.missing import missing


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; without it, skip, or fail in CI."""
    path = shutil.which(name)
    if path is None:
        missing(f"needs Prometheus: no `{name}` on PATH (Debian's package `prometheus`)")
    return str(Path(path))
