"""Settings and where they come from: arguments, files that hold secrets, variables, `.env`."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from dotenv import dotenv_values
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

Seconds = Annotated[float, Field(gt=0, le=86_400)]
# 0 turns off what the time is for.
SecondsOrOff = Annotated[float, Field(ge=0, le=86_400)]

SECRETS_DIRECTORY = Path("/run/secrets")
ENV_FILE = Path(".env")

# Kubernetes announces each Service to every pod by variables of these forms, and one may well be
# called "database", or "database-rw".
_SERVICE_LINK = re.compile(
    r"DATABASE_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)\w*)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class SettingsError(ValueError):
    """The surroundings hold a value that the service cannot start with.

    Its text is one line that names the setting and says what to change; it never holds the value.
    """


class FilesSource(EnvSettingsSource):
    """Reads `NAME_FILE=path`, as the Docker official images do, and the secrets directory."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        paths = environment_variables()
        mounted = mounted_secrets()
        values: dict[str, str | None] = {}
        for name in variable_names(self.settings_cls):
            if path := paths.get(f"{name}_FILE"):
                values[name.lower()] = read_secret(f"{name}_FILE: the file it names", Path(path))
            elif name in mounted:
                values[name.lower()] = read_secret(str(mounted[name]), mounted[name])
        return values


class LayeredSettings(BaseSettings):
    """Settings read from, in falling order: arguments, files, variables, `.env`, defaults."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        validate_default=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put files before variables: whoever mounts a file means it."""
        del file_secret_settings
        return init_settings, FilesSource(settings_cls), env_settings, dotenv_settings

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings.

        Args:
            overrides: Values that win over every source, by field name.

        Raises:
            SettingsError: A value is wrong or missing; the text is one line.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError(one_line(error, cls)) from None


def variable_names(settings_cls: type[BaseSettings]) -> set[str]:
    """The variables that a settings class reads, in upper case; a group within it has its own."""
    return {
        variable_name(settings_cls, name)
        for name, field in settings_cls.model_fields.items()
        if not is_group(field)
    }


def is_group(field: FieldInfo) -> bool:
    """Whether a field holds settings that are read by themselves."""
    kind = field.annotation
    return isinstance(kind, type) and issubclass(kind, LayeredSettings)


def variable_name(settings_cls: type[BaseSettings], field_name: str) -> str:
    """The variable that sets a field, in upper case."""
    field = settings_cls.model_fields[field_name]
    prefix = settings_cls.model_config.get("env_prefix", "")
    return str(field.validation_alias or f"{prefix}{field_name}").upper()


def environment_variables() -> dict[str, str]:
    """The process's variables over those of `.env`, names in upper case.

    An empty one hides nothing, as the settings take it for none.

    Raises:
        SettingsError: `.env` cannot be read.
    """
    try:
        from_file = dotenv_values(ENV_FILE) if ENV_FILE.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(str(ENV_FILE), error) from None
    merged = {name.upper(): value or "" for name, value in from_file.items()}
    for name, value in os.environ.items():
        merged[name.upper()] = value or merged.get(name.upper(), "")
    return merged


def mounted_secrets() -> dict[str, Path]:
    """The files of the secrets directory, by the names of the settings that they would hold."""
    entries = SECRETS_DIRECTORY.iterdir() if SECRETS_DIRECTORY.is_dir() else ()
    return {entry.name.upper(): entry for entry in entries if entry.is_file()}


def read_secret(subject: str, path: Path) -> str:
    """The text of a file, without its last line break.

    Args:
        subject: What to call it in the error.
        path: Where it lies.

    Raises:
        SettingsError: The file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(subject, error) from None


def refuse_unknown_names(present: Iterable[str], known: set[str]) -> None:
    """Refuse `DATABASE_*` names that no setting has: a typo would silently mean the default.

    Raises:
        SettingsError: Names the first unknown one, and the nearest known name.
    """
    for name in sorted(present):
        plain = name.removesuffix("_FILE")
        if not name.startswith("DATABASE_") or plain in known:
            continue
        nearest = difflib.get_close_matches(plain, known, n=1, cutoff=0.0)
        raise SettingsError(f"{name}: no such setting; did you mean {nearest[0]}?")


def one_line(error: ValidationError, settings_cls: type[BaseSettings]) -> str:
    """Every complaint of a validation, in one line, without any value."""
    return "; ".join(_complaint(item["loc"], item["msg"], settings_cls) for item in error.errors())


def _complaint(loc: tuple[int | str, ...], message: str, settings_cls: type[BaseSettings]) -> str:
    text = message.removeprefix("Value error, ")
    if not loc:
        return text
    field_name = str(loc[0])
    is_field = field_name in settings_cls.model_fields
    name = variable_name(settings_cls, field_name) if is_field else field_name.upper()
    return f"{name}: {text[:1].lower()}{text[1:]}"


def present_names() -> set[str]:
    """What is set, in upper case, but for what Kubernetes sets by itself."""
    variables = environment_variables().items()
    return {name for name, value in variables if not _is_service_link(name, value)} | {
        *mounted_secrets()
    }


def _is_service_link(name: str, value: str) -> bool:
    # A plain number in DATABASE_PORT is somebody's mistake: the port belongs into the URL.
    return bool(_SERVICE_LINK.fullmatch(name)) or (
        name.endswith("_PORT") and bool(_SERVICE_ADDRESS.match(value))
    )


def _unreadable(subject: str, error: OSError | UnicodeDecodeError) -> SettingsError:
    reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
    return SettingsError(f"{subject}: cannot be read ({reason})")
