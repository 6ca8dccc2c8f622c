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
from tests.monitoring.asked import fenced
from tests.monitoring.rules import RUNBOOKS, alerts
from tests.support.server import ROOT

PAGES: Final = sorted(RUNBOOKS.glob("*.md"))
SECTIONS: Final = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
PROGRAMS: Final = {"curl", "tidegate", "kubectl", "grep"}
COMMANDS: Final[Any] = typer.main.get_command(app)


def lines(page: Path) -> Iterator[list[str]]:
    """The words of each command of a runbook, the parts of a pipe by themselves."""
    for block in fenced(page.read_text(encoding="utf-8"), "sh"):
        for line in block.splitlines():
            words = shlex.split(line)
            if "--" in words:
                # What kubectl runs in a container.
                yield words[words.index("--") + 1 :]
            for part in line.split(" | "):
                yield shlex.split(part)


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
    for words in lines(page):
        assert words[0] in PROGRAMS, words
        if words[0] == "tidegate":
            refuse_unknown_command(words[1:])
    text = page.read_text(encoding="utf-8")
    for named in re.findall(r"`tidegate ([a-z ]+)", text):
        refuse_unknown_command(named.split())


def refuse_unknown_command(words: list[str]) -> None:
    """Fail unless each word is a group, a command or an option of one."""
    command = COMMANDS
    for word in words:
        if word.startswith("--"):
            options = {name for parameter in command.params for name in parameter.opts}
            assert word.partition("=")[0] in options, words
        elif subcommands := getattr(command, "commands", None):
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
    manifest = (ROOT / "deploy/kubernetes/base/deployment.yaml").read_text(encoding="utf-8")
    for container in {*re.findall(r"--container (\w+)", text)}:
        assert f"- name: {container}\n" in manifest
    assert {*re.findall(r"deployment/([\w-]+)", text)} == {"tidegate"}
    assert "app.kubernetes.io/name: tidegate" in manifest
