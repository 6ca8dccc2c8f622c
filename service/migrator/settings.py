"""What the runner reads from its surroundings, beside the database's own settings."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from service.database.layered_settings import LayeredSettings, Seconds, SecondsOrOff


class MigratorSettings(LayeredSettings):
    """How the runner treats a database that others use. Times are in seconds.

    `lock_timeout` is how long one statement of a revision waits for a lock, and so the longest that
    everybody behind it in the queue waits because of it. `lock_budget` is for how long a revision
    is tried again when it got none. `statement_timeout` is for a statement that may hold locks; an
    index that is built concurrently, which holds none that matter, has one of its own. A revision
    may set `lock_timeout` and `statement_timeout` for itself.
    """

    model_config = SettingsConfigDict(env_prefix="MIGRATE_")

    lock_timeout: Annotated[float, Field(ge=0.01, le=60)] = 1.0
    lock_budget: SecondsOrOff = 120.0
    statement_timeout: Seconds = 60.0
    # A database on the server where `check` and `roundtrip` make theirs.
    scratch_url: SecretStr | None = None
    # Where the node exporter's textfile collector looks.
    metrics_file: Path | None = None
    # It may hold a user and a password.
    pushgateway_url: SecretStr | None = None
