"""What the runbook of an alert tells to do."""

import re
from pathlib import Path
from typing import Final

RUNBOOKS: Final = Path(__file__).parents[1] / "runbooks"
_SECTION: Final = re.compile(r"^## Mitigation\s*\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_MARKER: Final = re.compile(r"^(?:\d+\.|[-*])\s+")
# The next paragraph, or the next item of a list.
_NEXT: Final = re.compile(r"\n\s*\n|\n(?=(?:\d+\.|[-*])\s)")


def path_of(alert: str) -> Path:
    """Where the runbook of an alert lies."""
    return RUNBOOKS / f"{alert}.md"


def advice(alert: str, about: str) -> str:
    """What the runbook tells to do in one of the cases that it knows.

    Args:
        alert: Whose runbook.
        about: Words of the paragraph or item under "Mitigation" that is meant.

    Returns:
        That paragraph or item, in one line.

    Raises:
        LookupError: There is none with these words.
        OSError: There is no runbook.
    """
    section = _SECTION.search(path_of(alert).read_text(encoding="utf-8"))
    for part in _NEXT.split(section[1].strip()) if section else ():
        text = _MARKER.sub("", " ".join(part.split()))
        if about in text:
            return text
    raise LookupError(f"{path_of(alert).name}: nothing under `## Mitigation` has: {about}")
