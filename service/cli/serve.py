"""`tidegate serve`: run the service."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from service.settings import Settings

_ROOT: Final = Path(__file__).resolve().parents[2]


def serve() -> None:
    """Serve: with reload in development, otherwise under gunicorn.

    Only in development is the schema changed: elsewhere that is for `tidegate migrate up`.
    """
    from service.settings import load_settings

    settings = load_settings()
    if settings.environment == "development":
        _serve_for_development(settings)
    else:
        # The image holds it in its working directory, a checkout beside the package.
        places = (Path.cwd(), _ROOT)
        names = [place / "deploy" / "gunicorn.conf.py" for place in places]
        configuration = next((name for name in names if name.is_file()), None)
        if configuration is None:
            typer.echo(f"tidegate: there is no {' and no '.join(map(str, names))}", err=True)
            raise typer.Exit(2)
        gunicorn = [sys.executable, "-m", "gunicorn", "--config", str(configuration)]
        os.execv(sys.executable, gunicorn)  # noqa: S606 - in our place, so that signals reach it


def _serve_for_development(settings: "Settings") -> None:
    import uvicorn

    from service.database.urls import is_memory
    from service.migrator import runner
    from service.migrator.events import Events, text_sink
    from service.web.logging import configure_logging

    configure_logging(settings)
    if not is_memory(settings.database.sync_url):
        runner.up(settings.database, wait=10, events=Events(text_sink(typer.echo)))
    address = f"http://{settings.host}:{settings.port}"
    typer.echo(f"products  {address}/products")
    typer.echo(f"docs      {address}/docs")
    typer.echo(f"metrics   {address}/metrics")
    uvicorn.run(
        "service.app:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        reload=True,
        reload_dirs=[str(_ROOT / "service")],
        access_log=False,
        log_config=None,
    )
