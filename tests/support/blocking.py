"""The service with a route that does what none may: it never gives the event loop back."""

import re

from fastapi import FastAPI

from service import app


def create_app() -> FastAPI:
    """Make the application, with `GET /block` beside its own routes."""
    application = app.create_app()

    @application.get("/block")
    async def block() -> None:
        # In C and with the interpreter's lock: no other thread of the process runs either.
        re.match(r"(a+)+$", "a" * 64 + "b")

    return application
