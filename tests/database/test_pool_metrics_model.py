"""Whatever is done to a pool by threads, in whatever order, it agrees with its model."""

import json
import os
import warnings
from typing import Any

import pytest
from hypothesis.stateful import precondition, rule

from service.database import create_db_engine
from tests.database.pool_drivers import PatientPool, ThreadDriver
from tests.database.pool_machine import machine_settings, try_sequences
from tests.database.pool_steps import ConnectionSteps, PoolSteps, choices
from tests.database.pools import ServerView
from tests.support.databases import worker_name


class ThreadMachine(ConnectionSteps, PoolSteps):
    """A pool that threads use.

    Args:
        url: Its database.
        server: The server's view.
    """

    def __init__(self, url: str, server: ServerView) -> None:
        name = f"model-{worker_name()}"
        engine = create_db_engine(
            f"{url}?application_name={name}",
            settings=machine_settings(url),
            pool_name=name,
            poolclass=PatientPool,
        )
        super().__init__(engine, name, server, ThreadDriver())
        self.has_forked = False

    @precondition(lambda self: self.proxies)
    @rule(choice=choices)
    def forget(self, choice: int) -> None:
        """Drop the last reference: the garbage collector returns the connection."""
        connection, proxy = self.take(choice)
        del proxy
        self.model.give_back(connection)
        self.serve()

    # Not while another thread waits: a child has the locks that it held, and not the thread.
    @precondition(lambda self: not self.has_forked and not self.line)
    @rule()
    def fork(self) -> None:
        """A child begins with nothing, and leaves its parent's connections alone."""
        self.has_forked = True
        reader, writer = os.pipe()
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            child = os.fork()
        if child == 0:
            self.be_the_child(writer)
        os.close(writer)
        with open(reader) as answer:  # noqa: PTH123 - a file descriptor
            told = json.loads(answer.read())
        os.waitpid(child, 0)
        assert (told["before"], told["during"], told["after"]) == ([0, 0], [1, 0], [0, 1])
        assert told["pid"] not in {each.pid for each in self.model.open}

    def be_the_child(self, writer: int) -> None:
        """Use the pool as a worker would that was forked from a process with a pool."""
        try:
            os.write(writer, json.dumps(self.use_as_child()).encode())
        except BaseException as error:  # noqa: BLE001 - the parent is to hear of it
            os.write(writer, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)

    def use_as_child(self) -> dict[str, Any]:
        """Check a connection out and in."""
        self.model.is_refused = False
        self.engine.dispose(close=False)
        self.pool.resume()
        told: dict[str, Any] = {"before": self.gauges()}
        proxy = self.engine.raw_connection()
        told |= {"during": self.gauges(), "pid": self.driver.pid(proxy.driver_connection)}
        proxy.close()
        told["after"] = self.gauges()
        self.engine.dispose()
        return told

    def gauges(self) -> list[float]:
        """How many are in use, and how many lie idle."""
        return [self.metrics.used, self.metrics.idle]


@pytest.mark.usefixtures("manual_clock")
def test_pool_of_threads_agrees_with_its_model_after_every_step(
    kit_url: str, server_view: ServerView
) -> None:
    try_sequences(lambda: ThreadMachine(kit_url, server_view), usual=80)
