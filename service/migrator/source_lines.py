"""Which line of a revision's file each of its statements comes from."""

import io
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a revision.

    Args:
        sql: As it would be sent.
        line: The line of the revision's file that asks for it, from 1; None for those of
            Alembic's own.
    """

    sql: str
    line: int | None


class StatementBuffer(io.StringIO):
    """What Alembic writes its SQL to; it keeps apart what comes by each call.

    Alembic writes a statement while the operation that makes it is still running, so that the
    revision's own function is on the stack, with the line that it has come to.

    Args:
        path: The revision's file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self.statements: list[Statement] = []

    def write(self, text: str, /) -> int:
        """Note a statement with where it comes from."""
        self.statements.append(Statement(text.strip(), self._line()))
        return super().write(text)

    def _line(self) -> int | None:
        frame = sys._getframe(2)  # noqa: SLF001 - nothing public walks the stack without its sources
        while frame.f_code.co_filename != self._path:
            if frame.f_back is None:
                return None
            frame = frame.f_back
        return frame.f_lineno
