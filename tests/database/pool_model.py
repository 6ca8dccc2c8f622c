"""What a pool ought to hold and to count after each step, without a thread, a lock or a server."""

from collections import Counter
from dataclasses import dataclass
from typing import Any


class RefusedError(Exception):
    """The server took no new connection."""


@dataclass(eq=False)
class ModelConnection:
    """One connection, as far as the pool cares.

    Args:
        generation: How often everything had been evicted when it was opened.
    """

    generation: int
    # The server's process number and the pool's own notes; known after the first checkout.
    pid: int = 0
    details: Any = None
    is_soft: bool = False
    is_expired: bool = False
    is_unheard: bool = False
    is_suspect: bool = False
    is_cold: bool = False
    is_dead: bool = False

    def touch(self) -> None:
        """Note that it was used just now."""
        self.is_unheard = self.is_suspect = self.is_cold = False


class ModelPool:
    """The rules of the pool, one after the other.

    Args:
        size: How many connections are kept.
        overflow: How many more are opened.
        min_idle: How many `tick` opens.
        is_async: Whether `tick` does nothing before the first checkout, which tells the loop.
    """

    def __init__(self, size: int, overflow: int, min_idle: int, *, is_async: bool) -> None:
        self.size = size
        self.capacity = size + overflow
        self.min_idle = min_idle
        self.idle: list[ModelConnection] = []
        self.out: list[ModelConnection] = []
        # Those that are out of a pool which `dispose()` replaced.
        self.former: list[ModelConnection] = []
        self.waiting = 0
        self.is_suspended = False
        self.is_refused = False
        self.counted: Counter[str] = Counter()
        self._generation = 0
        self._is_async = is_async
        self._is_asleep = is_async

    @property
    def is_free(self) -> bool:
        """Whether a checkout would get a connection at once."""
        return not self.waiting and self._has_place

    @property
    def _has_place(self) -> bool:
        return not self.is_suspended and len(self.out) < self.capacity

    @property
    def open(self) -> list[ModelConnection]:
        """What the pool still has to do with."""
        return [*self.idle, *self.out, *self.former]

    def checkout(self) -> ModelConnection:
        """Take an idle connection or open one.

        Raises:
            RefusedError: It had to open one, and `is_refused`.
        """
        self.counted["waits"] += 1
        try:
            taken = self._take_idle() or self._connect()
        except RefusedError:
            self.counted["refused"] += 1
            raise
        self.out.append(taken)
        self.counted["checkouts"] += 1
        self._is_asleep = False
        return taken

    def give_back(self, connection: ModelConnection) -> None:
        """Keep a connection or close it."""
        if self._leave(connection):
            self._close("disposed")
            return
        connection.touch()
        if reason := self._obsolete(connection) or self._too_much():
            self._close(reason)
        else:
            self.idle.append(connection)

    def remove(self, connection: ModelConnection, reason: str) -> None:
        """Let one that is out be closed, or be given away."""
        self._leave(connection)
        self._close(reason)

    def fail(self, why: str) -> None:
        """Count a checkout that got nothing."""
        self.counted["waits"] += 1
        self.counted[why] += 1

    def admit(self) -> list[ModelConnection | None]:
        """Serve those who wait, while there are places; None stands for one that was refused."""
        served: list[ModelConnection | None] = []
        while self.waiting and self._has_place:
            self.waiting -= 1
            try:
                served.append(self.checkout())
            except RefusedError:
                served.append(None)
        return served

    def evict(self) -> None:
        """Have everything replaced."""
        self._generation += 1

    def dispose(self) -> None:
        """Begin anew."""
        for _ in self.idle:
            self._close("disposed")
        self.idle.clear()
        self.former += self.out
        self.out.clear()
        self._is_asleep = self._is_async

    def tick(self) -> None:
        """See to the idle connections, where one needs it."""
        is_short = len(self.idle) + len(self.out) < self._min_open
        if self._is_asleep or not (is_short or any(map(self._due, self.idle))):
            return
        self._maintain()
        if not self.is_suspended:
            self.warm_up()

    def warm_up(self) -> None:
        """Open what is missing of the minimum, as far as the server lets it."""
        for _ in range(self._min_open - len(self.idle) - len(self.out)):
            try:
                self.idle.append(self._connect())
            except RefusedError:
                return
            self._is_asleep = False

    @property
    def _min_open(self) -> int:
        return min(self.min_idle, self.size, self.capacity)

    def _take_idle(self) -> ModelConnection | None:
        while self.idle:
            taken = self.idle.pop()
            if reason := self._obsolete(taken):
                self._close(reason)
            elif not (taken.is_unheard or taken.is_suspect) or self._answers(taken, "validation"):
                if not taken.is_soft:
                    return taken
                self._close("recycled")
                return None
        return None

    def _connect(self) -> ModelConnection:
        if self.is_refused:
            self.counted["create_failures"] += 1
            raise RefusedError
        self.counted["created"] += 1
        return ModelConnection(self._generation)

    def _answers(self, connection: ModelConnection, purpose: str) -> bool:
        if connection.is_dead:
            self.counted["dead"] += 1
            self._close(purpose)
            if purpose == "validation":
                for other in self.idle:
                    other.is_suspect = True
            return False
        self.counted["alive"] += 1
        connection.is_unheard = connection.is_suspect = False
        return True

    def _leave(self, connection: ModelConnection) -> bool:
        """Whether it was a former pool's."""
        self.counted["uses"] += 1
        is_former = connection in self.former
        (self.former if is_former else self.out).remove(connection)
        return is_former

    def _close(self, reason: str) -> None:
        self.counted[f"closed {reason}"] += 1

    def _too_much(self) -> str | None:
        idle = len(self.idle)
        is_over = idle + len(self.out) >= self.capacity or idle >= self.size
        return "released" if is_over else None

    def _obsolete(self, connection: ModelConnection) -> str | None:
        if connection.generation != self._generation:
            return "evicted"
        return "max_lifetime" if connection.is_expired else None

    def _due(self, connection: ModelConnection) -> str | None:
        if reason := self._obsolete(connection):
            return reason
        total = len(self.idle) + len(self.out)
        if len(self.idle) > self.size or total > self.capacity:
            return "resized"
        if connection.is_cold and total > self.min_idle:
            return "idle_timeout"
        return "keepalive" if connection.is_unheard else None

    def _maintain(self) -> None:
        while not len(self.out) >= self.capacity >= len(self.idle) + len(self.out):
            due = next(((each, why) for each in self.idle if (why := self._due(each))), None)
            if due is None:
                return
            connection, reason = due
            self.idle.remove(connection)
            if reason != "keepalive":
                self._close(reason)
            elif self._answers(connection, reason):
                self.idle.insert(0, connection)
