"""What each driver is told when it opens a connection: times, a name, the session's parameters."""

from typing import Any, Final

from sqlalchemy.engine import URL

from service.database.deadline_drivers import LIBPQ_SHORTEST
from service.database.network_loss import SESSION_PARAMETERS
from service.database.settings import DatabaseSettings
from service.database.sqlite import BUSY_SECONDS
from service.database.urls import url_timeout

APPLICATION_NAME: Final = "tidegate"
# How often PostgreSQL (14 or newer) looks whether the client of a running query is still there: a
# query that was cut off goes on for no longer.
_CONNECTION_CHECK_MILLISECONDS: Final = 1000


def driver_arguments(url: URL, settings: DatabaseSettings) -> dict[str, Any]:
    """The driver's arguments that carry the settings; what the URL itself says stays so."""
    match url.drivername:
        case "postgresql+psycopg2":
            ours = {
                "connect_timeout": libpq_seconds(settings.connect_timeout),
                "application_name": APPLICATION_NAME,
                # The default is the server's encoding, which an old database may have as ASCII.
                "client_encoding": "utf8",
            }
            parameters = _session_parameters(settings)
            options = " ".join(
                [
                    *(f"-c {name}={value}" for name, value in parameters.items()),
                    str(url.query.get("options", "")),
                ]
            )
            # What the URL says is meant: hosted servers tell their tenants apart by `options`.
            return {
                **{name: value for name, value in ours.items() if name not in url.query},
                "options": options.strip(),
            }
        case "postgresql+asyncpg":
            return {
                "timeout": url_timeout(url, settings.connect_timeout),
                "server_settings": {
                    "application_name": APPLICATION_NAME,
                    **_session_parameters(settings),
                },
            }
        case "mariadb+pymysql" | "mariadb+aiomysql":
            # With its driver it takes 3 MB, which no other database needs.
            from service.database.mariadb import connect_arguments  # noqa: PLC0415

            ours = connect_arguments(
                connect_timeout=settings.connect_timeout,
                statement_timeout=settings.statement_timeout,
                name=APPLICATION_NAME,
            )
            return {name: value for name, value in ours.items() if name not in url.query}
        case _:
            # Its connections go from thread to thread, whatever the URL says.
            return {"timeout": url_timeout(url, BUSY_SECONDS), "check_same_thread": False}


def libpq_seconds(seconds: float) -> int:
    """A time as libpq takes it."""
    return max(LIBPQ_SHORTEST, round(seconds))


def _session_parameters(settings: DatabaseSettings) -> dict[str, str]:
    """What each session of PostgreSQL is told when it begins."""
    return {
        # It takes 0 for no limit at all.
        "statement_timeout": str(max(1, round(settings.statement_timeout * 1000))),
        "client_connection_check_interval": str(_CONNECTION_CHECK_MILLISECONDS),
        **SESSION_PARAMETERS,
    }
