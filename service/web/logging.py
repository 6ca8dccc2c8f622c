"""Structured logs: JSON for machines, colours for people, and no secret in either."""

import json
import logging
import logging.config
import re
import sys
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.settings import Settings

# user:password@ in a URL, wherever a driver or a library may have printed one.
_URL_PASSWORD: Final = re.compile(r"(?P<scheme>\w[\w+.-]*://[^\s:/@]*):[^\s@]*@")
_MASK: Final = "***"
_MASKED: Final = rf"\g<scheme>:{_MASK}@"


class SecretMask:
    """A processor that replaces secrets in every text of a log line.

    Args:
        secrets: The secrets to look for, besides passwords in URLs.
    """

    def __init__(self, secrets: set[str]) -> None:
        self._secrets = sorted(secrets, key=len, reverse=True)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Mask one line."""
        del logger, method
        return {key: self._mask(value) for key, value in event.items()}

    def _mask(self, value: Any) -> Any:
        if isinstance(value, str):
            # Most texts are short and hold no URL, for which the pattern would look in vain.
            masked = _URL_PASSWORD.sub(_MASKED, value) if "://" in value else value
            for secret in self._secrets:
                masked = masked.replace(secret, _MASK)
            return masked
        if isinstance(value, dict):
            return {key: self._mask(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._mask(item) for item in value]
        return value


class MaskedJson:
    """A last processor that makes a line of JSON, without secrets.

    Args:
        secrets: As for `SecretMask`.
    """

    def __init__(self, secrets: set[str]) -> None:
        self._mask = SecretMask(secrets)
        # As they stand in JSON.
        self._secrets = ("://", *(json.dumps(secret)[1:-1] for secret in secrets))
        # The library's own renderer makes an encoder for each line, which takes as long again.
        self._encode = json.JSONEncoder(default=str).encode

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        """Render one line."""
        line = self._encode(event)
        # Hardly any line holds one, and to look through its values takes longer.
        if any(secret in line for secret in self._secrets):
            return self._encode(self._mask(logger, method, event))
        return line


def logging_config(settings: Settings) -> dict[str, Any]:
    """The `dictConfig` that sends every logger of the process to standard output."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _drop_uvicorn_colours,
    ]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "structured": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": shared,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *_renderers(settings),
                ],
            }
        },
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "structured",
            }
        },
        "root": {"handlers": ["stdout"], "level": settings.log_level},
        "loggers": {
            # One line a request is ours (`RequestMiddleware`); the servers' own would be a second.
            "uvicorn.access": {"level": "WARNING", "propagate": True, "handlers": []},
            "uvicorn": {"propagate": True, "handlers": []},
            "uvicorn.error": {"propagate": True, "handlers": []},
            "gunicorn.error": {"propagate": True, "handlers": []},
            "watchfiles.main": {"level": "WARNING"},
            # SQLAlchemy's pools tell every step; by their module's name ours would be heard.
            "service.database.pool": {"level": "WARNING"},
            # It tells its dialect on each look at a revision, which the health check does.
            "alembic": {"level": "WARNING"},
        },
    }


def configure_logging(settings: Settings) -> None:
    """Set up structlog and the standard library's logging for the process."""
    logging.config.dictConfig(logging_config(settings))
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def access_log(settings: Settings) -> Any:
    """The logger of the line that each request leaves.

    For machines it writes to standard output by itself: on the way through the standard library a
    line takes 90 us of CPU, a fifth of what a read does.
    """
    name = "service.access"
    if settings.log_format != "json":
        return structlog.stdlib.get_logger(name)
    level = logging.getLevelNamesMapping()[settings.log_level]
    return structlog.wrap_logger(
        structlog.WriteLogger(sys.stdout),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("message"),
            MaskedJson(_secrets(settings)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    ).bind(logger=name)


def _drop_uvicorn_colours(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Drop uvicorn's second copy of each message, with terminal codes in it."""
    del logger, method
    event.pop("color_message", None)
    return event


def _renderers(settings: Settings) -> list[Processor]:
    if settings.log_format == "json":
        return [
            # Without local variables: those may hold secrets and personal data.
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.EventRenamer("message"),
            MaskedJson(_secrets(settings)),
        ]
    return [
        structlog.processors.format_exc_info,
        SecretMask(_secrets(settings)),
        structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty()),
    ]


def _secrets(settings: Settings) -> set[str]:
    database = settings.database
    urls = [database.sync_url, database.migration_url]
    if database.url_async is not None:
        urls.append(database.asyncio_url)
    if (replica := database.replica_sync_url) is not None:
        urls.append(replica)
    passwords = {str(url.password) for url in urls if url.password}
    others = (settings.ops_token, database.cursor_key)
    return passwords | {secret.get_secret_value() for secret in others if secret is not None}
