"""`tidegate doctor` as it is typed: what it prints, what it leaves behind, and how it ends."""

import json
from pathlib import Path

from tests.cli.test_commands import tidegate
from tests.support.ports import free_port


def test_output_names_each_finding_and_its_advice(sqlite_url: str, tmp_path: Path) -> None:
    port = str(free_port())
    healthy = tidegate("doctor", DATABASE_URL=sqlite_url, PORT=port)
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    assert "PASS  schema" in healthy.stdout
    assert "1 warn, 0 fail" in healthy.stdout
    # That no worker runs is a warning.
    assert tidegate("doctor", "--strict", DATABASE_URL=sqlite_url, PORT=port).returncode == 1
    broken = tidegate("doctor", DATABASE_URL=f"sqlite:///{tmp_path}/none.db", PORT=port)
    assert broken.returncode == 1
    assert "-> run `tidegate migrate up`" in broken.stdout


def test_json_holds_no_secret_even_with_details() -> None:
    url = f"postgresql://me:tiger@127.0.0.1:{free_port()}/shop"
    result = tidegate("doctor", "--json", "--detail", DATABASE_URL=url, OPS_TOKEN="tiger" * 4)
    assert result.returncode == 1
    assert "tiger" not in result.stdout + result.stderr
    told = json.loads(result.stdout)
    assert told["verdict"] == "fail"
    (finding,) = (one for one in told["findings"] if one["subject"] == "DATABASE_URL")
    assert finding["verdict"] == "fail"
    assert finding["detail"]
    without = json.loads(tidegate("doctor", "--json", DATABASE_URL=url).stdout)
    assert all("detail" not in one for one in without["findings"])


def test_metrics_of_the_service_stay_its_own(sqlite_url: str, tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    directory.mkdir()
    variables = {"DATABASE_URL": sqlite_url, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    result = tidegate("doctor", **variables)
    assert "PROMETHEUS_MULTIPROC_DIR" in result.stdout
    tidegate("pool", "show", **variables)
    tidegate("settings", **variables)
    assert [*directory.iterdir()] == []
