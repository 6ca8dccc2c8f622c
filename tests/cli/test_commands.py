"""The commands as they are typed: one line for what the caller can mend, and the exit code."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from importlib.metadata import version
from pathlib import Path

import httpx2
import pytest

from tests.support.polling import eventually
from tests.support.ports import free_port
from tests.support.server import PYTHON, Service, environment, running_service


def tidegate(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, "-m", "service", *words],
        env=environment(variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"DATABASE_POOLSIZE": "5"}, "DATABASE_POOL_SIZE"),
        ({"DATABASE_POOL_SIZE": "many"}, "DATABASE_POOL_SIZE"),
        ({"DATABASE_URL": "oracle://scott:tiger@db/x"}, "DATABASE_URL"),
        ({"DATABASE_URL": "scott:tiger"}, "DATABASE_URL"),
        ({"DATABASE_URL_FILE": "/nowhere"}, "DATABASE_URL_FILE"),
        ({"ENVIRONMENT": "production"}, "DATABASE_URL"),
        ({"ENVIRONMENT": "prod"}, "ENVIRONMENT"),
        ({"PORT": "0"}, "PORT"),
        ({"ADMISSION_LIMIT": "11"}, "ADMISSION_LIMIT"),
        ({"OPS_TOKEN": "tiger"}, "OPS_TOKEN"),
    ],
)
def test_wrong_setting_stops_the_start_with_one_line(variables: dict[str, str], name: str) -> None:
    result = tidegate("serve", **variables)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert name in line
    assert "tiger" not in line


def test_wrong_setting_stops_gunicorn_with_one_line(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [PYTHON, "-m", "gunicorn", "--config", str(root / "deploy" / "gunicorn.conf.py")],
        env=environment({"ENVIRONMENT": "production", "DATABASE_URL": "oracle://scott:tiger@h/x"}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode != 0
    (line,) = result.stderr.splitlines()
    assert "DATABASE_URL" in line
    assert "tiger" not in line


def test_migrate_says_what_it_did_and_status_exits_20_when_behind(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    behind = tidegate("migrate", "status", DATABASE_URL=url)
    assert (behind.returncode, "behind" in behind.stdout) == (20, True)
    first = tidegate("migrate", "up", DATABASE_URL=url)
    assert (first.returncode, "applied" in first.stdout) == (0, True)
    second = tidegate("migrate", "up", DATABASE_URL=url)
    assert (second.returncode, "nothing to do" in second.stdout) == (0, True)
    assert tidegate("migrate", "status", DATABASE_URL=url).returncode == 0


def test_migrate_of_an_unreachable_database_exits_11() -> None:
    url = f"postgresql://u:secret-word@127.0.0.1:{free_port()}/x"
    result = tidegate("migrate", "up", "--wait", "0", DATABASE_URL=url)
    assert result.returncode == 11
    summary, line = result.stderr.splitlines()
    assert json.loads(summary)["exit_code"] == 11
    assert line.startswith("tidegate: cannot connect")
    assert "secret-word" not in result.stderr


def test_migrate_uses_its_own_url(tmp_path: Path) -> None:
    service, migrations = tmp_path / "service.db", tmp_path / "migrations.db"
    result = tidegate(
        "migrate",
        "up",
        DATABASE_URL=f"sqlite:///{service}",
        MIGRATE_DATABASE_URL=f"sqlite:///{migrations}",
    )
    assert result.returncode == 0
    assert (service.exists(), migrations.exists()) == (False, True)


def test_probe_asks_the_service_and_fails_without_one(sqlite_url: str, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": sqlite_url, "ENVIRONMENT": "test"}
    with running_service(tmp_path, settings) as service:
        port = str(service.port)
        assert tidegate("probe", "live", PORT=port).returncode == 0
        assert tidegate("probe", "ready", PORT=port).returncode == 0
        assert tidegate("probe", "startup", PORT=port).returncode == 0
        # Where the service finds it, the probe does.
        (tmp_path / ".env").write_text(f"PORT={port}\n")
        assert tidegate("probe", "live").returncode == 0
    result = tidegate("probe", "live", PORT=port)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1


def says_no(service: Service) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return service.http.get("/readyz").status_code == httpx2.codes.SERVICE_UNAVAILABLE
    return False


def test_serve_changes_no_schema_outside_development(tmp_path: Path) -> None:
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path / 'new.db'}", "ENVIRONMENT": "staging"}
    with running_service(tmp_path, settings, ready=False) as service:
        eventually(lambda: says_no(service), within=60)
        with pytest.raises(RuntimeError, match="not ready"):
            service.wait_until_ready(3)
        assert service.process.poll() is None
    assert tidegate("migrate", "status", **settings).returncode == 20


def test_serve_migrates_and_prints_its_pages_in_development(tmp_path: Path) -> None:
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path / 'new.db'}"}
    with running_service(tmp_path, settings) as service:
        text = service.text()
        assert service.http.get("/products").json() == {"items": [], "next_cursor": None}
        for page in ("/products", "/docs", "/metrics"):
            assert f"http://127.0.0.1:{service.port}{page}" in text


def test_serve_from_memory_in_development(tmp_path: Path) -> None:
    with running_service(tmp_path, {"DATABASE_URL": "sqlite:///:memory:"}) as service:
        body = {"code": "A", "name": "B", "price": "1"}
        assert service.http.post("/products", json=body).status_code == 201
        assert len(service.http.get("/products").json()["items"]) == 1


@pytest.mark.parametrize("environment_name", ["test", "production"])
def test_sigterm_ends_the_service_with_0(
    sqlite_url: str, tmp_path: Path, environment_name: str
) -> None:
    settings = {"DATABASE_URL": sqlite_url, "ENVIRONMENT": environment_name}
    with running_service(tmp_path, settings) as service:
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=30) == 0


def test_version() -> None:
    assert tidegate("--version").stdout == f"tidegate {version('tidegate')}\n"


def test_console_script_is_installed() -> None:
    script = shutil.which("tidegate", path=str(Path(PYTHON).parent))
    assert script is not None
    assert os.access(script, os.X_OK)
