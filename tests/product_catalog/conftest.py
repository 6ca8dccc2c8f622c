"""The catalog's commands, run in this process."""

import pytest
from typer.testing import CliRunner

from service.cli.catalog import app
from service.database import DatabaseSettings
from tests.product_catalog.support import Command


@pytest.fixture
def command(configured: DatabaseSettings, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`tidegate catalog` against the test's database."""
    url = configured.sync_url.render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    runner = CliRunner()
    return lambda *arguments, **options: runner.invoke(app, [*map(str, arguments)], **options)
