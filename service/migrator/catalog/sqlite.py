"""The catalog of an SQLite database: the statements that made it, as SQLite keeps them.

Only those hold CHECKs, collations and the names of constraints. They are compared piece by piece,
without regard to spaces, comments, quotes that nothing needs, and the order of the pieces.
"""

import re
from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, text

from service.migrator.catalog.things import Thing

_MASTER: Final = text("""
    SELECT type, name, tbl_name, sql FROM sqlite_master
    WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
""")

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?\*/)
    |(?P<text>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\])
    |(?P<word>\w+)
    |(?P<other><>|<=|>=|!=|==|\|\||.)""",
    re.VERBOSE | re.DOTALL,
)
_TABLE_CONSTRAINTS: Final = {"constraint", "primary", "unique", "check", "foreign"}


def things(connection: Connection) -> Iterator[Thing]:
    """Everything in the file."""
    for kind, name, table, sql in connection.execute(_MASTER):
        if kind == "table":
            yield from _table(name, sql)
        else:
            called = name if kind == "view" else f"{table}.{name}"
            yield Thing(kind, called, table, {"definition": " ".join(_tokens(sql))})


def _table(name: str, sql: str) -> Iterator[Thing]:
    tokens = [*_tokens(sql)]
    if "virtual" in tokens[:2]:
        yield Thing("table", name, name, {"definition": " ".join(tokens)})
        return
    pieces, options = _pieces(tokens[tokens.index("(") + 1 :])
    yield Thing("table", name, name, {"options": " ".join(options)} if options else {})
    for first, *rest in pieces:
        if first not in _TABLE_CONSTRAINTS:
            yield Thing("column", f"{name}.{first}", name, {"definition": " ".join(rest)})
        elif first == "constraint":
            definition = {"definition": " ".join(rest[1:])}
            yield Thing("constraint", f"{name}.{rest[0]}", name, definition)
        else:
            yield Thing("constraint", f"{name}.{' '.join([first, *rest])}", name, {})


def _pieces(tokens: list[str]) -> tuple[list[list[str]], list[str]]:
    """Split at the commas of the outermost level; returns the pieces and what is behind them."""
    pieces: list[list[str]] = [[]]
    depth = 0
    for position, word in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(word, 0)
        if depth < 0:
            return pieces, tokens[position + 1 :]
        if word == "," and depth == 0:
            pieces.append([])
        else:
            pieces[-1].append(word)
    return pieces, []


def _tokens(sql: str) -> Iterator[str]:
    for match in _TOKEN.finditer(sql):
        value = match.group()
        if match.lastgroup == "quoted" and re.fullmatch(r"\w+", value[1:-1]):
            value = value[1:-1]
        if match.lastgroup != "space":
            yield value if match.lastgroup == "text" else value.lower()
