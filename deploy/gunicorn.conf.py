"""How gunicorn serves the application; read at start and on SIGHUP."""  # noqa: N999

import math
import sys
from typing import Any

from service.web.memory_directory import memory_directory
from service.web.worker_slots import free_slot, worker_slots

# First of all: where values are kept is decided when the modules below make their metrics. And
# structlog would load rich, for tracebacks in colours, with 3 MB of lexers: an entry of None makes
# that import fail, which it is prepared for.
try:
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type] # documented so
    _slots = worker_slots()
except OSError as error:
    sys.exit(f"PROMETHEUS_MULTIPROC_DIR: {error}")

from service.settings import SettingsError, load_settings
from service.web.arbiter import Arbiter
from service.web.logging import configure_logging
from service.web.worker import Worker

try:
    _settings = load_settings()
except SettingsError as error:
    sys.exit(str(error))

wsgi_app = "service.app:create_app()"
proc_name = "tidegate"
bind = f"{_settings.host}:{_settings.port}"
workers = _settings.web_concurrency
# Gunicorn's own ASGI worker, made to end without a lost request: docs/decisions/0001 and 0016.
worker_class = "service.web.worker.Worker"
# Each worker imports the application itself: what threads, locks and connections it makes then are
# its own, and a reload reads the code anew.
preload_app = False
# The heartbeat runs on the event loop, and so tells of one that is blocked: longer than this, and
# the worker is replaced. Nothing of ours takes the loop for as long as a second.
timeout = 30
# Longer than the 60 s after which nginx and AWS's balancers close an idle connection to a server:
# who closes it first cannot lose a request on it.
keepalive = 75
max_requests = _settings.worker_max_requests
# Workers that started together are not to be replaced together.
max_requests_jitter = max_requests // 10
# When the arbiter kills: after all that a worker does to end.
graceful_timeout = math.ceil(_settings.shutdown_seconds)
# The heartbeat is a file's time stamp: a disk that stalls would cost a healthy worker its life.
worker_tmp_dir = str(memory_directory())
# It would write to the read-only root file system, and signals do all that is needed.
control_socket_disable = True

# Its messages go where the service's go (see `on_starting`); the service logs the requests.
errorlog = None
accesslog = None
loglevel = _settings.log_level.lower()


def on_starting(server: Any) -> None:
    """Set up logging after gunicorn, which has just cut its loggers off from the root."""
    configure_logging(_settings)
    # Another class of workers, as a benchmark may give, knows nothing of our arbiter.
    if issubclass(server.worker_class, Worker):
        Arbiter.adopt(server)


def pre_fork(server: Any, worker: Any) -> None:
    """Choose the worker's slot by those that live: none is lost, however a worker ended."""
    worker.slot = free_slot(other.slot for other in server.WORKERS.values())
    worker.start_reason = getattr(server, "start_reason", None)


def post_fork(_server: object, worker: Any) -> None:
    """Take the slot."""
    _slots.take(worker.slot)


def child_exit(_server: object, worker: Any) -> None:
    """Take the gauges of a worker that ended out of the sums; the counters stay."""
    _slots.release(worker.slot)
