"""Each database URL: whether it can be reached, and what is found there."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from service.database import (
    DatabaseSettings,
    PoolPolicy,
    create_async_db_engine,
    create_db_engine,
    time_limit,
)
from service.database.advice import failure_advice
from service.database.asking import OverdueError, ask
from service.database.failures import ConnectionLost, DeadlineExceeded, failure_reason
from service.database.urls import UnsupportedUrlError, is_memory, sqlite_file
from service.doctor.findings import Finding, Findings
from service.doctor.network import network_complaint
from service.doctor.servers import examine_server
from service.settings_report import MASK, secrets_of

# What is looked at over a connection.
Examine = Callable[[Connection], Iterable[Finding]]

# How long a server's port is tried, once its database could not be reached.
_PORT_SECONDS: Final = 1.0
_LOCAL: Final = ("", "localhost", "127.0.0.1", "::1")
_UNREACHED: Final = (ConnectionLost.reason, DeadlineExceeded.reason)
_OPTIONS: Final[dict[str, Any]] = {"pool_size": 1, "max_overflow": 0, "policy": PoolPolicy()}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A database that is looked at.

    Attributes:
        setting: What names it.
        url: Where it is, by a sync driver.
        examine: What else is looked at, in this order.
        needs_tls: Whether what goes over the network has to be encrypted.
        is_replica: Whether it is meant to be one.
    """

    setting: str
    url: URL
    examine: tuple[Examine, ...] = ()
    needs_tls: bool = False
    is_replica: bool = False


def examine_database(target: Target, settings: DatabaseSettings, timeout: float) -> list[Finding]:
    """Look at a database within a deadline, which holds also when the server hangs.

    Args:
        target: Which.
        settings: How to connect.
        timeout: Seconds.
    """
    findings = Findings("database", target.setting)
    if is_memory(target.url):
        return [findings.passed("lives in the memory of each worker, and is gone with it")]
    if _is_missing(target.url):
        return [findings.failed("the file is not there", "run `tidegate migrate up`")]
    engine = create_db_engine(
        target.url, settings=settings, pool_name=f"doctor_{target.setting.lower()}", **_OPTIONS
    )
    found: list[Finding] = []
    start = time.perf_counter()

    def look(connection: Connection) -> None:
        is_local = (target.url.host or "") in _LOCAL
        found.extend(
            examine_server(
                connection,
                target.setting,
                connect_seconds=time.perf_counter() - start,
                needs_tls=target.needs_tls and not is_local,
                is_replica=target.is_replica,
            )
        )
        for examine in target.examine:
            found.extend(examine(connection))

    try:
        ask(engine, look, timeout=timeout)
    except (OverdueError, SQLAlchemyError) as error:
        found.append(_failed(findings, target.url, error, timeout, is_reached=bool(found)))
    finally:
        engine.dispose()
    return found


def examine_async(settings: DatabaseSettings, timeout: float) -> list[Finding]:
    """Whether the asyncio driver reaches the database, too.

    Args:
        settings: How to connect.
        timeout: Seconds.
    """
    findings = Findings("database", "DATABASE_URL_ASYNC")
    try:
        url = settings.asyncio_url
    except UnsupportedUrlError:
        # That is the configuration's matter.
        return []
    if is_memory(url) or _is_missing(url):
        return []
    try:
        seconds = asyncio.run(_connect(settings, timeout))
    # A host name that cannot be one is a UnicodeError.
    except (OSError, TimeoutError, UnicodeError, SQLAlchemyError) as error:
        return [_failed(findings, url, error, timeout)]
    told = f"reachable by {url.get_driver_name()}: connected in {seconds * 1000:.0f} ms"
    return [findings.passed(told)]


async def _connect(settings: DatabaseSettings, seconds: float) -> float:
    engine = create_async_db_engine(settings=settings, pool_name="doctor_async", **_OPTIONS)
    start = time.perf_counter()
    try:
        with time_limit(seconds):
            async with engine.connect() as connection:
                connected = time.perf_counter() - start
                await connection.execute(text("SELECT 1"))
    finally:
        await engine.dispose()
    return connected


def _is_missing(url: URL) -> bool:
    # To connect would make it.
    file = sqlite_file(url)
    return file is not None and not file.exists()


def _failed(
    findings: Findings, url: URL, error: Exception, timeout: float, *, is_reached: bool = False
) -> Finding:
    reason = _reason(error)
    detail = _without_secrets(str(error.__cause__ or error), url)
    if reason in _UNREACHED and not is_reached and (told := network_complaint(url, _PORT_SECONDS)):
        return findings.failed(*told, detail)
    if reason == DeadlineExceeded.reason:
        return findings.failed(
            f"the server takes the connection, and says nothing within {timeout:g} s",
            "see whether the server hangs: its log, its disk, its CPU",
            detail,
        )
    advice = failure_advice(reason, findings.subject) or "`tidegate doctor --detail` says more"
    return findings.failed(reason.replace("_", " "), advice, detail)


def _reason(error: Exception) -> str:
    # Python's own complaint of a host name that cannot be one.
    return ConnectionLost.reason if isinstance(error, UnicodeError) else failure_reason(error)


def _without_secrets(detail: str, url: URL) -> str:
    line = " ".join(detail.split())
    for secret in secrets_of(url):
        line = line.replace(secret, MASK)
    return line
