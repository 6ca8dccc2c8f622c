"""Conditional requests (RFC 9110, section 13): ETag, If-Match, If-None-Match.

An entity tag is the version of the row, in quotes: it changes with each change of the row.
"""

import re
from typing import Annotated, Final

from fastapi import Header
from starlette.requests import Request

_TAG: Final = re.compile(r'(W/)?"([^"]*)"')
_ANY: Final = "*"

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=1000,
        description="The `ETag` that was last seen: if it has changed meanwhile, 412.",
    ),
]
# For the route's description. To have FastAPI read the header would cost each read 30 us.
IF_NONE_MATCH: Final = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "The `ETag` of what the client has: if it is the same still, 304.",
}


def entity_tag(version: int) -> str:
    """The tag of a version of a row."""
    return f'"{version}"'


def expected_versions(if_match: str | None) -> frozenset[str] | None:
    """Which versions of a row a request is meant for.

    Args:
        if_match: The value of `If-Match`.

    Returns:
        The versions, compared as text; None when every one will do. A weak tag matches nothing.
    """
    if if_match is None or if_match.strip() == _ANY:
        return None
    return frozenset(tag for weak, tag in _TAG.findall(if_match) if not weak)


def is_known(version: int, request: Request) -> bool:
    """Whether a client has this version of a row already, by its `If-None-Match`.

    Args:
        version: The row's.
        request: The client's.
    """
    if_none_match = request.headers.get("if-none-match")
    if if_none_match is None:
        return False
    tags = {tag for _, tag in _TAG.findall(if_none_match)}
    return if_none_match.strip() == _ANY or str(version) in tags
