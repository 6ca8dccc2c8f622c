"""Which port the service listens on, told without loading its settings."""

import os
from pathlib import Path
from typing import Final

DEFAULT_PORT: Final = 8000
# As of the settings.
_ENV_FILE: Final = Path(".env")


def configured_port() -> str:
    """What `PORT` says, of the variables or of `.env`; else the default.

    The other settings are not read: one that is wrong must not keep an operator out, and to load
    them takes longer than to ask the service.
    """
    if given := os.environ.get("PORT"):
        return given
    found = None
    if _ENV_FILE.is_file():
        # Only where it is needed: to load this, too, takes its time.
        from dotenv import dotenv_values  # noqa: PLC0415 - as said

        found = dotenv_values(_ENV_FILE).get("PORT")
    return found or str(DEFAULT_PORT)
