"""Each alert has its runbook, and every command in one is a command that there is."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg2
import pytest
import typer.main
from fastapi.routing import APIRoute

from service.app import ROUTERS
from service.cli.main import app
from service.migrator.errors import ExitCode
from tests.deploy.command_line import parse
from tests.deploy.manifests import SERVICES, of_kind, pods, rendered, service_pod
from tests.monitoring.asked import fenced
from tests.monitoring.rules import RUNBOOKS, alerts

PAGES: Final = sorted(RUNBOOKS.glob("*.md"))
SECTIONS: Final = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
# What an operator has at hand, and what there is in the service's container.
PROGRAMS: Final = {"curl", "grep", "kill", "kubectl", "sleep"}
IN_CONTAINER: Final = {"tidegate"}
# Each is of several pods, and kubectl would choose one.
ONE_OF_MANY: Final = re.compile(
    r"exec deployment/|port-forward deployment/|logs deployment/tidegate(?! --all-pods)"
)
MIGRATING: Final = ("TidegateSchemaBehind", "TidegateMigrationFailed")
COMMANDS: Final[Any] = typer.main.get_command(app)


def lines(page: Path) -> Iterator[tuple[set[str], list[str]]]:
    """The words of each command of a runbook, and what programs there are where it runs.

    The parts of a pipe are commands by themselves, and what kubectl runs in a container.
    """
    for block in fenced(page.read_text(encoding="utf-8"), "sh"):
        for line in block.splitlines():
            words = shlex.split(line.split(" | ")[0])
            if "--" in words:
                yield IN_CONTAINER, words[words.index("--") + 1 :]
            for part in line.split(" | "):
                yield PROGRAMS, shlex.split(part)


def test_alerts_and_runbooks_belong_together() -> None:
    assert [page.stem for page in PAGES] == sorted(alert.name for alert in alerts())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_runbook_has_its_sections_and_something_to_run(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.stem}\n")
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == SECTIONS
    diagnosis = text.partition("## Diagnosis")[2].partition("## Mitigation")[0]
    assert "```" in diagnosis
    named = {*re.findall(r"\bTidegate[A-Z]\w+", text)}
    assert named <= {other.stem for other in PAGES}
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (page.parent / target).is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_runbook_exist(page: Path) -> None:
    for programs, words in lines(page):
        assert words[0] in programs, words
        if words[0] == "tidegate":
            parse(words)
    text = page.read_text(encoding="utf-8")
    assert not ONE_OF_MANY.findall(text)
    for block in fenced(text, "sh"):
        # The port is the pod's, and the image has no curl.
        assert ("localhost:8000" in block) == ("port-forward POD 8000" in block), block
    if " POD" in text:
        assert "POD is " in text, "which pod that is"
    for named in re.findall(r"`tidegate ([a-z\s]+)", text):
        refuse_unknown_command(named.split())


def refuse_unknown_command(words: list[str]) -> None:
    """Fail unless each word is a group, or a command of one; arguments are not asked for."""
    command = COMMANDS
    for word in words:
        if subcommands := getattr(command, "commands", None):
            assert word in subcommands, words
            command = subcommands[word]


def test_addresses_of_the_runbooks_are_routes() -> None:
    routes = {
        route.path for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)
    }
    asked = {
        path
        for page in PAGES
        for path in re.findall(r"localhost:8000(/\w+)", page.read_text(encoding="utf-8"))
    }
    assert asked
    assert asked <= routes


def test_sql_of_the_runbooks_is_understood(postgres_url: str) -> None:
    statements = {
        statement for page in PAGES for statement in fenced(page.read_text(encoding="utf-8"), "sql")
    }
    assert len(statements) > 5
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        for statement in sorted(statements):
            # PREPARE looks every name up, and runs nothing.
            cursor.execute(f"PREPARE asked AS {statement.replace('<pid>', '0')}")
            cursor.execute("DEALLOCATE asked")
    connection.close()


def test_manifests_have_what_the_runbooks_ask_kubectl_for() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    known = [pod for rendering in SERVICES for pod in pods(rendered(rendering))]
    workloads = {f"{pod.kind.lower()}/{pod.name}" for pod in known}
    asked = {*re.findall(r"\b(?:deployment|job)/[\w-]+", text)}
    assert asked == {"deployment/tidegate", "job/tidegate-migrate"}
    assert asked <= workloads
    labels = {f"{name}={value}" for pod in known for name, value in pod.labels.items()}
    assert {*re.findall(r"--selector (\S+)", text)} <= labels


@pytest.mark.parametrize("rendering", SERVICES)
def test_runbooks_read_and_repeat_the_migration_where_it_runs(rendering: str) -> None:
    manifests = rendered(rendering)
    if jobs := of_kind(manifests, "Job"):
        (name,) = (job["metadata"]["name"] for job in jobs)
        needed = [f"logs job/{name}", f"delete job {name}", "apply --kustomize"]
    else:
        (migrate,) = service_pod(manifests).spec["initContainers"]
        log = f"logs deployment/tidegate --all-pods --container {migrate['name']}"
        needed = [log, "rollout restart deployment/tidegate"]
    for page in (RUNBOOKS / f"{name}.md" for name in MIGRATING):
        text = page.read_text(encoding="utf-8")
        assert [words for words in needed if words not in text] == []


def test_every_end_of_a_migration_is_told() -> None:
    page = (RUNBOOKS / "TidegateMigrationFailed.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- ([\d, ]+):", page, flags=re.MULTILINE)
    told = {int(code) for codes in listed for code in codes.split(", ")}
    # No error, or of commands that change nothing.
    others = {ExitCode.DONE, ExitCode.BEHIND, ExitCode.LINT, ExitCode.DRIFT, ExitCode.ROUND_TRIP}
    assert told == {*ExitCode} - others
