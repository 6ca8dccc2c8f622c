"""Examining what the variables of a test describe."""

from collections.abc import Callable

import pytest

from service.doctor.examination import examine
from service.doctor.findings import Finding, Verdict
from tests.support.ports import free_port


class Diagnosis:
    """What the doctor found.

    Args:
        findings: All of it.
    """

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings

    def of(self, group: str, subject: str | None = None) -> list[Finding]:
        """What was found of something."""
        return [
            one for one in self.findings if one.group == group and subject in (None, one.subject)
        ]

    def failures(self) -> dict[str, str]:
        """What failed, and what to do about it."""
        return {one.told: one.advice for one in self.findings if one.verdict is Verdict.FAIL}

    def warnings(self) -> dict[str, str]:
        """What is worth a warning, beside that no worker runs."""
        return {
            one.told: one.advice
            for one in self.findings
            if one.verdict is Verdict.WARN and one.group != "workers"
        }

    def passes(self) -> list[str]:
        """What is well."""
        return [one.told for one in self.findings if one.verdict is Verdict.PASS]


Diagnose = Callable[..., Diagnosis]


@pytest.fixture
def diagnose(monkeypatch: pytest.MonkeyPatch) -> Diagnose:
    """Examine a service of these variables, none of which runs."""

    def examined(
        timeout: float = 10.0, metrics_directory: str | None = None, **variables: str
    ) -> Diagnosis:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return Diagnosis(
            examine(port=free_port(), timeout=timeout, metrics_directory=metrics_directory)
        )

    return examined
