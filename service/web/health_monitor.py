"""Health checks in the background: a probe only reads what they said last.

So a storm of probes costs no query, and a database that hangs delays no probe.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog

from service.database import pool_clock
from service.web.health_state import CheckState, Outcome, Status

# Makes one look. It answers for itself, or by name for those it was registered for; one that it
# does not name is as it was.
Check = Callable[[], Awaitable[Outcome | Mapping[str, Outcome]]]

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TIMEOUT: Final = Outcome(Status.FAIL, "timeout", "the check did not answer within its deadline")

log = structlog.stdlib.get_logger(__name__)


class HealthMonitor:
    """Runs the checks that are registered, and remembers what they said.

    Each check is looked at once every `interval`. A look that disagrees with what is known is
    repeated every `look_timeout` until it counts or was an exception. As `look_timeout` is the
    part of `timeout` that each of `failure_threshold` looks has, a failure is known within
    `interval + timeout`, whether the database refuses at once or does not answer at all.

    Args:
        interval: Seconds from the start of one look to that of the next.
        timeout: Seconds that the looks which prove a failure may take together.
        failure_threshold: How many looks in a row have to be worse before that counts.
        success_threshold: How many have to be better.
    """

    def __init__(
        self, *, interval: float, timeout: float, failure_threshold: int, success_threshold: int
    ) -> None:
        self.look_timeout = timeout / failure_threshold
        self._interval = interval
        self._timeout = timeout
        self._failure_threshold = failure_threshold
        self._success_threshold = success_threshold
        self._states: dict[str, CheckState] = {}
        self._runs: list[_Run] = []
        self._news = asyncio.Event()
        self._is_running = False

    def register(self, name: str, check: Check, *, also: Sequence[str] = ()) -> None:
        """Add a check, before `running()`.

        Args:
            name: What probes and metrics call it: lower case, digits and underscores.
            check: Makes one look, in the event loop; what blocks belongs into a thread. It is not
                called again before it has returned, and should within `look_timeout`: by then the
                look counts as failed. What it raises is a failure with the reason "error".
            also: Further names that its answers are for.

        Raises:
            ValueError: A name is malformed or taken, or the monitor runs already.
        """
        names = (name, *also)
        for each in names:
            if not _NAME.fullmatch(each) or each in self._states or self._is_running:
                raise ValueError(f"{each}: no name for a health check, or taken, or too late")
            self._states[each] = CheckState(
                each,
                failure_threshold=self._failure_threshold,
                success_threshold=self._success_threshold,
                patience=self._interval + 2 * self._timeout,
            )
        self._runs.append(_Run(names, check))

    @property
    def states(self) -> Mapping[str, CheckState]:
        """What each check is held to be, by name."""
        return self._states

    async def wait_until_served(self, *names: str) -> None:
        """Return once none of the checks fails.

        Args:
            names: The checks; unknown ones are passed over.
        """
        states = [self._states[name] for name in names if name in self._states]
        while any(state.outcome.status is Status.FAIL for state in states):
            await self._news.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Check for as long as the context is open; a look that is on may end in its time."""
        stop = asyncio.Event()
        self._is_running = True
        tasks = {
            asyncio.create_task(self._watch(run, stop), name=f"health-{run.names[0]}")
            for run in self._runs
        }
        # From another thread, which also sees a loop that is blocked.
        pool_clock.watch(self)
        try:
            yield
        finally:
            self._is_running = False
            stop.set()
            await _end(tasks, within=self._timeout)
            await _end({run.task for run in self._runs if run.task is not None}, within=0)

    def tick(self) -> None:
        """Publish what only time tells; every second, from a thread."""
        for state in self._states.values() if self._is_running else ():
            state.look_at_time()

    async def _watch(self, run: "_Run", stop: asyncio.Event) -> None:
        while not stop.is_set():
            start = time.monotonic()
            answers = await run.look(self.look_timeout)
            seconds = time.monotonic() - start
            states = [self._states[name] for name in run.names]
            agreed = [one.record(answers.get(one.name, one.latest), seconds) for one in states]
            self._news.set()
            self._news = asyncio.Event()
            pause = (self._interval if all(agreed) else self.look_timeout) - seconds
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(0.0, pause))


class _Run:
    """One registered check, and the look that is on.

    Args:
        names: What it answers for.
        check: Makes one look.
    """

    def __init__(self, names: tuple[str, ...], check: Check) -> None:
        self.names = names
        self.task: asyncio.Task[Mapping[str, Outcome]] | None = None
        self._check = check
        self._is_broken = False

    async def look(self, seconds: float) -> Mapping[str, Outcome]:
        """Make one look, or find that the one before is still on.

        Args:
            seconds: How long it may take.
        """
        # Its answer was counted as a timeout and is an old one: nobody wants it.
        if self.task is not None and not await self._ended(seconds):
            return {self.names[0]: _TIMEOUT}
        self.task = asyncio.create_task(self._ask(), name=f"health-look-{self.names[0]}")
        if not await self._ended(seconds):
            return {self.names[0]: _TIMEOUT}
        answers, self.task = self.task.result(), None
        return answers

    async def _ended(self, seconds: float) -> bool:
        assert self.task is not None  # noqa: S101 - as both callers know
        done, _ = await asyncio.wait({self.task}, timeout=seconds)
        return bool(done)

    async def _ask(self) -> Mapping[str, Outcome]:
        try:
            answer = await self._check()
            answers = {self.names[0]: answer} if isinstance(answer, Outcome) else dict(answer)
        except Exception as error:
            # Once with its stack, for it is a mistake in the check; the state tells each change.
            if not self._is_broken:
                log.exception("a health check broke", check=self.names[0])
            self._is_broken = True
            broken = Outcome(
                Status.FAIL, "error", "mend the check: its stack is in the log", repr(error)
            )
            return {self.names[0]: broken}
        self._is_broken = False
        return answers


async def _end(tasks: Collection[asyncio.Task[Any]], *, within: float) -> None:
    """Let tasks end, and cancel those that do not within these seconds."""
    if not tasks:
        return
    await asyncio.wait(tasks, timeout=within)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
