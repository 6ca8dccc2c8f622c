"""How gunicorn serves the application; read at start and on SIGHUP."""  # noqa: INP001

import math
import sys
from pathlib import Path
from typing import Any

from service.web.worker_slots import free_slot, worker_slots

# First of all: where values are kept is decided when the modules below make their metrics.
try:
    _slots = worker_slots()
except OSError as error:
    sys.exit(f"PROMETHEUS_MULTIPROC_DIR: {error}")

from service.settings import SettingsError, load_settings
from service.web.logging import configure_logging

try:
    _settings = load_settings()
except SettingsError as error:
    sys.exit(str(error))

# What a worker has left, when its time for open requests is over, to close the pool in.
CLOSING_SECONDS = 5
_requests_seconds = math.ceil(_settings.graceful_timeout)

wsgi_app = "service.app:create_app()"
proc_name = "tidegate"
bind = f"{_settings.host}:{_settings.port}"
workers = _settings.web_concurrency
# Gunicorn's own: its heartbeat runs on the event loop, and so tells of one that is blocked.
# Measured beside uvicorn-worker: docs/decisions/0001.
worker_class = "asgi"
# A start that fails must stop the server. "auto" takes some failures for an application without
# a lifespan, and goes on to serve it.
asgi_lifespan = "on"
graceful_timeout = _requests_seconds + CLOSING_SECONDS
# The heartbeat is a file's time stamp: a disk that stalls would cost a healthy worker its life.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
# It would write to the read-only root file system, and signals do all that is needed.
control_socket_disable = True

# Its messages go where the service's go (see `on_starting`); the service logs the requests.
errorlog = None
accesslog = None
loglevel = _settings.log_level.lower()


def on_starting(_server: object) -> None:
    """Set up logging after gunicorn, which has just cut its loggers off from the root."""
    configure_logging(_settings)


def pre_fork(server: Any, worker: Any) -> None:
    """Choose the worker's slot by those that live: none is lost, however a worker ended."""
    worker.slot = free_slot(other.slot for other in server.WORKERS.values())


def post_fork(_server: object, worker: Any) -> None:
    """Take the slot, and give the worker less time than the arbiter waits for it.

    With equal times, one request that does not end gets the worker killed just when it would
    turn to its shutdown.
    """
    _slots.take(worker.slot)
    worker.cfg.set("graceful_timeout", _requests_seconds)


def child_exit(_server: object, worker: Any) -> None:
    """Take the gauges of a worker that ended out of the sums; the counters stay."""
    _slots.release(worker.slot)
