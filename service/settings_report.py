"""Which settings are in force and where each came from, without a secret among them."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from sqlalchemy.engine import URL, make_url

from service.database.layered_settings import (
    ENV_FILE,
    LayeredSettings,
    environment_variables,
    is_group,
    mounted_secrets,
    variable_name,
)
from service.database.urls import UnsupportedUrlError
from service.settings import Settings

MASK: Final = "***"
_DEFAULT: Final = "default"
# What a URL's query may say without giving anything away.
_HARMLESS: Final = frozenset({
    "sslmode", "ssl", "host", "port", "target_session_attrs", "connect_timeout", "mode", "uri",
    "application_name", "unix_socket", "charset", "keepalives", "keepalives_idle",
    "keepalives_interval", "keepalives_count", "timeout", "read_timeout", "write_timeout",
    "tcp_user_timeout", "program_name",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SettingReport:
    """One setting.

    Attributes:
        name: The variable that sets it.
        value: What is in force; a secret is masked, and None is "nothing is set, nothing follows".
        unit: Of a number: "s" or none.
        source: "variable", "file PATH", ".env", "default", or "follows NAME" where it is not set
            and another setting says what it is.
        allowed: What it may be, in words; empty for free text.
    """

    name: str
    value: str | int | float | bool | None
    unit: str
    source: str
    allowed: str

    @property
    def is_set(self) -> bool:
        """Whether somebody has set it."""
        return self.source != _DEFAULT and not self.source.startswith("follows ")


def report_settings(settings: Settings, *further: LayeredSettings) -> list[SettingReport]:
    """Every setting, those of the database after the service's own.

    Args:
        settings: As they were loaded, in the surroundings of now.
        further: Settings of other commands, which come last.
    """
    sources = _Sources()
    followed = _followed(settings)
    groups: tuple[LayeredSettings, ...] = (settings, settings.database, *further)
    found: dict[str, SettingReport] = {}
    for group in groups:
        for field_name, field in type(group).model_fields.items():
            if is_group(field):
                continue
            name = variable_name(type(group), field_name)
            value, source = getattr(group, field_name), sources.of(name)
            if source == _DEFAULT and name in followed:
                value, source = followed[name]
            found[name] = SettingReport(
                name=name,
                value=_shown(name, value),
                unit="s" if float in _types(field) else "",
                source=source,
                allowed=_allowed(field),
            )
    return [*found.values()]


class _Sources:
    def __init__(self) -> None:
        self._present = environment_variables()
        self._mounted = mounted_secrets()
        self._own = {name.upper() for name, value in os.environ.items() if value}

    def of(self, name: str) -> str:
        """In the order in which the settings themselves look."""
        if path := self._present.get(f"{name}_FILE"):
            return f"file {path}"
        if name in self._mounted:
            return f"file {self._mounted[name]}"
        if name in self._own:
            return "variable"
        return str(ENV_FILE) if self._present.get(name) else _DEFAULT


def _followed(settings: Settings) -> Mapping[str, tuple[Any, str]]:
    """What is in force where a setting is not set, and which other says so."""
    database = settings.database
    try:
        asyncio_url: URL | None = database.asyncio_url
    except UnsupportedUrlError:
        # Of no matter until something asks for it; `tidegate doctor` tells.
        asyncio_url = None
    return {
        "LOG_FORMAT": (settings.log_format, "follows ENVIRONMENT"),
        "DRAIN_SECONDS": (settings.drain_seconds, "follows ENVIRONMENT"),
        "ADMISSION_LIMIT": (settings.admitted_requests, "follows DATABASE_POOL_SIZE"),
        "ADMISSION_QUEUE": (settings.queued_requests, "follows ADMISSION_LIMIT"),
        "DATABASE_URL": (database.sync_url, _DEFAULT),
        "DATABASE_URL_ASYNC": (asyncio_url, "follows DATABASE_URL"),
        "MIGRATE_DATABASE_URL": (database.migration_url, "follows DATABASE_URL"),
        "DATABASE_CURSOR_KEY": (SecretStr(MASK), "follows DATABASE_URL"),
    }


def _shown(name: str, value: Any) -> str | int | float | bool | None:
    if isinstance(value, SecretStr):
        # Of a Pushgateway's it is not known here where a password would end.
        is_database = "URL" in name and name != "MIGRATE_PUSHGATEWAY_URL"
        return masked_url(make_url(value.get_secret_value())) if is_database else MASK
    if isinstance(value, URL):
        return masked_url(value)
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, str | int | float | bool) else None


def masked_url(url: URL) -> str:
    """A URL without its password, and without what its query may hide.

    Args:
        url: A database's.
    """
    query = {key: text if key in _HARMLESS else MASK for key, text in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def secrets_of(url: URL) -> list[str]:
    """What `masked_url` leaves out of a URL, to be left out of a driver's message, too.

    Args:
        url: A database's.
    """
    hidden = (value for key, value in url.query.items() if key not in _HARMLESS)
    # A name may be there several times.
    values = [one for value in hidden for one in (value if isinstance(value, tuple) else (value,))]
    return [str(value) for value in (url.password, *values) if value]


def _types(field: FieldInfo) -> tuple[Any, ...]:
    annotation = field.annotation
    if get_origin(annotation) in (Union, UnionType):
        return get_args(annotation)
    return (annotation,)


def _allowed(field: FieldInfo) -> str:
    for kind in _types(field):
        if get_origin(kind) is Literal:
            return " | ".join(map(str, get_args(kind)))
        if kind is bool:
            return "true | false"
    return _bounds([*field.metadata, *_nested(field)])


def _nested(field: FieldInfo) -> Iterable[Any]:
    """The constraints of a setting that may also be left out."""
    for kind in _types(field):
        for extra in getattr(kind, "__metadata__", ()):
            yield from getattr(extra, "metadata", (extra,))


def _bounds(constraints: Iterable[Any]) -> str:
    words = []
    for attribute, word in (("gt", "above"), ("ge", "from"), ("lt", "below"), ("le", "to")):
        bounds = (getattr(one, attribute, None) for one in constraints)
        words += [f"{word} {bound:g}" for bound in bounds if bound is not None]
    return " ".join(words)
