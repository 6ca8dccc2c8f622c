"""What single components of the Kubernetes manifests promise beyond the rules for all."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from service.migrator.errors import ExitCode
from service.migrator.settings import MigratorSettings
from tests.deploy.manifests import (
    KUBERNETES,
    RENDERED,
    SERVICES,
    Manifest,
    container,
    environment,
    of_kind,
    pgbouncer_files,
    pods,
    rendered,
    service_pod,
)
from tests.deploy.support import run
from tests.monitoring.asked import fenced
from tests.support.databases import migrate
from tests.support.missing import missing
from tests.support.scraping import Series, scrape
from tests.support.server import running_service

HOOK = "argocd.argoproj.io/hook"
# Nothing but somebody's hand mends these.
FINAL = (
    ExitCode.USAGE,
    ExitCode.AHEAD,
    ExitCode.HEADS,
    ExitCode.CHECKSUM,
    ExitCode.FAILED,
)
TRANSIENT = (ExitCode.LOCK_BUSY, ExitCode.UNREACHABLE, ExitCode.LOCK_RETRIES)
ADAPTER = KUBERNETES / "components" / "autoscale-pool" / "prometheus-adapter.yaml"


def with_job() -> list[str]:
    return [name for name in SERVICES if of_kind(rendered(name), "Job")]


@pytest.mark.parametrize("rendering", with_job())
def test_pods_wait_for_the_job_and_do_not_migrate(rendering: str) -> None:
    pod = service_pod(rendered(rendering))
    (wait,) = pod.spec["initContainers"]
    assert wait["command"] == ["tidegate", "migrate", "wait"]
    assert "migrate-secrets" not in {volume["name"] for volume in pod.spec["volumes"]}


@pytest.mark.parametrize("rendering", sorted({*SERVICES} - {*with_job()}))
def test_without_a_job_every_pod_migrates(rendering: str) -> None:
    (migrate,) = service_pod(rendered(rendering)).spec["initContainers"]
    assert migrate["command"] == ["tidegate", "migrate", "up"]


@pytest.mark.parametrize("rendering", with_job())
def test_job_repeats_what_may_pass_and_nothing_else(rendering: str) -> None:
    (job,) = of_kind(rendered(rendering), "Job")
    spec = job["spec"]
    (rule,) = (r for r in spec["podFailurePolicy"]["rules"] if r["action"] == "FailJob")
    codes = rule["onExitCodes"]
    assert (codes["operator"], codes["containerName"]) == ("In", "migrate")
    assert codes["values"] == sorted(FINAL)
    assert not {*codes["values"]} & {*TRANSIENT}
    assert spec["backoffLimit"] >= 1
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "the policy's condition"
    assert spec["activeDeadlineSeconds"] > MigratorSettings().lock_budget


@pytest.mark.parametrize("rendering", with_job())
def test_hook_needs_nothing_that_is_applied_after_it(rendering: str) -> None:
    manifests = rendered(rendering)
    (job,) = of_kind(manifests, "Job")
    (pod,) = (p for p in pods(manifests) if p.kind == "Job")
    assert not of_kind(manifests, "Cluster"), "the database would come after its migration"
    assert "serviceAccountName" not in pod.spec
    assert not [volume for volume in pod.spec["volumes"] if "configMap" in volume]
    migrate = container(pod, "migrate")
    assert "envFrom" not in migrate
    assert environment(manifests, migrate).keys() == {"DATABASE_URL_FILE"}
    annotations = job["metadata"]["annotations"]
    if HOOK in annotations:
        assert annotations == {HOOK: "PreSync", f"{HOOK}-delete-policy": "BeforeHookCreation"}
        assert "ttlSecondsAfterFinished" not in job["spec"]
    else:
        assert job["spec"]["ttlSecondsAfterFinished"] > 0


def test_production_migrates_before_the_sync() -> None:
    (job,) = of_kind(rendered("overlays/prod"), "Job")
    assert job["metadata"]["annotations"][HOOK] == "PreSync"


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """What the service exports."""
    directory = tmp_path_factory.mktemp("exported")
    url = f"sqlite:///{directory / 'catalog.db'}"
    migrate(url)
    with running_service(directory, {"ENVIRONMENT": "test", "DATABASE_URL": url}) as service:
        return scrape(service)


def queries() -> dict[str, str]:
    (rule,) = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    (scaled,) = of_kind(rendered("base+autoscale-keda"), "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    return {
        "adapter": rule["metricsQuery"],
        "adapter's series": rule["seriesQuery"],
        "keda": trigger["metadata"]["query"],
    }


@pytest.mark.parametrize("query", queries().values(), ids=queries())
def test_autoscalers_ask_for_series_that_are_exported(query: str, series: Series) -> None:
    asked = re.findall(r"(db_\w+)\{([^}]*)\}", query)
    assert asked
    for name, matchers in asked:
        for labels in (dict(labels) for found, labels in series if found == name):
            matching = re.findall(r'(\w+)(=~|=|!=)"([^"]*)"', matchers)
            # Prometheus adds these.
            known = [one for one in matching if one[0] not in ("namespace", "pod")]
            if all(re.fullmatch(value, labels.get(label, "")) for label, _, value in known):
                break
        else:
            pytest.fail(f"no series like {name}{{{matchers}}}")


def test_saturation_is_that_of_the_fuller_pool(tmp_path: Path) -> None:
    """By promtool: a pod with a full replica's pool, and one that is idle."""
    if not shutil.which("promtool"):
        missing("needs promtool (Debian's package is prometheus)")
    told = queries()
    by_pod = told["adapter"].replace("<<.GroupBy>>", "pod")
    by_pod = by_pod.replace("<<.LabelMatchers>>", 'namespace="tidegate"')
    pools = {
        ("a", "primary", "tidegate"): 5,
        ("a", "replica", "tidegate"): 10,
        ("b", "primary", "tidegate"): 2,
        # Of the health checks, and of somebody else's.
        ("b", "health", "tidegate"): 10,
        ("c", "primary", "elsewhere"): 10,
    }
    series = []
    for (pod, pool, namespace), used in pools.items():
        labels = f'pod="{pod}",pool_name="{pool}",namespace="{namespace}"'
        for name, value in (
            (f'count{{state="used",{labels}}}', used),
            (f'count{{state="idle",{labels}}}', 10 - used),
            (f"max{{{labels}}}", 10),
        ):
            series.append({"series": f"db_client_connection_{name}", "values": str(value)})
    samples = [{"labels": '{pod="a"}', "value": 1.0}, {"labels": '{pod="b"}', "value": 0.2}]
    expected = [
        {"expr": by_pod, "eval_time": "0", "exp_samples": samples},
        {
            "expr": told["keda"],
            "eval_time": "0",
            "exp_samples": [{"labels": "{}", "value": 1.2}],
        },
    ]
    file = tmp_path / "test.yml"
    file.write_text(
        yaml.safe_dump({"tests": [{"input_series": series, "promql_expr_test": expected}]})
    )
    run("promtool", "test", "rules", file)


def test_adapter_serves_the_metric_that_the_autoscaler_asks_for() -> None:
    (rule,) = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    (scaler,) = of_kind(rendered("base+autoscale-pool"), "HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert "max by (<<.GroupBy>>)" in rule["metricsQuery"]


def test_both_autoscalers_by_saturation_have_one_threshold() -> None:
    (scaler,) = of_kind(rendered("base+autoscale-pool"), "HorizontalPodAutoscaler")
    (scaled,) = of_kind(rendered("base+autoscale-keda"), "ScaledObject")
    milli = scaler["spec"]["metrics"][0]["pods"]["target"]["averageValue"]
    (trigger,) = scaled["spec"]["triggers"]
    assert milli == f"{float(trigger['metadata']['threshold']) * 1000:.0f}m"
    behavior = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior == scaler["spec"]["behavior"]


@pytest.mark.parametrize("rendering", SERVICES)
def test_keda_asks_for_its_own_namespace_and_falls_back_within_its_bounds(rendering: str) -> None:
    for scaled in of_kind(rendered(rendering), "ScaledObject"):
        spec = scaled["spec"]
        (trigger,) = spec["triggers"]
        asked = {*re.findall(r'namespace="([^"]*)"', trigger["metadata"]["query"])}
        assert asked == {scaled["metadata"]["namespace"]}
        assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
        # KEDA falls back for no other type.
        assert trigger["metricType"] == "AverageValue"


def test_every_overlay_tells_pgbouncers_sessions_the_same() -> None:
    told = set()
    for rendering in ("base+pgbouncer", "overlays/staging"):
        text = pgbouncer_files(rendered(rendering))["databases.ini"]
        told |= {*re.findall(r"connect_query='([^']*)'", text)}
    assert len(told) == 1


def cluster() -> Manifest:
    (found,) = rendered("cloudnative-pg")
    return found


def test_replica_is_one_server() -> None:
    """`tidegate-db-ro` leads to every standby, and a bound on lag holds for one alone."""
    assert cluster()["spec"]["instances"] == 2


def test_database_is_applied_apart_from_the_service() -> None:
    for name in RENDERED:
        kinds = {m["kind"] for m in rendered(name)}
        assert ("Cluster" in kinds) == (name == "cloudnative-pg")


def test_replica_component_reads_the_third_url() -> None:
    manifests = rendered("base+read-replica")
    pod = service_pod(manifests)
    assert environment(manifests, container(pod, "api"))["DATABASE_REPLICA_URL_FILE"] == (
        "/var/run/tidegate/database-replica-url"
    )
    migrate = container(pod, "migrate")
    assert "DATABASE_REPLICA_URL_FILE" not in environment(manifests, migrate)


def test_readme_deploys_what_the_overlay_is() -> None:
    (commands,) = fenced((KUBERNETES / "README.md").read_text().partition("## Compose")[0], "sh")
    (overlay,) = re.findall(r"overlays/(\w+)", commands)
    manifests = rendered(f"overlays/{overlay}")
    (namespace,) = of_kind(manifests, "Namespace")
    named = {*re.findall(r"--namespace (\S+)|create namespace (\S+)", commands)}
    assert {one or other for one, other in named} == {namespace["metadata"]["name"]}
    images = {container(service_pod(manifests), name)["image"] for name in ("migrate", "api")}
    assert {*re.findall(r"docker push (\S+)", commands)} == images


def test_readme_tells_of_every_component_and_secret() -> None:
    text = (KUBERNETES / "README.md").read_text()
    told = {*re.findall(r"^\| `([a-z-]+)`", text, re.MULTILINE)}
    components = {path.name for path in (KUBERNETES / "components").iterdir()}
    keys = {
        item["key"]
        for name in RENDERED
        for pod in pods(rendered(name))
        for volume in pod.spec["volumes"]
        for item in volume.get("secret", {}).get("items", ())
    }
    assert components <= told
    assert {key for key in keys if key not in text} == set()
