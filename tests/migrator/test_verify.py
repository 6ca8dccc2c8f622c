"""What the files of revisions tell, before anything is run."""

import pytest

from service.migrator.errors import ExitCode, UsageError
from service.migrator.lint.findings import Finding
from service.migrator.released import released
from service.migrator.revisions import Revisions
from service.migrator.verify import exit_code, verify
from tests.support.revision_project import RevisionProject, git


def found_in(project: RevisionProject) -> list[Finding]:
    return verify(project.revisions())


def rules(found: list[Finding]) -> list[str]:
    return [finding.rule for finding in found]


def test_shipped_revisions_are_in_order() -> None:
    assert verify(Revisions()) == []
    assert exit_code([]) is ExitCode.DONE


def test_two_heads(project: RevisionProject) -> None:
    first = project.add("pass")
    project.add("pass")
    third = project.add("pass", after=first)
    (finding,) = found_in(project)
    assert "2 heads" in finding.message
    assert finding.path == project.files[third]
    assert finding.line == project.line(third, "down_revision")
    assert exit_code([finding]) == 31


def test_graph_that_hangs_together_in_no_way(project: RevisionProject) -> None:
    project.add("pass")
    project.add("pass", after=None)
    project.add("pass", after="nowhere")
    found = found_in(project)
    assert rules(found) == ["graph", "graph"]
    assert "nowhere" in found[0].message
    assert "follows no revision" in found[1].message
    assert exit_code(found) == 31


def test_circle_and_identifier_used_twice(project: RevisionProject) -> None:
    first = project.add("pass", after="000000000002")
    second = project.add("pass")
    found = found_in(project)
    assert set(rules(found)) >= {"graph"}
    assert exit_code(found) == 31
    project.files[second].write_text(
        project.files[first].read_text().replace("000000000002", "000000000001")
    )
    assert any("as well" in finding.message for finding in found_in(project))


@pytest.mark.parametrize(
    ("body", "rule", "words"),
    [
        ("raise ValueError('no')", "import", "ValueError: no"),
        ("import nowhere_to_be_found", "import", "nowhere_to_be_found"),
        ("phase = (", "import", "SyntaxError"),
        ("", "phase-missing", 'phase = "expand"'),
        ("phase = 'other'", "phase-missing", 'phase = "contract"'),
        ("phase = 'expand'\nirreversible = ' '", "not-reversible", "why there is no way back"),
    ],
)
def test_file_that_is_wrong_is_told_with_its_line(
    project: RevisionProject, body: str, rule: str, words: str
) -> None:
    project.add("pass")
    revision = project.add("pass", head=body)
    (finding,) = found_in(project)
    assert (finding.rule, finding.path) == (rule, project.files[revision])
    assert words in finding.message
    if body:
        lines = project.files[revision].read_text().splitlines()
        assert lines[finding.line - 1].startswith(body.splitlines()[-1][:5])
    assert exit_code([finding]) == 30


def test_way_back_is_written_or_declared_not_to_be(project: RevisionProject) -> None:
    unfinished = project.add("pass", "raise NotImplementedError")
    declared = "phase = 'contract'\nirreversible = 'the rows are gone'"
    project.add("pass", "raise NotImplementedError", head=declared)
    (finding,) = found_in(project)
    assert (finding.rule, finding.path) == ("not-reversible", project.files[unfinished])
    assert finding.line == project.line(unfinished, "def downgrade")


def test_names_tell_date_and_revision(project: RevisionProject) -> None:
    first, second = project.add("pass"), project.add("pass")
    path = project.files[second]
    for name, rule in (
        ("change.py", "file-name"),
        (f"2026_01_02_0900-{first}_change.py", "file-name"),
        (f"2025_12_31_0900-{second}_change.py", "file-date"),
    ):
        path = path.rename(path.with_name(name))
        assert rules(found_in(project)) == [rule]


def test_released_revision_may_not_change(project: RevisionProject) -> None:
    git(project.versions, "init", "--initial-branch=main")
    first, second, third = project.add("pass"), project.add("pass"), project.add("pass")
    git(project.versions, "add", ".")
    git(project.versions, "commit", "-m", "released")
    project.add("pass")
    before = released(project.versions, "main")
    assert set(before) == {project.files[one].name for one in (first, second, third)}
    assert verify(project.revisions(), released=before) == []
    project.files[first].write_bytes(project.files[first].read_bytes().replace(b"\n", b"\r\n"))
    project.files[second].write_text(project.files[second].read_text() + "# more\n")
    found = verify(project.revisions(), released=before)
    assert [(finding.rule, finding.path) for finding in found] == [
        ("edited", project.files[second])
    ]
    assert exit_code(found) == 34
    project.files[third].unlink()
    found = verify(project.revisions(), released=before)
    assert "restore the file" in " ".join(finding.message for finding in found)


def test_reference_that_is_not_there_is_told(project: RevisionProject) -> None:
    git(project.versions, "init")
    for name in ("origin/main", "--output=x"):
        with pytest.raises(UsageError, match=r"--since: .*git fetch"):
            released(project.versions, name)
