"""The composition root: everything that is made for a process is made here."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import structlog
from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from service.database import init_db, process, write_session
from service.database.asking import OverdueError, ask
from service.database.budget import server_complaint, server_limit
from service.database.failures import failure_reason
from service.database.idempotency import forget_old_keys
from service.database.urls import is_memory
from service.errors import OverloadedError
from service.migrator.revisions import Revisions
from service.migrator.schema_metrics import SchemaMetrics
from service.migrator.schema_status import SchemaStatus
from service.product_catalog.routes import router as products
from service.settings import Settings, load_settings
from service.web import metrics, ops_page, probes
from service.web.admission import Admission
from service.web.client_watch import ClientWatch, nobody
from service.web.control import control_channel
from service.web.control_commands import ControlCommands
from service.web.draining import Drain
from service.web.garbage import collect_now_and_then, spared_collector
from service.web.health_checks import KnownSchema, health_engine, health_monitor
from service.web.health_monitor import HealthMonitor
from service.web.logging import access_log, configure_logging
from service.web.middleware import RequestMiddleware
from service.web.ops_data import OpsData
from service.web.ops_token import TokenGuard
from service.web.pool_operations import PoolOperations
from service.web.problems import Problem, install_problem_handlers
from service.web.process_metrics import ProcessMetrics
from service.web.shared_metrics import is_shared
from service.web.startup import Startup
from service.web.streaming import StreamSessions
from service.web.unit_of_work import UnitOfWork
from service.web.worker_slots import own_slot

log = structlog.stdlib.get_logger(__name__)

# What is asked for most comes first.
ROUTERS: Final = (products, probes.router, metrics.router, ops_page.router)
# The largest product is some 50 KB of JSON, each character as two escapes.
MAX_BODY_BYTES: Final = 64 * 1024
# How often idempotency keys that are past their time are deleted.
_KEYS_SECONDS: Final = 600


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application.

    Args:
        settings: How it runs; read from the environment when left out.

    Raises:
        SettingsError: A setting is wrong; the text is one line that says what to change.
    """
    settings = settings or load_settings()
    configure_logging(settings)
    process.configure(settings.database)
    app = FastAPI(
        title=settings.app_name,
        version=settings.app_version,
        summary="A product catalog whose database layer can be operated.",
        lifespan=_lifespan,
        # An included router looks for its route twice, and after those of the documentation.
        routes=[route for router in ROUTERS for route in router.routes],
    )
    app.state.settings = settings
    app.state.drain = Drain()
    app.state.token_guard = TokenGuard(settings.ops_token)
    app.state.unit_of_work = UnitOfWork(
        Admission(
            "requests",
            limit=settings.admitted_requests,
            queue=settings.queued_requests,
            wait=settings.admission_wait,
        ),
        threads=settings.admitted_requests,
        seconds=settings.database.query_deadline,
    )
    app.add_middleware(
        RequestMiddleware, max_body_bytes=MAX_BODY_BYTES, access_log=access_log(settings)
    )
    install_problem_handlers(app)
    _describe_problems(app)
    metrics.publish_build_info(settings)
    if (budget := settings.database.connection_budget) is not None:
        metrics.publish_connection_limit("budget", budget)
    if settings.web_concurrency > 1 and not is_shared():
        log.warning(
            "each scrape shows the metrics of one worker only; run the workers under gunicorn,"
            " with deploy/gunicorn.conf.py",
            workers=settings.web_concurrency,
        )
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    # Opens nothing, but from here on the pool's series exist: an alert on none of them would sleep.
    _ = process.engine
    if is_memory(settings.database.sync_url):
        # Its tables live and die with this process, so no other could have made them.
        init_db()
    if (replica := process.replica) is not None:
        # The first question starts its monitor: without an answer, reads go to the primary.
        _ = replica.unusable_reason
    own_engine = health_engine(settings.database)
    schema = KnownSchema(_schema_reader())
    app.state.health = health_monitor(settings, own_engine, schema)
    app.state.startup = Startup(app.state.health, process.engine, retry=settings.health_interval)
    app.state.stream_sessions = StreamSessions(
        settings.database, limit=settings.stream_limit, stall=settings.stream_stall
    )
    operations = PoolOperations(
        settings,
        app.state.unit_of_work,
        app.state.stream_sessions,
        asyncio.get_running_loop(),
    )
    app.state.control = ControlCommands(
        settings,
        operations=operations,
        checks=lambda: probes.all_checks(app),
        schema=schema,
        gates=(app.state.unit_of_work, app.state.stream_sessions),
    )
    app.state.ops = OpsData(settings, app.state.control)
    channel = control_channel(app.state.control.answer, port=settings.port, slot=own_slot())
    # Each is closed whatever becomes of the others, and the last one first.
    async with AsyncExitStack() as closing:
        closing.callback(process.dispose)
        closing.callback(own_engine.dispose)
        closing.callback(app.state.unit_of_work.close)
        closing.push_async_callback(app.state.stream_sessions.close)
        await closing.enter_async_context(
            _in_the_background(
                app.state.startup.run(),
                _compare_with_server(app.state.health, operations, settings, own_engine),
                _forget_old_keys(app.state.unit_of_work),
                collect_now_and_then(),
            )
        )
        await closing.enter_async_context(app.state.health.running())
        await closing.enter_async_context(ProcessMetrics().running())
        closing.enter_context(spared_collector())
        with channel:
            yield


@asynccontextmanager
async def _in_the_background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run something for as long as the context is open; what fails of it goes to the log."""
    tasks = [asyncio.create_task(each) for each in work]
    for task in tasks:
        task.add_done_callback(_tell_of_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tell_of_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a background task failed", exc_info=error)


def _schema_reader() -> Callable[[Connection], SchemaStatus]:
    """What compares a database with this release, and shows it in the metrics."""
    revisions, shown = Revisions(), SchemaMetrics()

    def read(connection: Connection) -> SchemaStatus:
        status = revisions.status(connection)
        shown.show(status)
        if not status.is_phase_known:
            log.warning(
                "nobody can say whether a later release took something from the schema:"
                " grant SELECT on migration_history to the role of DATABASE_URL",
                revision=status.current,
            )
        return status

    return read


async def _forget_old_keys(unit: UnitOfWork) -> None:
    """Delete the idempotency keys that are past their time, now and then."""
    # Every worker of every pod does it, and most of them began at the same time. The first pause
    # may be short, for a worker that is recycled may not live as long as a later one.
    shortest = 0.0
    while True:
        pause = random.uniform(shortest, shortest + 1)  # noqa: S311 - spreads load
        await asyncio.sleep(_KEYS_SECONDS * pause)
        shortest = 0.5
        try:
            while await unit.run(ClientWatch(nobody), _delete_old_keys, route=""):
                pass
        except OverloadedError:
            log.info("old idempotency keys stay for now", reason="overloaded")
        except SQLAlchemyError as error:
            log.info("old idempotency keys stay for now", reason=failure_reason(error))
        except Exception:
            log.exception("old idempotency keys stay for now")


def _delete_old_keys() -> bool:
    with write_session() as session:
        return forget_old_keys(session)


async def _compare_with_server(
    monitor: HealthMonitor, operations: PoolOperations, settings: Settings, engine: Engine
) -> None:
    """Publish the server's limit, and warn once when it is too low for the deployment.

    No refusal: a limit that somebody lowered must not keep a restarted pod down.
    """
    while True:
        # It takes the connection that the monitor asks through.
        await monitor.wait_until_served("database")
        try:
            limit = await asyncio.to_thread(
                ask, engine, server_limit, timeout=settings.health_timeout
            )
        except (OverdueError, OperationalError):
            await asyncio.sleep(settings.health_interval)
            continue
        except SQLAlchemyError as error:
            log.info("the server does not tell its limits", reason=failure_reason(error))
            return
        operations.server_limit = limit
        metrics.publish_connection_limit("server", limit.connections)
        if complaint := server_complaint(settings.connection_demand, limit):
            log.warning(complaint)
        return


def _describe_problems(app: FastAPI) -> None:
    """Add the schema that every route's problem responses refer to."""
    generate = app.openapi
    _, definitions = models_json_schema(
        [(Problem, "serialization")], ref_template="#/components/schemas/{model}"
    )

    def openapi() -> dict[str, Any]:
        schema = generate()
        schema["components"]["schemas"].update(definitions["$defs"])
        return schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way to extend it
