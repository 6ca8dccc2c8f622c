"""The service with a route that takes connections past admission, and keeps them."""

import threading

from fastapi import FastAPI

from service.database import process
from tests.support import blocking

_released = threading.Event()


def create_app() -> FastAPI:
    """Make the application, with `GET /hold`, `/release` and `/block` beside its own routes."""
    application = blocking.create_app()

    @application.get("/hold")
    def hold() -> None:
        """Keep a connection until they are all released."""
        _released.clear()
        with process.engine.connect():
            _released.wait(timeout=60)

    @application.get("/release")
    async def release() -> None:
        _released.set()

    return application
