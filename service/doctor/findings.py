"""What the doctor has found, and what is to be done about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a finding is to be taken."""

    PASS = "pass"  # noqa: S105 - no password
    # It works, and somebody should see to it.
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Nothing in it is secret, except that `detail` may name hosts and users.

    Attributes:
        group: What it belongs to, such as "database".
        subject: What was looked at; for a database, the setting that names it.
        verdict: How it is.
        told: What was seen, in words.
        advice: What to do; empty for a pass.
        detail: What a driver or the system said about it.
    """

    group: str
    subject: str
    verdict: Verdict
    told: str
    advice: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Findings:
    """Makes the findings of one subject.

    Args:
        group: As of a finding.
        subject: The same.
    """

    group: str
    subject: str

    def passed(self, told: str) -> Finding:
        """All is well."""
        return Finding(group=self.group, subject=self.subject, verdict=Verdict.PASS, told=told)

    def warned(self, told: str, advice: str, detail: str = "") -> Finding:
        """It works, and somebody should see to it."""
        return self._finding(Verdict.WARN, told, advice, detail)

    def failed(self, told: str, advice: str, detail: str = "") -> Finding:
        """It does not work."""
        return self._finding(Verdict.FAIL, told, advice, detail)

    def judged(self, is_well: bool, told: str, advice: str) -> Finding:
        """Passed, or warned of."""
        return self.passed(told) if is_well else self.warned(told, advice)

    def _finding(self, verdict: Verdict, told: str, advice: str, detail: str) -> Finding:
        return Finding(
            group=self.group,
            subject=self.subject,
            verdict=verdict,
            told=told,
            advice=advice,
            detail=detail,
        )


def worst(findings: Sequence[Finding]) -> Verdict:
    """The worst verdict of all."""
    verdicts = {finding.verdict for finding in findings}
    return next((one for one in (Verdict.FAIL, Verdict.WARN) if one in verdicts), Verdict.PASS)
