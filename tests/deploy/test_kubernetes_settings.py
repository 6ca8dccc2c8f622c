"""The Kubernetes manifests: what the service makes of them, by its own settings and arithmetic."""

import configparser
import re
import shlex
from pathlib import Path

import pytest

from service.database.budget import MIGRATION_CONNECTIONS
from service.database.layered_settings import variable_names
from service.migrator.settings import MigratorSettings
from service.settings import DatabaseSettings, Settings, SettingsError, load_settings
from tests.deploy.command_line import parse
from tests.deploy.manifests import (
    KUBERNETES,
    OVERLAYS,
    SERVICES,
    Manifest,
    Pod,
    config,
    container,
    environment,
    most_pods,
    named,
    of_kind,
    pgbouncer_files,
    pods,
    rendered,
    secret_files,
    service_pod,
)
from tests.deploy.pod_security import containers
from tests.support.server import ROOT

URL = "postgresql://tidegate@database/tidegate\n"
# PostgreSQL's default of max_connections, without what it reserves for superusers.
USUAL_SERVER = 100 - 3


@pytest.fixture(params=SERVICES)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(request.param)


def ours(manifests: list[Manifest]) -> list[tuple[Pod, Manifest]]:
    """The containers that run our image."""
    return [
        (pod, each)
        for pod in pods(manifests)
        for each in containers(pod.spec)
        if "tidegate:" in each["image"]
    ]


@pytest.fixture
def settings(
    manifests: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """As the service reads them in a pod."""
    return settings_of(manifests, tmp_path, monkeypatch)


def settings_of(
    manifests: list[Manifest], directory: Path, patch: pytest.MonkeyPatch, **changes: str
) -> Settings:
    pod = service_pod(manifests)
    api = container(pod, "api")
    variables = environment(manifests, api) | changes
    for path, key in secret_files(pod.spec, api):
        file = directory / key
        file.write_text(URL if key.endswith("url") else "0123456789abcdef\n")
        variables = {n: str(file) if v == path else v for n, v in variables.items()}
    for name, value in variables.items():
        patch.setenv(name, value)
    return load_settings()


def test_every_variable_is_a_setting(manifests: list[Manifest]) -> None:
    known = {
        name
        for cls in (Settings, DatabaseSettings, MigratorSettings)
        for name in variable_names(cls)
    }
    for _, each in ours(manifests):
        present = environment(manifests, each)
        assert {name.removesuffix("_FILE") for name in present} <= known


def test_settings_accept_the_values(settings: Settings, manifests: list[Manifest]) -> None:
    assert settings.port == int(config(manifests)["PORT"])
    assert settings.host == "0.0.0.0"  # noqa: S104 - the pod's own address is not known before
    assert settings.log_format == "json"
    is_named = "OPS_TOKEN_FILE" in environment(manifests, container(service_pod(manifests), "api"))
    assert (settings.ops_token is not None) == is_named


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [("dev", "development"), ("staging", "staging"), ("prod", "production")],
)
def test_overlays_tell_the_service_where_it_runs(
    overlay: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {*OVERLAYS} == {"dev", "staging", "prod"}
    manifests = rendered(f"overlays/{overlay}")
    assert settings_of(manifests, tmp_path, monkeypatch).environment == expected


def test_secrets_are_files(manifests: list[Manifest]) -> None:
    for pod, each in ours(manifests):
        mounted = {path for path, _ in secret_files(pod.spec, each)}
        files = {v for n, v in environment(manifests, each).items() if n.endswith("_FILE")}
        assert files
        assert files <= mounted
        if each["name"] in ("api", "migrate"):
            assert files == mounted


def test_only_what_migrates_sees_the_migration_role(manifests: list[Manifest]) -> None:
    migrating = [
        (pod.name, each["name"])
        for pod, each in ours(manifests)
        if "migrate-database-url" in dict(secret_files(pod.spec, each)).values()
    ]
    assert len(migrating) == 1
    assert migrating[0][1] == "migrate"


def test_secret_files_are_for_the_group_of_the_process_alone(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        context = pod.spec["securityContext"]
        assert context["fsGroup"] == context["runAsGroup"]
        modes = {v["secret"]["defaultMode"] for v in pod.spec["volumes"] if "secret" in v}
        assert modes == {0o440}


def test_every_command_exists(manifests: list[Manifest]) -> None:
    commands = []
    for _, each in ours(manifests):
        assert "args" not in each
        if words := each.get("command"):
            parse(words)
            commands.append(shlex.join(words))
        else:
            assert each["name"] == "api"
            assert 'CMD ["gunicorn"' in (ROOT / "Dockerfile").read_text()
    assert commands.count("tidegate migrate up") == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("tidegate migrate upp", "upp"),
        ("tidegate migrate up --now", "--now"),
        ("tidegate migrate wait 5", "unexpected extra argument"),
    ],
)
def test_unknown_commands_are_refused(words: str, complaint: str) -> None:
    with pytest.raises(Exception, match=complaint):
        parse(shlex.split(words))


def test_kubelet_waits_for_the_whole_shutdown(
    manifests: list[Manifest], settings: Settings
) -> None:
    pod = service_pod(manifests)
    hook = container(pod, "api").get("lifecycle", {}).get("preStop", {}).get("sleep", {})
    slept = hook.get("seconds", 0)
    assert settings.drain_seconds + slept >= 5, "the proxies need some time"
    assert not (settings.drain_seconds and slept), "they need it once"
    assert pod.spec["terminationGracePeriodSeconds"] > slept + settings.shutdown_seconds
    # So that the service does the sum as well, whatever an overlay changes.
    assert settings.termination_grace_seconds == pod.spec["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", ["DRAIN_SECONDS", "GRACEFUL_TIMEOUT"])
def test_longer_shutdown_than_the_grace_period_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = rendered("base")
    grace = service_pod(manifests).spec["terminationGracePeriodSeconds"]
    with pytest.raises(SettingsError, match="TERMINATION_GRACE_SECONDS"):
        settings_of(manifests, tmp_path, monkeypatch, **{name: str(grace)})


def test_startup_probe_outlasts_the_wait_for_the_schema(manifests: list[Manifest]) -> None:
    probe = container(service_pod(manifests), "api")["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] >= 300


def test_connections_are_counted_for_every_pod_there_may_be(
    manifests: list[Manifest], settings: Settings
) -> None:
    demand, budget = settings.connection_demand, settings.database.connection_budget
    assert settings.replicas == most_pods(manifests)
    assert demand.migrations == MIGRATION_CONNECTIONS
    assert budget is not None
    assert demand.total <= budget


@pytest.mark.parametrize("rendering", ["overlays/staging", "overlays/prod", "base+autoscale-keda"])
def test_autoscaler_that_goes_further_is_noticed(
    rendering: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = rendered(rendering)
    settings = settings_of(manifests, tmp_path, monkeypatch)
    (scaler,) = of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject")
    (limit,) = scaler["spec"].keys() & {"maxReplicas", "maxReplicaCount"}
    scaler["spec"][limit] += 1
    with pytest.raises(AssertionError):
        test_connections_are_counted_for_every_pod_there_may_be(manifests, settings)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_more_pods_than_the_budget_has_room_for_are_refused(
    overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = rendered(f"overlays/{overlay}")
    budget = config(manifests)["DATABASE_CONNECTION_BUDGET"]
    with pytest.raises(SettingsError, match=r"DATABASE_CONNECTION_BUDGET: \d+ are too few"):
        settings_of(manifests, tmp_path, monkeypatch, REPLICAS=budget)


def test_budgets_are_what_somebody_gives(manifests: list[Manifest], settings: Settings) -> None:
    """A server's, or a PgBouncer's; and this one's connections fit the server in turn."""
    budget = settings.database.connection_budget
    assert budget is not None
    poolers = [p for p in pods(manifests) if p.name == "tidegate-pgbouncer"]
    if not poolers:
        (cluster,) = rendered("cloudnative-pg")
        largest = int(cluster["spec"]["postgresql"]["parameters"]["max_connections"]) - 3
        has_cluster = settings.database.replica_url is not None
        assert budget <= (largest if has_cluster else USUAL_SERVER)
        return
    # PgBouncer's %include is no section of ini files.
    text = pgbouncer_files(manifests)["pgbouncer.ini"].replace("%include", ";")
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    pooler = parser["pgbouncer"]
    assert budget == int(pooler["max_client_conn"])
    spec = named(manifests, "Deployment", "tidegate-pgbouncer")["spec"]
    most = spec["replicas"] + spec["strategy"]["rollingUpdate"]["maxSurge"]
    assert most * int(pooler["max_db_connections"]) + MIGRATION_CONNECTIONS <= USUAL_SERVER
    assert int(pooler["default_pool_size"]) <= int(pooler["max_db_connections"])
    assert float(pooler["query_wait_timeout"]) < settings.database.query_deadline


@pytest.mark.parametrize("name", ["base", "dev", "staging", "prod"])
def test_readme_tells_what_each_overlay_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = rendered(name if name == "base" else f"overlays/{name}")
    demand = settings_of(manifests, tmp_path, monkeypatch).connection_demand
    text = (KUBERNETES / "README.md").read_text()
    (row,) = re.findall(rf"^\| `?{name}`? \| (\d+) \+ 1 \| (\d+)\D", text, re.MULTILINE)
    assert row == (str(demand.replicas - 1), str(demand.total))


def test_replicas_stand_in_one_place(manifests: list[Manifest]) -> None:
    """An apply would undo what an autoscaler did."""
    scalers = of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject")
    assert len(scalers) <= 1
    has_replicas = "replicas" in named(manifests, "Deployment", "tidegate")["spec"]
    assert not (scalers and has_replicas)
