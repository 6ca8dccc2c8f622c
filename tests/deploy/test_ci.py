"""The CI jobs that prove revisions: what they call exists, and their steps run here.

GitHub's and GitLab's own runners cannot be run; their files are held against the command line, and
the steps that they share with `make migration-check` are run.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.command_line import parse
from tests.deploy.support import run
from tests.support.server import ROOT

CI = ROOT / "deploy" / "ci"
STEPS = ["verify", "plan", "lint", "check", "roundtrip"]


def github() -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load((CI / "github.yml").read_text())
    return loaded


def github_script() -> str:
    steps = github()["jobs"]["migrations"]["steps"]
    return "\n".join(step["run"] for step in steps if "run" in step)


def gitlab_script() -> str:
    job = yaml.safe_load((CI / "gitlab.yml").read_text())["migrations"]
    return "\n".join([*job["before_script"], *job["script"]])


def local_script() -> str:
    return (CI / "migration-check").read_text()


SCRIPTS = {"github": github_script, "gitlab": gitlab_script, "local": local_script}


SINCE = '${since[@]+"${since[@]}"}'


def commands(script: str) -> list[list[str]]:
    """The words behind `tidegate` of each call."""
    joined = script.replace("\\\n", " ")
    lines = re.findall(r'tidegate"? (migrate .*)', joined)
    return [shlex.split(line.partition(">")[0].replace(SINCE, "")) for line in lines]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_command_exists_with_its_options_and_in_order(name: str) -> None:
    called = commands(SCRIPTS[name]())
    assert [words[1] for words in called] == STEPS
    for words in called:
        parse(["tidegate", *words])
    last = SCRIPTS[name]().strip().splitlines()
    assert any("deploy/ci/race.py" in line for line in last[-3:])


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_valid_and_what_they_name_is_there(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(re.sub(r"\$\{\{.*?\}\}", "x", SCRIPTS[name]()))
    run("bash", "-n", script)
    for path in re.findall(r"deploy/ci/[\w.-]+", script.read_text()):
        assert (ROOT / path).is_file(), path


def test_github_workflow_can_be_called_and_asks_for_little() -> None:
    workflow = github()
    inputs = workflow[True]["workflow_call"]["inputs"]  # YAML reads the key `on` as true
    text = (CI / "github.yml").read_text()
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(inputs)
    assert all("default" in each for each in inputs.values())
    assert "secrets." not in text
    (job,) = workflow["jobs"].values()
    assert job["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert "@localhost:5432/" in job["env"]["DATABASE_URL"]
    assert job["steps"][0]["with"] == {"fetch-depth": 0, "persist-credentials": False}
    names = [step.get("name") for step in job["steps"]]
    assert [name for name in names if name in [*STEPS, "race"]] == [*STEPS, "race"]


def test_our_own_pull_requests_run_the_same_workflow() -> None:
    workflows = ROOT / ".github" / "workflows"
    assert (workflows / "migrations.yml").read_bytes() == (CI / "github.yml").read_bytes()
    caller = yaml.safe_load((workflows / "ci.yml").read_text())
    job = caller["jobs"]["migrations"]
    assert job["uses"] == "./.github/workflows/migrations.yml"
    # What is called can be given no more than its caller has.
    assert job["permissions"] == github()["jobs"]["migrations"]["permissions"]
    versions = re.findall(r"uses: (actions/.*)", (CI / "github.yml").read_text())
    assert set(re.findall(r"uses: (actions/.*)", (workflows / "ci.yml").read_text())) <= {*versions}


def test_gitlab_keeps_the_sql_and_shows_findings() -> None:
    artifacts = yaml.safe_load((CI / "gitlab.yml").read_text())["migrations"]["artifacts"]
    assert artifacts["when"] == "always"
    assert artifacts["paths"] == ["plan.sql"]
    script = gitlab_script()
    for file in ("plan.sql", artifacts["reports"]["codequality"]):
        assert f"--output {file}" in script


def check(**variables: str) -> subprocess.CompletedProcess[str]:
    return run(
        CI / "migration-check",
        env={"BIN": str(Path(sys.executable).parent), **variables},
        check=False,
    )


def test_all_steps_run_against_a_real_server(postgres_url: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.sql"
    done = check(DATABASE_URL=postgres_url, PLAN=str(plan))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"== (\w+)", done.stdout) == [*STEPS, "race", "done"]
    assert done.stdout.count("exit 0") == 8
    assert "each revision was applied once" in done.stdout
    comment = run(CI / "plan-comment", plan).stdout
    assert "~~~sql\nBEGIN;" in comment


def test_step_that_fails_is_the_last(postgres_url: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.sql"
    done = check(DATABASE_URL=postgres_url, PLAN=str(plan), SINCE="nowhere")
    assert done.returncode == 2
    assert "git fetch" in done.stderr
    assert "== plan" not in done.stdout
    assert not plan.exists()


def test_comment_is_cut_to_what_a_comment_holds(tmp_path: Path) -> None:
    plan = tmp_path / "plan.sql"
    plan.write_text("")
    marker = "<!-- tidegate: migration plan -->\n"
    assert run(CI / "plan-comment", plan).stdout == f"{marker}No new revisions.\n"
    plan.write_text("SELECT 1;\n" * 10_000)
    comment = run(CI / "plan-comment", plan).stdout
    assert comment.startswith(marker)
    assert len(comment) < 65_536
    assert "artefact" in comment


@pytest.mark.parametrize(
    ("found", "sql", "asked"),
    [
        ("", "SELECT 1;", "POST repos/o/r/issues/7/comments"),
        ("42", "SELECT 1;", "PATCH repos/o/r/issues/comments/42"),
        # A change without revisions writes none, and corrects what an earlier push wrote.
        ("42", "", "PATCH repos/o/r/issues/comments/42"),
        ("", "", None),
    ],
)
def test_pull_request_has_one_comment(
    tmp_path: Path, found: str, sql: str, asked: str | None
) -> None:
    steps = github()["jobs"]["migrations"]["steps"]
    (script,) = (step["run"] for step in steps if step.get("name") == "comment")
    # Stands in for GitHub's own command, which is told to answer with what it found.
    gh = tmp_path / "gh"
    gh.write_text('#!/bin/sh\necho "$*" >> asked\ncase "$*" in *--jq*) echo "$FOUND";; esac\n')
    gh.chmod(0o755)
    (tmp_path / "plan.sql").write_text(sql)
    (tmp_path / "plan.md").write_text(run(CI / "plan-comment", tmp_path / "plan.sql").stdout)
    surroundings = {"FOUND": found, "GITHUB_REPOSITORY": "o/r", "NUMBER": "7"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],  # noqa: S607 - as GitHub runs it
        cwd=tmp_path,
        env={**os.environ, **surroundings, "PATH": path},
        check=True,
    )
    _, *changes = (tmp_path / "asked").read_text().splitlines()
    assert changes == ([f"api --silent --method {asked} -F body=@plan.md"] if asked else [])
