"""gunicorn's arbiter, which replaces a worker before it lets it go.

gunicorn's own stops the old workers of a reload before the new ones have started, starts no other
for one that is recycled until that has ended, and waits for the old in the middle of a reload
without minding signals. A blocked worker it asks to abort, which a blocked loop cannot hear.
"""

import contextlib
import math
import os
import signal
import time
from collections import deque
from typing import Any, Final, cast

import structlog
from gunicorn.arbiter import Arbiter as GunicornArbiter  # type: ignore[import-untyped] # it ships no types

from service.web.worker import STACK_SIGNAL, Order, Worker

# How late the arbiter may notice something.
_POLL_SECONDS: Final = 0.25
# What a worker gets to tell where it is blocked. It does so in its signal handler, or not at all.
_STACK_SECONDS: Final = 0.3
_STACK_BYTES: Final = 1 << 16

log = structlog.stdlib.get_logger(__name__)


class Arbiter(GunicornArbiter):  # type: ignore[misc] # untyped
    """Starts, replaces and stops the workers."""

    # Why the next worker starts, for the hook that sees it before the fork.
    start_reason = "start"
    _is_reloading = False
    _vacancies: deque[str]

    @classmethod
    def adopt(cls, server: GunicornArbiter) -> None:
        """Make an arbiter that is about to start one of this class.

        gunicorn has no setting for it, and every way to run gunicorn reads its configuration.
        """
        server.__class__ = cls
        cast("Arbiter", server)._vacancies = deque()  # noqa: SLF001 - its own

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """Wait for signals, but not for long: workers ask in silence."""
        signals: list[int] = super().wait_for_signals(min(timeout, _POLL_SECONDS))
        return signals

    def spawn_worker(self) -> Any:
        """Start a worker; in its process, this does not return."""
        if self._is_reloading:
            self.start_reason = "reload"
        else:
            self.start_reason = self._vacancies.popleft() if self._vacancies else "start"
        return super().spawn_worker()

    def manage_workers(self) -> None:
        """Start who is missing, and let go who is too many or has been replaced."""
        staying = self._staying()
        for _ in range(self.num_workers - len(staying)):
            self.spawn_worker()
        for worker in sorted(staying, key=_age)[: max(len(staying) - self.num_workers, 0)]:
            self._replace(worker)
        self._replace_who_asks()
        self._let_go()

    def reload(self) -> None:
        """Read the configuration anew, and start as many workers again in place of the old.

        With a configuration that is refused, the old go on.
        """
        ages = {worker: worker.age for worker in self._staying()}
        for worker in ages:
            self._replace(worker)
        self._vacancies.clear()
        self._is_reloading = True
        try:
            super().reload()
        except SystemExit as refusal:
            # A worker's process ends by it, too.
            if os.getpid() != self.pid:
                raise
            for worker, age in ages.items():
                worker.is_leaving, worker.age = False, age
            log.error("not reloaded: the configuration is refused", reason=str(refusal))  # noqa: TRY400 - one line
        finally:
            self._is_reloading = False

    def reap_workers(self) -> None:
        """Take note of the workers that have ended."""
        before = dict(self.WORKERS)
        super().reap_workers()
        for pid in before.keys() - self.WORKERS.keys():
            worker: Worker = before[pid]
            if not worker.is_leaving:
                self._vacancies.append("blocked" if worker.aborted else "died")

    def murder_workers(self) -> None:
        """Kill the workers whose loop is blocked, and log where it is."""
        for pid, worker in list(self.WORKERS.items()):
            silence = time.monotonic() - worker.tmp.last_update()
            if self.timeout and silence > self.timeout and not worker.aborted:
                worker.aborted = True
                stack = self._stack(worker)
                log.critical(
                    "event loop blocked", worker=pid, silent_s=round(silence, 1), stack=stack
                )
                self.kill_worker(pid, signal.SIGKILL)

    def stop(self, graceful: bool = True) -> None:
        """Stop all workers; another SIGTERM meanwhile hurries them, as SIGINT does."""
        for worker in self._workers():
            worker.shared.order = Order.STOP
        if graceful:
            signal.signal(signal.SIGTERM, self._hurry)
        super().stop(graceful)

    def _hurry(self, _signal: int, _frame: object) -> None:
        self.SIG_QUEUE.put_nowait(signal.SIGQUIT)

    def _workers(self) -> list[Worker]:
        return list(self.WORKERS.values())

    def _staying(self) -> list[Worker]:
        return [worker for worker in self._workers() if not worker.is_leaving]

    def _replace(self, worker: Worker) -> None:
        worker.is_leaving = True
        # gunicorn's reload waits for all who are older than those that it has started.
        worker.age = math.inf

    def _replace_who_asks(self) -> None:
        """One after another: each takes memory and connections beside its successor."""
        if len(self._staying()) < len(self.WORKERS):
            return
        asking = (worker for worker in self._staying() if worker.shared.wants_to_leave)
        if (worker := next(asking, None)) is not None:
            self._replace(worker)
            self._vacancies.append("recycled")

    def _let_go(self) -> None:
        """Send those away whose successors serve."""
        if sum(worker.shared.is_serving for worker in self._staying()) < self.num_workers:
            return
        for pid, worker in list(self.WORKERS.items()):
            if worker.is_leaving and worker.shared.order is Order.NONE:
                worker.shared.order = Order.LEAVE
                self.kill_worker(pid, signal.SIGTERM)

    def _stack(self, worker: Worker) -> list[str]:
        """Where the worker's main thread is, the innermost call first; empty if it cannot say."""
        file = worker.tmp.fileno()
        os.ftruncate(file, 0)
        self.kill_worker(worker.pid, STACK_SIGNAL)
        end = time.monotonic() + _STACK_SECONDS
        text = b""
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                found = os.pread(file, _STACK_BYTES, 0)
                if found and found == text:
                    break
                text = found
            time.sleep(_STACK_SECONDS / 10)
        lines = text.decode(errors="replace").splitlines()
        return [line.strip() for line in lines if line.startswith("  ")]


def _age(worker: Worker) -> float:
    age: float = worker.age
    return age
