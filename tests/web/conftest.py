"""What the tests of the web layer share."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest

from service.database import DatabaseSettings
from service.settings import Settings
from service.web.logging import configure_logging

LogLines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def log_lines() -> Iterator[LogLines]:
    """What this process has logged, as a machine reads it."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    output = io.StringIO()
    with redirect_stdout(output):
        database = DatabaseSettings(url="sqlite:///:memory:")
        configure_logging(Settings(environment="test", log_format="json", database=database))
    yield lambda: [json.loads(line) for line in output.getvalue().splitlines()]
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
