"""The service as its own process, as the tests of the web layer run it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.server import Service, running_service

# Under uvicorn, and under gunicorn.
both_servers = pytest.mark.parametrize("environment", ["development", "test"])


@contextmanager
def serving(
    directory: Path, url: str, environment: str = "test", **settings: object
) -> Iterator[Service]:
    """Run the service for as long as the context is open.

    Args:
        directory: Where it works and its log lies.
        url: Its database.
        environment: In "development" it is uvicorn that serves, else gunicorn.
        settings: Further settings, by their variables.
    """
    variables = {name: str(value) for name, value in settings.items()}
    fixed = {"DATABASE_URL": url, "ENVIRONMENT": environment, "LOG_FORMAT": "json"}
    with running_service(directory, fixed | variables) as service:
        yield service
