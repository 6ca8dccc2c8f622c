"""The settings of the whole service, checked against each other at start."""

from importlib.metadata import version
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from service.database.budget import (
    ConnectionDemand,
    budget_complaint,
    connection_demand,
)
from service.database.layered_settings import LayeredSettings, Seconds, SecondsOrOff, SettingsError
from service.database.settings import DatabaseSettings, Environment
from service.port import DEFAULT_PORT

__all__ = ["DatabaseSettings", "Settings", "SettingsError", "load_settings"]

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

# What a process has left, when its time for open requests is over, to close its connections in.
CLOSING_SECONDS: Final = 5
# Where somebody may send requests who learns of readiness only by asking now and then.
_DRAIN_SECONDS: Final = {"development": 0.0, "test": 0.0, "staging": 5.0, "production": 5.0}


class Settings(LayeredSettings):
    """How the service runs. Times are in seconds."""

    app_name: Annotated[str, Field(pattern=r"^[\w .-]{1,64}$")] = "tidegate"
    app_version: Annotated[str, Field(pattern=r"^[\w.+-]{1,64}$")] = version("tidegate")
    environment: Environment = "development"
    log_level: LogLevel = "INFO"
    log_format: Literal["json", "console"] = "json"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = DEFAULT_PORT
    web_concurrency: Annotated[int, Field(ge=1, le=256)] = 1
    # Containers or pods that run at once, those of a rolling update included.
    replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    admission_limit: Annotated[int, Field(ge=1)] | None = None
    # As many as may be admitted, unless set: who is served then waits about as long as he is worked
    # for, and the rest hears at once that it is too much.
    admission_queue: Annotated[int, Field(ge=0)] | None = None
    admission_wait: Seconds = 2.0
    # Answers that are streamed at once by each worker, each with a connection of its own.
    stream_limit: Annotated[int, Field(ge=1, le=1000)] = 2
    # How long the reader of one may take nothing before it is cut off.
    stream_stall: Seconds = 10.0
    # What shows an operator the reasons that others do not see.
    ops_token: Annotated[SecretStr, Field(min_length=16, max_length=256)] | None = None
    # A failure is known within interval + timeout, by as many looks in a row as the threshold says.
    health_interval: Seconds = 5.0
    health_timeout: Seconds = 2.0
    health_failure_threshold: Annotated[int, Field(ge=1, le=10)] = 2
    health_success_threshold: Annotated[int, Field(ge=1, le=10)] = 2
    # From SIGTERM on, how long requests are still served while `/readyz` says no. Unless set, 0 in
    # development and tests, else 5.
    drain_seconds: SecondsOrOff
    # Then, how long the requests that are open have to end.
    graceful_timeout: Seconds = 20.0
    # When whoever sent SIGTERM sends SIGKILL, if known; checked against the times above.
    termination_grace_seconds: Seconds | None = None
    # Workers are replaced after so many requests, or up to a tenth more; 0 is never.
    worker_max_requests: Annotated[int, Field(ge=0, le=10**9)] = 0
    # Never read from one variable: DATABASE may be somebody else's, and would be taken for JSON.
    database: Annotated[DatabaseSettings, NoDecode] = Field(exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _console_where_a_person_reads(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("environment", "development") == "development":
            values.setdefault("log_format", "console")
        return values

    @model_validator(mode="before")
    @classmethod
    def _drain_where_requests_come_from_elsewhere(cls, values: dict[str, Any]) -> dict[str, Any]:
        # An environment that does not exist is refused with the rest.
        values.setdefault("drain_seconds", _DRAIN_SECONDS.get(values.get("environment", ""), 0.0))
        return values

    @model_validator(mode="after")
    def _shutdown_fits_the_grace_period(self) -> Self:
        grace = self.termination_grace_seconds
        if grace is not None and self.shutdown_seconds >= grace:
            raise ValueError(
                f"TERMINATION_GRACE_SECONDS: after {grace:g} s the process is killed, and to stop"
                f" takes up to {self.shutdown_seconds:g} s: DRAIN_SECONDS {self.drain_seconds:g} +"
                f" GRACEFUL_TIMEOUT {self.graceful_timeout:g} + {CLOSING_SECONDS} to close; lower"
                " one of them, or raise the grace period"
            )
        return self

    @model_validator(mode="after")
    def _limits_fit_the_pool(self) -> Self:
        capacity = self.database.pool_capacity
        if self.admission_limit is not None and self.admission_limit > capacity:
            raise ValueError(
                f"ADMISSION_LIMIT: {self.admission_limit} requests could wait for {capacity}"
                f" connections; lower it to {capacity}, or raise DATABASE_POOL_SIZE"
            )
        return self

    @model_validator(mode="after")
    def _connections_fit_the_budget(self) -> Self:
        if complaint := budget_complaint(self.connection_demand, self.database.connection_budget):
            raise ValueError(complaint)
        return self

    @property
    def connection_demand(self) -> ConnectionDemand:
        """The most database connections that the whole deployment opens at once."""
        return connection_demand(
            self.database,
            # One that is recycled has its successor beside it.
            workers=self.web_concurrency + bool(self.worker_max_requests),
            replicas=self.replicas,
            streams=self.stream_limit,
        )

    @property
    def shutdown_seconds(self) -> float:
        """The longest that the process takes to stop."""
        return self.drain_seconds + self.graceful_timeout + CLOSING_SECONDS

    @property
    def admitted_requests(self) -> int:
        """How many requests may hold a database connection at once."""
        return self.admission_limit or self.database.pool_capacity

    @property
    def queued_requests(self) -> int:
        """How many requests may wait to be admitted."""
        return self.admitted_requests if self.admission_queue is None else self.admission_queue


def load_settings() -> Settings:
    """Read the settings from files, variables and `.env`, in falling order.

    Raises:
        SettingsError: A value is wrong, or a `DATABASE_*` name unknown; the text is one line.
    """
    return Settings.load(database=DatabaseSettings.load())
