"""Where settings come from, and what a wrong one says."""

import os
from pathlib import Path

import pytest

from service.database import DatabaseSettings, SettingsError, layered_settings
from service.settings import load_settings

SECRET = "hunter2-in-a-url"
URL = f"postgresql://catalog:{SECRET}@db.internal:5432/catalog"


@pytest.fixture(autouse=True)
def secrets_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "secrets"
    directory.mkdir()
    monkeypatch.setattr(layered_settings, "SECRETS_DIRECTORY", directory)
    return directory


def error_of(**variables: str) -> str:
    """The one line that loading the settings fails with."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with pytest.raises(SettingsError) as failed:
            DatabaseSettings.load()
    text = str(failed.value)
    assert "\n" not in text
    assert SECRET not in text
    assert "db.internal" not in text
    return text


def test_order_is_argument_file_secret_variable_dotenv_default(
    tmp_path: Path, secrets_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def size() -> int:
        return DatabaseSettings.load().pool_size

    assert size() == 5
    Path(".env").write_text("DATABASE_POOL_SIZE=11\n")
    assert size() == 11
    monkeypatch.setenv("DATABASE_POOL_SIZE", "12")
    assert size() == 12
    (secrets_directory / "database_pool_size").write_text("13\n")
    assert size() == 13
    file = tmp_path / "size"
    file.write_text("14\n")
    monkeypatch.setenv("DATABASE_POOL_SIZE_FILE", str(file))
    assert size() == 14
    assert DatabaseSettings.load(pool_size=15).pool_size == 15


def test_file_variable_may_stand_in_dotenv(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"{URL}\n")
    Path(".env").write_text(f"DATABASE_URL_FILE={tmp_path / 'url'}\n")
    assert DatabaseSettings.load().sync_url.password == SECRET


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("DATABASE_POOL_SIZE", "")
    monkeypatch.setenv("DATABASE_URL_FILE", "")
    assert DatabaseSettings.load().sync_url.database == "tidegate.db"


def test_unreadable_file_is_named() -> None:
    assert "DATABASE_URL_FILE" in error_of(DATABASE_URL_FILE="/nowhere/at/all")


def test_file_that_is_no_text_is_named(tmp_path: Path, secrets_directory: Path) -> None:
    file = tmp_path / "url"
    file.write_bytes(b"\xff")
    assert "DATABASE_URL_FILE" in error_of(DATABASE_URL_FILE=str(file))
    (secrets_directory / "database_url").write_bytes(b"\xff")
    assert str(secrets_directory / "database_url") in error_of()
    (secrets_directory / "database_url").unlink()
    Path(".env").write_bytes(b"DATABASE_URL=\xff")
    assert ".env: cannot be read" in error_of()


def test_directories_among_the_secrets_are_passed_over(secrets_directory: Path) -> None:
    """Kubernetes keeps the files of a volume in one, behind links."""
    (secrets_directory / "..data").mkdir()
    (secrets_directory / "..data" / "database_url").write_text(URL)
    (secrets_directory / "database_url").symlink_to("..data/database_url")
    (secrets_directory / "database_backups").mkdir()
    assert DatabaseSettings.load().sync_url.password == SECRET


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_forbidden_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(URL)
    file.chmod(0)
    assert "DATABASE_URL_FILE" in error_of(DATABASE_URL_FILE=str(file))


@pytest.mark.parametrize(
    ("unknown", "known"),
    [
        ("DATABASE_POOLSIZE", "DATABASE_POOL_SIZE"),
        ("DATABASE_ULR", "DATABASE_URL"),
        ("DATABASE_POOL_TIMOUT", "DATABASE_POOL_TIMEOUT"),
        ("DATABASE_UROL_FILE", "DATABASE_URL"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest(unknown: str, known: str) -> None:
    text = error_of(**{unknown: SECRET})
    assert unknown in text
    assert f"did you mean {known}?" in text


def test_unknown_name_in_dotenv_and_among_secrets_is_refused(secrets_directory: Path) -> None:
    Path(".env").write_text("DATABASE_POOLSIZE=5\n")
    assert "DATABASE_POOLSIZE" in error_of()
    Path(".env").unlink()
    (secrets_directory / "database_poolsize").write_text("5")
    assert "DATABASE_POOLSIZE" in error_of()


def test_what_kubernetes_adds_for_a_service_is_let_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (
        "DATABASE_SERVICE_HOST",
        "DATABASE_SERVICE_PORT",
        "DATABASE_SERVICE_PORT_POSTGRESQL",
        "DATABASE_PORT",
        "DATABASE_PORT_5432_TCP",
        "DATABASE_PORT_5432_TCP_PROTO",
    ):
        monkeypatch.setenv(name, "tcp://198.18.0.1:5432")
    DatabaseSettings.load()


def test_what_kubernetes_adds_for_a_service_with_a_longer_name_is_let_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As "database-rw", which operators for PostgreSQL make of a cluster called "database"."""
    monkeypatch.setenv("DATABASE_RW_SERVICE_HOST", "198.18.0.1")
    monkeypatch.setenv("DATABASE_RW_SERVICE_PORT", "5432")
    monkeypatch.setenv("DATABASE_RW_PORT", "tcp://198.18.0.1:5432")
    monkeypatch.setenv("DATABASE_RW_PORT_5432_TCP_ADDR", "198.18.0.1")
    monkeypatch.setenv("DATABASE_RW_PORT_5432_TCP_PORT", "5432")
    DatabaseSettings.load()


def test_port_of_ones_own_is_refused() -> None:
    assert "DATABASE_PORT" in error_of(DATABASE_PORT="5432")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_POOL_SIZE", "0"),
        ("DATABASE_POOL_SIZE", "five"),
        ("DATABASE_MAX_OVERFLOW", "-1"),
        ("DATABASE_POOL_TIMEOUT", "0"),
        ("DATABASE_POOL_TIMEOUT", "inf"),
        ("DATABASE_STATEMENT_TIMEOUT", "nan"),
        ("DATABASE_ECHO", "perhaps"),
        ("DATABASE_URL", f"{SECRET}"),
        ("DATABASE_URL", URL.replace("postgresql", "oracle")),
        ("DATABASE_URL", URL.replace(":5432", ":port")),
        ("DATABASE_URL", "postgresql:///catalog?password=" + SECRET),
        ("DATABASE_URL_ASYNC", URL),
        ("MIGRATE_DATABASE_URL", "mongodb://x:" + SECRET + "@h"),
        ("ENVIRONMENT", "prod"),
    ],
)
def test_wrong_value_is_one_line_that_names_the_setting(name: str, value: str) -> None:
    assert name in error_of(**{name: value})


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_url_is_required_outside_development(environment: str) -> None:
    assert "DATABASE_URL: required" in error_of(ENVIRONMENT=environment)


def test_secrets_show_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("MIGRATE_DATABASE_URL", URL)
    settings = load_settings()
    for text in (repr(settings), str(settings), repr(settings.database), str(settings.database)):
        assert SECRET not in text
    assert SECRET not in settings.model_dump_json()
    assert SECRET not in settings.database.model_dump_json()


def test_admission_limit_above_the_pool_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMISSION_LIMIT", "11")
    with pytest.raises(SettingsError, match="lower it to 10"):
        load_settings()
    monkeypatch.setenv("DATABASE_MAX_OVERFLOW", "6")
    assert load_settings().admitted_requests == 11


def test_admission_is_the_pool_unless_set() -> None:
    assert load_settings().admitted_requests == 10


def test_logs_are_for_people_in_development_and_for_machines_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings().log_format == "console"
    monkeypatch.setenv("ENVIRONMENT", "test")
    assert load_settings().log_format == "json"
    monkeypatch.setenv("LOG_FORMAT", "console")
    assert load_settings().log_format == "console"


def sealing_key(**settings: str) -> bytes:
    """What cursors are sealed with under some settings."""
    return DatabaseSettings.load(**settings).cursor_sealing_key


def test_cursors_are_sealed_with_the_key_or_one_of_the_url() -> None:
    key, other_key = "k" * 16, "k" * 15 + "l"
    keys = [
        sealing_key(),
        sealing_key(url=URL),
        sealing_key(url=URL.replace(SECRET, "hunter3")),
        sealing_key(url=URL.replace("5432/catalog", "5432/other")),
        sealing_key(url="sqlite:///:memory:"),
        sealing_key(cursor_key=key),
        sealing_key(cursor_key=other_key),
    ]
    assert {len(each) for each in keys} == {32}
    assert len({*keys}) == len(keys)
    assert sealing_key(url=URL) == sealing_key(url=URL)
    assert sealing_key(url=URL, cursor_key=key) == sealing_key(cursor_key=key)


def test_key_of_cursors_may_stand_in_a_file_and_is_not_shown(secrets_directory: Path) -> None:
    (secrets_directory / "database_cursor_key").write_text("of-sixteen-chars\n")
    settings = DatabaseSettings.load()
    assert settings.cursor_sealing_key == sealing_key(cursor_key="of-sixteen-chars")
    assert "of-sixteen-chars" not in repr(settings)


def test_short_key_of_cursors_is_refused_in_one_line() -> None:
    text = error_of(DATABASE_CURSOR_KEY=SECRET[:15])
    assert text.startswith("DATABASE_CURSOR_KEY: shorter than 16 characters; ")
    assert SECRET[:15] not in text


def test_variable_and_secret_called_database_are_somebody_elses(
    secrets_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets_directory / "database").write_text("catalog")
    monkeypatch.setenv("DATABASE", "catalog")
    monkeypatch.setenv("DATABASE_POOL_SIZE", "7")
    assert load_settings().database.pool_size == 7
    Path(".env").write_text("DATABASE=catalog")
    monkeypatch.delenv("DATABASE")
    assert load_settings().database.pool_size == 7
