"""Rules of data: rows that a revision changes stay locked until it commits."""

import re
from collections.abc import Iterator
from typing import Final

from service.migrator.lint.sql import Work

_CHANGES: Final = re.compile(
    r"(?:WITH .*?\) ?)?(?:UPDATE (?:ONLY )?|DELETE FROM (?:ONLY )?|MERGE INTO (?:ONLY )?"
    r"|INSERT INTO (?=.* SELECT ))([\w$]+(?: ?\. ?[\w$]+)?)"
)
# What says that a statement takes a part of the rows at a time.
_BOUNDS: Final = re.compile(r" LIMIT | FETCH (FIRST|NEXT) | BETWEEN |>.* <|<.* >")


def held_locks(work: Work) -> Iterator[tuple[str, str]]:
    """The rules that a statement which changes rows breaks, with what is wrong with it."""
    changes = _CHANGES.match(work.words)
    if changes is None or work.is_new(changes[1]):
        return
    if work.in_transaction:
        yield (
            "data-in-transaction",
            (
                "changes rows in the transaction of the revision, which keeps them locked until its"
                " end; change them in batches, each in a transaction of its own"
            ),
        )
    elif not (work.is_batched or _BOUNDS.search(work.words)):
        yield (
            "data-not-batched",
            (
                "changes all rows in one statement, which keeps them locked until its end; change"
                " them in batches, by a range of the key or a LIMIT"
            ),
        )
