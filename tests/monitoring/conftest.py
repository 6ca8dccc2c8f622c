"""What the tests of the alerts measure, shown at the end of the run."""

import pytest

# The name of a property of a test's report, which reaches the process that shows the summary.
ROW = "alert"
_COLUMNS = "| cause | alert | fired after (s) | resolved after (s) |\n|---|---|---|---|"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of docs/alerts.md."""
    reports = terminalreporter.getreports("passed")
    rows = [str(value) for r in reports for name, value in r.user_properties if name == ROW]
    if rows:
        terminalreporter.section("alerts, measured")
        terminalreporter.write_line("\n".join([_COLUMNS, *rows]))
