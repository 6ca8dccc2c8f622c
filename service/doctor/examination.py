"""All that the doctor looks at, at once, and within a deadline."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Connection

# The tables that the roles must be able to use.
import service.models  # noqa: F401
from service.doctor.capacity import examine_capacity
from service.doctor.databases import Examine, Target, examine_async, examine_database
from service.doctor.findings import Finding, Findings
from service.doctor.privileges import examine_migrating_role, examine_serving_role
from service.doctor.schemas import examine_schema
from service.doctor.surroundings import (
    examine_configuration,
    examine_disks,
    examine_versions,
    is_deployed,
)
from service.doctor.workers import examine_workers
from service.settings import Settings

# What a look has beyond its own deadline, before nobody waits for it any longer: a name server that
# hangs holds up a thread, and nothing can end that. A machine that is busy takes some of it.
_GRACE_SECONDS: Final = 5.0
_GROUPS: Final = (
    *("configuration", "versions", "database", "schema", "privileges", "connections", "clock"),
    *("disk", "workers"),
)
_REPORT: Final = "please report this, with the output of `tidegate doctor --detail`"


@dataclass(frozen=True)
class _Look:
    """Something to look at.

    Args:
        findings: What it is called, should it break.
        work: Looks at it.
    """

    findings: Findings
    work: Callable[[], Iterable[Finding]]


def examine(*, port: int, timeout: float, metrics_directory: str | None = None) -> list[Finding]:
    """Look at everything that the service needs.

    Args:
        port: Where the service serves requests.
        timeout: Seconds for each database, and for the workers; all are asked at once.
        metrics_directory: `PROMETHEUS_MULTIPROC_DIR`, if it is set for the service.

    Returns:
        What was found, in an order that does not change.
    """
    settings, found = examine_configuration()
    looks = [
        _Look(Findings("versions", "this machine"), examine_versions),
        _Look(Findings("disk", "disks"), partial(examine_disks, settings, metrics_directory)),
    ]
    if settings is not None:
        database = settings.database
        looks += [
            _Look(
                Findings("database", target.setting),
                partial(examine_database, target, database, timeout),
            )
            for target in _targets(settings)
        ]
        asyncio_look = partial(examine_async, database, timeout)
        looks.append(_Look(Findings("database", "DATABASE_URL_ASYNC"), asyncio_look))
    workers = partial(examine_workers, settings, port=port, timeout=timeout)
    looks.append(_Look(Findings("workers", f"port {port}"), workers))
    found += _look_at_all(looks, timeout + _GRACE_SECONDS)
    # What was found of one thing stands together, whichever look found it.
    return sorted(found, key=lambda finding: _GROUPS.index(finding.group))


def _targets(settings: Settings) -> list[Target]:
    database, deployed = settings.database, is_deployed(settings)

    def serving(connection: Connection) -> Iterable[Finding]:
        return examine_serving_role(connection, "DATABASE_URL", is_deployed=deployed)

    def capacity(connection: Connection) -> Iterable[Finding]:
        return examine_capacity(connection, settings, is_deployed=deployed)

    def migrating(setting: str) -> Examine:
        return lambda connection: examine_migrating_role(connection, setting)

    own: tuple[Examine, ...] = (examine_schema, serving)
    if database.migrate_url is None:
        own = (*own, migrating("DATABASE_URL"))
    targets = [
        Target(
            setting="DATABASE_URL",
            url=database.sync_url,
            examine=(*own, capacity),
            needs_tls=deployed,
        )
    ]
    if database.migrate_url is not None:
        targets.append(
            Target(
                setting="MIGRATE_DATABASE_URL",
                url=database.migration_url,
                examine=(migrating("MIGRATE_DATABASE_URL"),),
                needs_tls=deployed,
            )
        )
    if (replica := database.replica_sync_url) is not None:
        targets.append(
            Target(setting="DATABASE_REPLICA_URL", url=replica, needs_tls=deployed, is_replica=True)
        )
    return targets


def _look_at_all(looks: Sequence[_Look], within: float) -> list[Finding]:
    threads = [_LookThread(look) for look in looks]
    deadline = time.monotonic() + within
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [finding for thread in threads for finding in thread.findings(within)]


class _LookThread(threading.Thread):
    """Looks in the background.

    A daemon: one that nothing can end must not hold up the end of the command.
    """

    def __init__(self, look: _Look) -> None:
        super().__init__(daemon=True)
        self._look = look
        self._found: list[Finding] | None = None
        self.start()

    def run(self) -> None:
        try:
            self._found = [*self._look.work()]
        except Exception as error:  # noqa: BLE001 - the doctor survives what it examines
            detail = f"{type(error).__name__}: {error}"
            self._found = [self._look.findings.failed("could not be examined", _REPORT, detail)]

    def findings(self, within: float) -> list[Finding]:
        """What was found, as far as it is known now."""
        if self._found is not None:
            return self._found
        told = f"no answer within {within:g} s, not even an error"
        return [self._look.findings.failed(told, "see whether the name server hangs")]
