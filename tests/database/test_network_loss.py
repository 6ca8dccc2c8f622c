"""A network that loses every packet is noticed in a few seconds, and a slow query is waited for."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, text

from service.database.network_loss import _SOCKETS, LOSS_SECONDS
from tests.database.deadline_clients import TaskClient, ThreadClient, select_one, sessions, succeeds
from tests.faults import network
from tests.support.database_server import running
from tests.support.polling import eventually


@pytest.fixture(scope="module")
def far_server() -> Iterator[network.FarServer]:
    """A server that packets can be kept from."""
    if reason := network.missing():
        pytest.skip(reason)
    with running(network.FarServer()) as server:
        yield server


@pytest.fixture(params=[ThreadClient, TaskClient], ids=["psycopg2", "asyncpg"])
def client(
    request: pytest.FixtureRequest, far_server: network.FarServer, pool_name: str
) -> Iterator[ThreadClient]:
    """By a thread, and by a task."""
    made: ThreadClient = request.param(far_server.url(), pool_name, query_deadline=30)
    yield made
    far_server.network.pass_packets()
    made.close()


def test_a_question_into_nowhere_is_a_lost_connection(
    client: ThreadClient, far_server: network.FarServer
) -> None:
    def cut_off(connection: Connection) -> None:
        select_one(connection)
        # Until the answer is acknowledged, too, the server has something to send again.
        time.sleep(0.5)
        far_server.network.drop_packets()
        select_one(connection)

    assert client.fail(cut_off).was("connection_lost", after=LOSS_SECONDS, slack=2.5)
    far_server.network.pass_packets()
    eventually(lambda: succeeds(client))
    # Nobody has told the server of the one that was lost.
    eventually(lambda: len(sessions(far_server)) == 1, within=15)


def test_an_answer_that_never_comes_is_a_lost_connection(
    client: ThreadClient, far_server: network.FarServer
) -> None:
    def cut_off(connection: Connection) -> None:
        select_one(connection)
        timer = threading.Timer(0.5, far_server.network.drop_packets)
        timer.start()
        connection.execute(text("SELECT pg_sleep(1)"))

    assert client.fail(cut_off).was("connection_lost", after=LOSS_SECONDS, slack=3)


def test_a_slow_query_is_waited_for(client: ThreadClient) -> None:
    query = text("SELECT 1 FROM pg_sleep(:seconds)").bindparams(seconds=LOSS_SECONDS + 1)
    assert client.ask(lambda connection: connection.scalar(query)) == 1


@pytest.mark.mariadb
@pytest.mark.parametrize("client_class", [ThreadClient, TaskClient], ids=["pymysql", "aiomysql"])
def test_mariadb_connections_notice_it_too(
    client_class: type[ThreadClient], mariadb_kit_url: str, pool_name: str
) -> None:
    client = client_class(mariadb_kit_url, pool_name)
    assert client.ask(loss_milliseconds) == LOSS_SECONDS * 1000
    client.close()


def test_what_the_url_says_is_meant(kit_url: str, pool_name: str) -> None:
    client = ThreadClient(f"{kit_url}?tcp_user_timeout=7000", pool_name)
    assert client.ask(loss_milliseconds) == 7000
    client.close()


def loss_milliseconds(connection: Connection) -> Any:
    """After how long the kernel takes a connection for lost."""
    with _SOCKETS[connection.dialect.driver](connection.connection.dbapi_connection) as shared:
        return shared.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
