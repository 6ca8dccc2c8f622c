"""SQL as the rules read it: one statement each, in capitals, without literals and comments."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from service.migrator.source_lines import Statement

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?\*/)
    |(?P<text>[eEnN]?'(?:[^']|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<quoted>"(?:[^"]|"")*")
    |(?P<word>[\w$]+)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
# What `backfill()` writes before a statement that it would run for one batch after the other.
_BATCHES: Final = "-- In batches of "
_NAME: Final = r"(?:IF (?:NOT )?EXISTS )?(?:ONLY )?([\w$]+(?: ?\. ?[\w$]+)?)"
_CREATES: Final = re.compile(
    r"CREATE (?:OR REPLACE )?(?:UNLOGGED |TEMP(?:ORARY)? |MATERIALIZED )?"
    rf"(?:TABLE|VIEW|TYPE|DOMAIN|SEQUENCE|SCHEMA|FUNCTION|PROCEDURE) {_NAME}"
)


@dataclass(frozen=True, slots=True)
class Work:
    """One statement of a revision's own.

    Args:
        words: Its words in capitals, with one space between them; a literal is `''`.
        line: The line of the revision's file.
        in_transaction: Whether it runs in one with others.
        created: What the revision has made before.
        is_batched: Whether what is written here once is done in batches, by `backfill()`.
    """

    words: str
    line: int
    in_transaction: bool
    created: frozenset[str]
    is_batched: bool = False

    def is_new(self, name: str) -> bool:
        """Whether the revision itself made what is called so: nobody uses it yet."""
        return name.replace(" ", "") in self.created


def work_of(statements: tuple[Statement, ...]) -> Iterator[Work]:
    """The statements that the revision asks for, without those that Alembic adds."""
    in_transaction = False
    is_batched = False
    created: frozenset[str] = frozenset()
    for statement in statements:
        if statement.sql.startswith("--"):
            is_batched = statement.sql.startswith(_BATCHES)
            continue
        for words in _split(statement.sql):
            if words in ("BEGIN", "COMMIT"):
                in_transaction = words == "BEGIN"
            elif statement.line is not None:
                yield Work(words, statement.line, in_transaction, created, is_batched)
                if made := _CREATES.match(words):
                    created |= {made[1].replace(" ", "")}
        is_batched = False


def actions(words: str) -> tuple[str, list[str]]:
    """The table of an ALTER TABLE and what is done to it; nothing for other statements."""
    match = re.match(rf"ALTER (?:FOREIGN )?TABLE {_NAME} (.*)", words)
    return (match[1], [*_at_commas(match[2])]) if match else ("", [])


def named(kinds: str, words: str, verb: str = "DROP") -> str | None:
    """What a statement like DROP TABLE names, if it is one of these kinds (a pattern)."""
    match = re.match(rf"{verb} (?:{kinds}) {_NAME}", words)
    return match[1] if match else None


def _at_commas(words: str) -> Iterator[str]:
    depth, start = 0, 0
    for position, letter in enumerate(words):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            yield words[start:position].strip()
            start = position + 1
    yield words[start:].strip()


def _split(sql: str) -> Iterator[str]:
    words: list[str] = []
    for match in _TOKEN.finditer(sql):
        value, kind = match.group(), match.lastgroup
        if kind == "space":
            continue
        if value == ";":
            yield " ".join(words)
            words = []
        elif match["text"] is not None:
            words.append("''")
        elif kind == "quoted":
            words.append(re.sub(r"\W", "_", value[1:-1]).upper())
        else:
            words.append(value.upper())
    if words:
        yield " ".join(words)
