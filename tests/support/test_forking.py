"""That what fails in a forked child fails the test."""

import pytest

from tests.support.forking import in_child


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_failure_of_the_child_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert in_child(lambda: 42) == 42
    with pytest.raises(AssertionError, match="in the child failed"):
        in_child(lambda: 1 / 0)
    assert "ZeroDivisionError" in capfd.readouterr().err
