"""Which service on this machine is meant."""

import os

import typer

_DEFAULT = "8000"


def service_port() -> int:
    """The port of the service: `PORT`, of the variables or `.env`.

    The other settings are not read: one that is wrong must not keep an operator out, and to load
    the kit for it takes as long as all the rest.

    Raises:
        typer.BadParameter: It is no number.
    """
    from dotenv import dotenv_values

    text = os.environ.get("PORT") or dotenv_values(".env").get("PORT") or _DEFAULT
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter("PORT is no number; set it to the service's port") from None
