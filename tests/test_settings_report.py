"""Every setting is told with its source, and no secret with it."""

import json
from pathlib import Path
from typing import Final

import pytest

from service.database import DatabaseSettings
from service.database.layered_settings import variable_names
from service.migrator.settings import MigratorSettings
from service.settings import Settings, load_settings
from service.settings_report import SettingReport, report_settings
from tests.cli.test_commands import tidegate

NAMES: Final = ("DATABASE_POOL_SIZE", "DATABASE_MAX_OVERFLOW", "ADMISSION_WAIT")


def reported() -> dict[str, SettingReport]:
    return {one.name: one for one in report_settings(load_settings(), MigratorSettings.load())}


def test_every_setting_is_told() -> None:
    groups = (Settings, DatabaseSettings, MigratorSettings)
    known = {name for group in groups for name in variable_names(group)}
    assert set(reported()) == known


def test_sources_are_told_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each source gives is in force, and the report says that it is that source's."""
    lines = [f"{name}={number}" for number, name in enumerate(NAMES, start=21)]
    (tmp_path / ".env").write_text("\n".join(lines), encoding="utf-8")
    assert told() == [(21, ".env"), (22, ".env"), (23, ".env")]
    monkeypatch.setenv(NAMES[1], "32")
    monkeypatch.setenv(NAMES[2], "33")
    assert told() == [(21, ".env"), (32, "variable"), (33, "variable")]
    secret = tmp_path / "secret"
    secret.write_text("43\n", encoding="utf-8")
    monkeypatch.setenv(f"{NAMES[2]}_FILE", str(secret))
    assert told() == [(21, ".env"), (32, "variable"), (43, f"file {secret}")]
    # An empty one is none.
    monkeypatch.setenv(NAMES[1], "")
    monkeypatch.setenv(f"{NAMES[2]}_FILE", "")
    assert told() == [(21, ".env"), (22, ".env"), (33, "variable")]
    (tmp_path / ".env").write_text(f"{NAMES[2]}_FILE={secret}", encoding="utf-8")
    assert told() == [(5, "default"), (5, "default"), (43, f"file {secret}")]


def told() -> list[tuple[object, str]]:
    found = reported()
    return [(found[name].value, found[name].source) for name in NAMES]


def test_what_follows_from_others_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = reported()
    assert found["DATABASE_URL"].value == "sqlite+pysqlite:///tidegate.db"
    assert not found["DATABASE_URL"].is_set
    assert found["ADMISSION_LIMIT"].value == 10
    assert found["ADMISSION_LIMIT"].source == "follows DATABASE_POOL_SIZE"
    for name in ("LOG_FORMAT", "DRAIN_SECONDS"):
        assert found[name].source == "follows ENVIRONMENT"
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:pw@db/shop?sslmode=require")
    found = reported()
    assert found["DATABASE_URL_ASYNC"].value == "postgresql+asyncpg://me:***@db/shop?ssl=require"
    # A name of libpq's that asyncpg has none for.
    monkeypatch.setenv("DATABASE_URL", "postgresql://db/shop?keepalives=1")
    assert reported()["DATABASE_URL_ASYNC"].value is None


@pytest.mark.parametrize(
    ("name", "unit", "allowed"),
    [
        ("DATABASE_POOL_SIZE", "", "from 1 to 1000"),
        ("DATABASE_POOL_TIMEOUT", "s", "above 0 to 86400"),
        ("DATABASE_CONNECTION_BUDGET", "", "from 1"),
        ("DATABASE_ECHO", "", "true | false"),
        ("ENVIRONMENT", "", "development | test | staging | production"),
        ("ADMISSION_QUEUE", "", "from 0"),
        ("HOST", "", ""),
    ],
)
def test_units_and_bounds_are_those_of_the_models(name: str, unit: str, allowed: str) -> None:
    found = reported()[name]
    assert (found.unit, found.allowed) == (unit, allowed)


def test_no_secret_is_printed() -> None:
    url = "postgresql://me:tiger@db/shop?sslmode=require&sslpassword=tiger"
    variables = {
        **dict.fromkeys(("DATABASE_URL", "DATABASE_REPLICA_URL", "MIGRATE_DATABASE_URL"), url),
        "DATABASE_URL_ASYNC": "postgresql+asyncpg://me:tiger@db/shop",
        "DATABASE_CURSOR_KEY": "tiger" * 5,
        "OPS_TOKEN": "tiger" * 5,
        "MIGRATE_SCRATCH_URL": url,
        "MIGRATE_PUSHGATEWAY_URL": "https://me:tiger@push:9091",
    }
    for words in (("settings",), ("settings", "--json"), ("settings", "--changed")):
        result = tidegate(*words, **variables)
        assert result.returncode == 0, result.stderr
        assert "tiger" not in result.stdout + result.stderr
    found = json.loads(tidegate("settings", "--json", "--changed", **variables).stdout)["settings"]
    assert set(variables) <= {one["name"] for one in found}
    assert all(one["value"] for one in found)


def test_wrong_setting_is_one_line_without_its_value() -> None:
    result = tidegate("settings", DATABASE_URL="tiger")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("tidegate: DATABASE_URL: not a database URL")
    assert "tiger" not in result.stderr
