"""Whatever is done to a pool by tasks, in whatever order, it agrees with its model."""

import asyncio

import pytest
from hypothesis.stateful import precondition, rule
from sqlalchemy import exc
from sqlalchemy.util import greenlet_spawn

from service.database import create_async_db_engine
from tests.database.pool_drivers import AsyncPatientPool, TaskDriver
from tests.database.pool_machine import machine_settings, try_sequences
from tests.database.pool_steps import ConnectionSteps, PoolSteps, choices
from tests.database.pools import ServerView
from tests.support.databases import worker_name


class TaskMachine(ConnectionSteps, PoolSteps):
    """A pool that the tasks of one loop use.

    Args:
        url: Its database.
        server: The server's view.
    """

    def __init__(self, url: str, server: ServerView) -> None:
        name = f"model-async-{worker_name()}"
        engine = create_async_db_engine(
            url.replace("postgresql://", "postgresql+asyncpg://"),
            settings=machine_settings(url),
            pool_name=name,
            poolclass=AsyncPatientPool,
            connect_args={"server_settings": {"application_name": name}},
        )
        self.tasks = TaskDriver()
        super().__init__(engine.sync_engine, name, server, self.tasks)

    @precondition(lambda self: self.proxies)
    @rule(choice=choices)
    def forget(self, choice: int) -> None:
        """Drop the last reference: outside of its loop a connection can only be cut."""
        connection, proxy = self.take(choice)
        with pytest.warns(exc.SAWarning, match="garbage collector"):
            del proxy
        self.model.remove(connection, "detached")
        self.serve()

    @precondition(lambda self: self.line)
    @rule(choice=choices)
    def cancel_in_line(self, choice: int) -> None:
        waiter = self.line.pop(choice % len(self.line))
        self.tasks.cancel(waiter)
        self.model.waiting -= 1
        self.model.fail("cancelled")

    @precondition(lambda self: self.line and self.proxies)
    @rule(choice=choices)
    def cancel_when_served(self, choice: int) -> None:
        """The first in line gets a place and is cancelled before it can run."""
        connection, proxy = self.take(choice)
        first = self.line[0]

        async def give_and_cancel() -> None:
            await greenlet_spawn(proxy.close)
            self.tasks.request_cancel(first)

        self.tasks.runner.run(give_and_cancel())
        self.tasks.settle(first.done)
        if not first.cancelled():
            raise AssertionError("it was served after all")
        self.line.pop(0)
        self.model.give_back(connection)
        self.model.waiting -= 1
        self.model.fail("cancelled")
        self.serve()

    @precondition(lambda self: self.model.is_free and not self.model.idle)
    @rule()
    def cancel_while_connecting(self) -> None:
        """The socket is being opened; nothing is known of a connection yet."""
        task = self.tasks.start(self.engine.raw_connection)
        self.tasks.runner.run(asyncio.sleep(0))
        if self.model.is_refused:
            with pytest.raises(ConnectionRefusedError):
                task.result()
            self.model.fail("refused")
            self.model.counted["create_failures"] += 1
            return
        assert self.metrics.pending == 1
        self.tasks.cancel(task)
        self.model.fail("cancelled")


@pytest.mark.usefixtures("manual_clock")
def test_pool_of_tasks_agrees_with_its_model_after_every_step(
    kit_url: str, server_view: ServerView
) -> None:
    try_sequences(lambda: TaskMachine(kit_url, server_view), usual=80)
