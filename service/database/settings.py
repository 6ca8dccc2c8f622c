"""What the kit is told: which database, and how much of it to take."""

import hashlib
import hmac
import math
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict
from sqlalchemy.engine import URL

from service.database.layered_settings import (
    LayeredSettings,
    Seconds,
    SecondsOrOff,
    present_names,
    refuse_unknown_names,
    variable_names,
)
from service.database.pool_policy import PoolPolicy
from service.database.urls import UnsupportedUrlError, async_url, parse_url

Environment = Literal["development", "test", "staging", "production"]

CURSOR_KEY_LENGTH: Final = 16
DEVELOPMENT_URL = "sqlite:///tidegate.db"


class DatabaseSettings(LayeredSettings):
    """How to reach the database, and how much of it to take. Times are in seconds.

    `query_deadline` is how long any single call to the driver may take that `time_limit` does not
    limit further; it holds even when the server hangs. `statement_timeout` is the server's own,
    and has to be shorter: its error costs no connection.

    `cursor_key` is what the cursors of pages are sealed with; unset, a key is derived from
    `DATABASE_URL`, so that every worker and replica of a deployment takes the others' cursors. With
    another key, or another password in the URL, open cursors are refused: a client sees a 422, and
    begins again. Set it where the URL holds no password, or where passwords change often.
    """

    model_config = SettingsConfigDict(env_prefix="DATABASE_")

    environment: Environment = Field("development", validation_alias="ENVIRONMENT")
    url: SecretStr | None = None
    url_async: SecretStr | None = None
    migrate_url: SecretStr | None = Field(None, validation_alias="MIGRATE_DATABASE_URL")
    replica_url: SecretStr | None = None
    # What the replica shows is never older than this; a tighter bound would mostly measure itself.
    replica_max_lag: Annotated[float, Field(ge=0.5, le=3600)] = 2.0
    cursor_key: SecretStr | None = None
    echo: bool = False
    pool_size: Annotated[int, Field(ge=1, le=1000)] = 5
    max_overflow: Annotated[int, Field(ge=0, le=1000)] = 5
    pool_timeout: Seconds = 5.0
    pool_max_lifetime: Seconds = 1800.0
    pool_min_idle: Annotated[int, Field(ge=0, le=1000)] = 0
    pool_idle_timeout: SecondsOrOff = 600.0
    pool_keepalive: SecondsOrOff = 120.0
    pool_validation_bypass: Annotated[float, Field(ge=0, le=86_400)] = 0.5
    leak_threshold: SecondsOrOff = 60.0
    connection_budget: Annotated[int, Field(ge=1)] | None = None
    connect_timeout: Seconds = 5.0
    statement_timeout: Seconds = 10.0
    query_deadline: Seconds = 15.0

    @model_validator(mode="after")
    def _idle_connections_fit_the_pool(self) -> Self:
        if self.pool_min_idle > self.pool_size:
            raise ValueError(
                f"DATABASE_POOL_MIN_IDLE: the pool keeps {self.pool_size} idle connections;"
                " lower it, or raise DATABASE_POOL_SIZE"
            )
        return self

    @model_validator(mode="after")
    def _server_gives_up_first(self) -> Self:
        if self.statement_timeout >= self.query_deadline:
            raise ValueError(
                f"DATABASE_STATEMENT_TIMEOUT: lower it below DATABASE_QUERY_DEADLINE"
                f" ({self.query_deadline:g} s), or raise that: the server's own error costs no"
                " connection"
            )
        return self

    @model_validator(mode="after")
    def _cursor_key_is_long(self) -> Self:
        key = self.cursor_key
        if key is not None and len(key.get_secret_value()) < CURSOR_KEY_LENGTH:
            raise ValueError(
                f"DATABASE_CURSOR_KEY: shorter than {CURSOR_KEY_LENGTH} characters; take more, such"
                " as the output of `openssl rand -hex 32`, or unset it"
            )
        return self

    @model_validator(mode="after")
    def _urls_are_supported(self) -> Self:
        try:
            _ = self.sync_url, self.migration_url, self.replica_sync_url
            if self.url_async is not None:
                _ = self.asyncio_url
        except UnsupportedUrlError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def sync_url(self) -> URL:
        """`DATABASE_URL` with its driver; an SQLite file in development when unset."""
        if self.url is not None:
            return parse_url(self.url.get_secret_value(), "DATABASE_URL")
        if self.environment in ("development", "test"):
            return parse_url(DEVELOPMENT_URL, "DATABASE_URL")
        raise UnsupportedUrlError(
            f"DATABASE_URL: required when ENVIRONMENT={self.environment};"
            " set it, or DATABASE_URL_FILE to a file that holds it"
        )

    @property
    def asyncio_url(self) -> URL:
        """`DATABASE_URL_ASYNC`, or the asyncio twin of `DATABASE_URL`."""
        if self.url_async is not None:
            return parse_url(self.url_async.get_secret_value(), "DATABASE_URL_ASYNC", asyncio=True)
        return async_url(self.sync_url)

    @property
    def migration_url(self) -> URL:
        """`MIGRATE_DATABASE_URL`, for a role that may change the schema, or `DATABASE_URL`."""
        if self.migrate_url is not None:
            return parse_url(self.migrate_url.get_secret_value(), "MIGRATE_DATABASE_URL")
        return self.sync_url

    @property
    def replica_sync_url(self) -> URL | None:
        """`DATABASE_REPLICA_URL` with its driver; None when unset.

        Raises:
            UnsupportedUrlError: One of the two databases is not PostgreSQL, or the URL names
                several hosts.
        """
        if self.replica_url is None:
            return None
        url = parse_url(self.replica_url.get_secret_value(), "DATABASE_REPLICA_URL")
        for name, backend in (
            ("DATABASE_REPLICA_URL", url.get_backend_name()),
            ("DATABASE_URL", self.sync_url.get_backend_name()),
        ):
            if backend != "postgresql":
                raise UnsupportedUrlError(
                    f"DATABASE_REPLICA_URL: replicas are read of PostgreSQL only, and {name} is of"
                    f" {backend}; unset DATABASE_REPLICA_URL, or use PostgreSQL"
                )
        given = url.query.get("host", ())
        hosts = [url.host or "", *([given] if isinstance(given, str) else given)]
        if "," in ",".join(filter(None, hosts)):
            raise UnsupportedUrlError(
                "DATABASE_REPLICA_URL: name one host, for the lag of one says nothing of another"
            )
        return url

    @cached_property
    def cursor_sealing_key(self) -> bytes:
        """The 32 bytes that cursors are sealed with, of `DATABASE_CURSOR_KEY` or `DATABASE_URL`."""
        secret = self.cursor_key or self.url or SecretStr(DEVELOPMENT_URL)
        # A label of its own keeps this key apart from any other that may be derived of the same.
        return hmac.digest(b"tidegate cursors", secret.get_secret_value().encode(), hashlib.sha256)

    @property
    def pool_capacity(self) -> int:
        """The most connections that one process opens through its pool."""
        return self.pool_size + self.max_overflow

    @property
    def pool_policy(self) -> PoolPolicy:
        """How a pool treats its connections."""
        return PoolPolicy(
            max_lifetime=self.pool_max_lifetime,
            idle_timeout=self.pool_idle_timeout or math.inf,
            min_idle=self.pool_min_idle,
            keepalive=self.pool_keepalive or math.inf,
            validation_bypass=self.pool_validation_bypass,
            leak_threshold=self.leak_threshold or math.inf,
        )

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings, refusing `DATABASE_*` names that none of them has.

        Raises:
            SettingsError: A name is unknown, or a value wrong; the text is one line.
        """
        refuse_unknown_names(present_names(), variable_names(cls))
        return super().load(**overrides)
