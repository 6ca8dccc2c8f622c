"""The files of the ops page, and the headers that keep everything else out of it."""

from functools import cache
from importlib import resources
from string import Template
from typing import Final

from fastapi import Response

_CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none';"
    # Text cannot become markup, in browsers that know this.
    " require-trusted-types-for 'script'"
)
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_MEDIA_TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}


@cache
def asset_names() -> frozenset[str]:
    """The files that are served by their names."""
    directory = resources.files(__package__) / "ops"
    return frozenset(one.name for one in directory.iterdir() if not one.name.endswith(".html"))


def asset(name: str, *, status: int = 200, **texts: str) -> Response:
    """Answer with a file of the page.

    Args:
        name: Its name, one that there is.
        status: The HTTP status.
        texts: What to put for the `$names` in an HTML file; they are not escaped, so that they have
            to be texts of our own.
    """
    content = _read(name)
    if texts:
        content = Template(content).substitute(texts)
    media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
    return Response(content, status_code=status, headers=SECURITY_HEADERS, media_type=media_type)


@cache
def _read(name: str) -> str:
    return (resources.files(__package__) / "ops" / name).read_text(encoding="utf-8")
