"""Measurements that the tests of the deployment make, shown at the end of the run."""

from collections.abc import Callable

import pytest

Measured = Callable[[str], None]

_LINES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def measured(pytestconfig: pytest.Config) -> Measured:
    """Records a line for the end of the report."""
    return pytestconfig.stash.setdefault(_LINES, []).append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what was measured: a bound that holds says little about how far it is away."""
    if lines := config.stash.get(_LINES, []):
        terminalreporter.section("deployment, measured")
        for line in lines:
            terminalreporter.write_line(line)
