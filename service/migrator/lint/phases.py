"""Rules of phases: what an expand revision may not do, because the former release still runs."""

import re
from collections.abc import Iterator
from typing import Final

from service.migrator.lint.sql import Work, actions, named

_TABLES: Final = "TABLE|VIEW|MATERIALIZED VIEW|FOREIGN TABLE"
_OBJECTS: Final = "FUNCTION|PROCEDURE|AGGREGATE|SEQUENCE|TYPE|DOMAIN|SCHEMA|EXTENSION"
_RENAMED: Final = "VIEW|MATERIALIZED VIEW|SEQUENCE|TYPE|DOMAIN|FUNCTION|PROCEDURE|SCHEMA"
# What is done to a table, by its first words; the first that fits counts.
_ACTIONS: Final = (
    (re.compile(r"DROP CONSTRAINT"), "contract-drop-constraint", "drops a constraint"),
    (re.compile(r"DROP "), "contract-drop-column", "drops a column"),
    (re.compile(r"RENAME |SET SCHEMA"), "contract-rename", "renames what the former release uses"),
    (
        re.compile(r"ALTER (COLUMN )?\S+ (SET DATA )?TYPE"),
        "contract-type-change",
        "changes a column's type",
    ),
    (
        re.compile(r"ALTER (COLUMN )?\S+ SET NOT NULL"),
        "contract-not-null",
        "forbids NULL, which the former release may write",
    ),
    (
        re.compile(r"ALTER (COLUMN )?\S+ DROP DEFAULT"),
        "contract-drop-default",
        "drops a default, which the former release may leave the value to",
    ),
)


def contract_work(work: Work) -> Iterator[tuple[str, str]]:
    """The rules that a statement of an expand revision breaks, with what it does."""
    table, done = actions(work.words)
    if not work.is_new(table):
        yield from filter(None, map(_rule_of, done))
    if (name := named(_TABLES, work.words)) and not work.is_new(name):
        yield "contract-drop-table", "drops a table or view"
    if (name := named(_OBJECTS, work.words)) and not work.is_new(name):
        yield "contract-drop-object", "drops what the former release may use"
    if (name := named(_RENAMED, work.words, "ALTER")) and not work.is_new(name):
        if re.search(r" (RENAME|SET SCHEMA) ", work.words):
            yield "contract-rename", "renames what the former release uses"
        if " DROP ATTRIBUTE " in work.words:
            yield "contract-drop-column", "drops an attribute of a type"
    emptied = re.match(r"TRUNCATE (?:TABLE )?(?:ONLY )?(\S+)", work.words)
    if emptied and not work.is_new(emptied[1]):
        yield "contract-truncate", "empties a table"


def _rule_of(action: str) -> tuple[str, str] | None:
    return next(((rule, what) for words, rule, what in _ACTIONS if words.match(action)), None)
