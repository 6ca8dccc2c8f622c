"""What the linter says of a revision."""

import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong.

    Args:
        path: The revision's file.
        line: The line in it, from 1.
        rule: The rule's name, by which a revision can ignore it with a reason.
        message: What is wrong, and what to do instead.
    """

    path: Path
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {**asdict(self), "path": str(self.path)}


def line_of(error: BaseException | None, path: Path) -> int:
    """The line of a file that an error went through last, or that does not parse; else 1."""
    if error is None:
        return 1
    stack = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in stack if frame.filename == str(path)]
    line: int | None = getattr(error, "lineno", None) or (lines[-1] if lines else None)
    return line or 1
