"""The same answers by nothing but ASGI, asyncpg and orjson: the most that Python can do here."""

import os
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped] # it has no types
import orjson
from starlette.types import Message, Receive, Scope, Send

CONNECTIONS: Final = 10

_COLUMNS: Final = "id, code, name, description, price, created_at, updated_at"
_GET: Final = f"SELECT {_COLUMNS} FROM products WHERE id = $1"  # noqa: S608 - constants
_LIST: Final = f"SELECT {_COLUMNS} FROM products ORDER BY id LIMIT 50"  # noqa: S608 - the same
_CREATE: Final = (
    "INSERT INTO products (code, name, description, price) VALUES ($1, $2, $3, $4)"  # noqa: S608
    f" RETURNING {_COLUMNS}"
)
_HEADERS: Final = [(b"content-type", b"application/json")]


class App:
    """An ASGI application with a pool."""

    def __init__(self) -> None:
        self.pool: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or open and close the pool."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["method"] == "POST":
            row = await self.pool.fetchrow(_CREATE, *await _product(receive))
            await _answer(send, 201, dict(row))
        elif scope["path"] == "/products":
            rows = await self.pool.fetch(_LIST)
            await _answer(send, 200, {"items": [dict(row) for row in rows]})
        else:
            row = await self.pool.fetchrow(_GET, int(scope["path"].rpartition("/")[2]))
            await _answer(send, 200 if row else 404, dict(row or {}))

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self.pool = await asyncpg.create_pool(
            os.environ["DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.pool.close()
        await send({"type": "lifespan.shutdown.complete"})


async def _product(receive: Receive) -> tuple[Any, ...]:
    body = b""
    message: Message = {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    given = orjson.loads(body)
    return given["code"], given["name"], given.get("description"), given["price"]


async def _answer(send: Send, status: int, content: object) -> None:
    body = orjson.dumps(content, default=str)
    length = (b"content-length", str(len(body)).encode())
    start = {"type": "http.response.start", "status": status, "headers": [*_HEADERS, length]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


app = App()
