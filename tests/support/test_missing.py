"""That what is missing is a visible skip on a developer's machine, and a failure in CI."""

import pytest

pytest_plugins = ["pytester"]

IN_A_TEST = """
from tests.support.missing import missing
def test_part():
    missing("needs a walrus")
"""
AT_IMPORT = """
from tests.support.missing import missing
missing("needs a walrus")
def test_part():
    pass
"""


@pytest.mark.parametrize("module", [IN_A_TEST, AT_IMPORT], ids=["in a test", "at import"])
def test_part_that_is_missing_is_skipped_with_its_reason(
    module: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    pytester.makepyfile(module)
    result = pytester.runpytest("-rs")
    assert result.parseoutcomes() == {"skipped": 1}
    result.stdout.fnmatch_lines(["SKIPPED*needs a walrus"])


@pytest.mark.parametrize(
    ("module", "outcome"),
    [(IN_A_TEST, "failed"), (AT_IMPORT, "errors")],
    ids=["in a test", "at import"],
)
def test_part_that_is_missing_in_ci_is_a_failure(
    module: str, outcome: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile(module)
    result = pytester.runpytest()
    assert result.parseoutcomes() == {outcome: 1}
    result.stdout.fnmatch_lines(["*needs a walrus*"])
