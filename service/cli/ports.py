"""Which service on this machine is meant."""

import typer

from service.port import configured_port


def service_port() -> int:
    """The port of the service: `PORT`, of the variables or `.env`.

    Raises:
        typer.BadParameter: It is no number.
    """
    try:
        return int(configured_port())
    except ValueError:
        raise typer.BadParameter("PORT is no number; set it to the service's port") from None
