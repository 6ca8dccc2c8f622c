"""The application within the test's process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from service.app import create_app
from service.database import DatabaseSettings, process
from service.settings import Settings


@contextmanager
def application(
    database: str | DatabaseSettings,
    *,
    prepare: Callable[[FastAPI], object] | None = None,
    follow_redirects: bool = True,
    **settings: Any,
) -> Iterator[TestClient]:
    """Run the whole application, with its background tasks, for as long as the context is open.

    Args:
        database: Its database, by the URL or with more settings.
        prepare: Given the application before it starts, to add routes of a test's own.
        follow_redirects: Whether the client does.
        settings: Further settings of the service.
    """
    if isinstance(database, str):
        database = DatabaseSettings(url=database)
    try:
        app = create_app(Settings(environment="test", database=database, **settings))
        if prepare is not None:
            prepare(app)
        with TestClient(
            app, raise_server_exceptions=False, follow_redirects=follow_redirects
        ) as client:
            yield client
    finally:
        process.configure(None)
