"""What needs no database: the settings, the versions, and the room on the disks."""

import difflib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

from service.database.layered_settings import SettingsError, environment_variables, variable_names
from service.database.settings import DatabaseSettings
from service.database.urls import UnsupportedUrlError, sqlite_file
from service.doctor.findings import Finding, Findings
from service.migrator.settings import MigratorSettings
from service.settings import Settings, load_settings
from service.web.health_checks import DISK_LIMIT_BYTES
from service.web.memory_directory import memory_directory

# Who has names of these forms means settings of this service. Of the kit's own, an unknown name is
# an error already.
_FAMILIES: Final = ("ADMISSION_", "HEALTH_", "STREAM_", "DRAIN_", "GRACEFUL_", "OPS_", "MIGRATE_")
# As `requires-python` has it.
_OLDEST_PYTHON: Final = (3, 11)
_MEBIBYTE: Final = 1024 * 1024
# For metrics and sockets: those of a worker take less than 1 MiB, and Docker gives a container no
# more than 64 MiB.
_LEAST_MEMORY_BYTES: Final = 16 * _MEBIBYTE
_LIBRARIES: Final = ("sqlalchemy", "alembic", "fastapi", "gunicorn")


def is_deployed(settings: Settings) -> bool:
    """Whether others rely on this deployment, so that it should be as safe as it can."""
    return settings.environment in ("staging", "production")


def examine_configuration() -> tuple[Settings | None, list[Finding]]:
    """Load the settings.

    Returns:
        The settings, or None where the service would not start with them; and what was found.
    """
    told = Findings("configuration", "settings")
    try:
        settings = load_settings()
    except SettingsError as error:
        complaint = str(error)
        return None, [told.failed("the service does not start with them", complaint)]
    findings = [told.passed(f"they load and agree; ENVIRONMENT is {settings.environment}")]
    findings += _unknown_names()
    findings += _unwise(settings)
    return settings, findings


def _unknown_names() -> Iterator[Finding]:
    groups = (Settings, DatabaseSettings, MigratorSettings)
    known = {name for group in groups for name in variable_names(group)}
    for name in sorted(environment_variables()):
        plain = name.removesuffix("_FILE")
        if plain in known or not name.startswith(_FAMILIES):
            continue
        nearest = difflib.get_close_matches(plain, known, n=1, cutoff=0.0)
        yield Findings("configuration", name).warned(
            "there is no such setting", f"unset it; did you mean {nearest[0]}?"
        )


def _unwise(settings: Settings) -> Iterator[Finding]:
    database = settings.database
    try:
        _ = database.asyncio_url
    except UnsupportedUrlError as error:
        # `examine_async` passes over it.
        yield Findings("configuration", "DATABASE_URL_ASYNC").warned(
            "streamed answers fail", str(error)
        )
    if not is_deployed(settings):
        return
    if settings.ops_token is None:
        yield Findings("configuration", "OPS_TOKEN").warned(
            "unset: nobody can see why a probe says no", "set it, from a file"
        )
    if database.sync_url.get_backend_name() == "sqlite":
        yield Findings("configuration", "DATABASE_URL").warned(
            "an embedded database, which one machine has for itself", "use PostgreSQL or MariaDB"
        )


def examine_versions() -> list[Finding]:
    """The versions of what runs here."""
    python = Findings("versions", "Python")
    oldest = ".".join(map(str, _OLDEST_PYTHON))
    return [
        Findings("versions", "tidegate").passed(version("tidegate")),
        python.judged(
            sys.version_info >= _OLDEST_PYTHON, platform.python_version(), f"use {oldest} or newer"
        ),
        Findings("versions", "libraries").passed(
            ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
        ),
    ]


def examine_disks(settings: Settings | None, metrics_directory: str | None) -> list[Finding]:
    """The room where the service writes.

    Args:
        settings: Where an embedded database may be.
        metrics_directory: `PROMETHEUS_MULTIPROC_DIR`, if it is set.
    """
    places = {
        "memory (metrics, sockets)": (memory_directory(), _LEAST_MEMORY_BYTES),
        "temporary files": (Path(tempfile.gettempdir()), DISK_LIMIT_BYTES),
    }
    if metrics_directory:
        places["PROMETHEUS_MULTIPROC_DIR"] = (Path(metrics_directory), _LEAST_MEMORY_BYTES)
    if settings is not None and (file := sqlite_file(settings.database.sync_url)):
        places["DATABASE_URL"] = (file.absolute().parent, DISK_LIMIT_BYTES)
    return [
        _examine_disk(Findings("disk", subject), directory, least)
        for subject, (directory, least) in places.items()
    ]


def _examine_disk(findings: Findings, directory: Path, least: int) -> Finding:
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        reason = error.strerror or "it cannot be looked at"
        return findings.failed(f"{directory}: {reason}", "make the directory, or name another")
    if not os.access(directory, os.W_OK):
        return findings.failed(
            f"{directory}: not writable", "let the service's user write to it, or mount a tmpfs"
        )
    room = f"{directory}: {free // _MEBIBYTE:,} MiB are free"
    return findings.judged(free >= least, room, "make room, or mount more")
