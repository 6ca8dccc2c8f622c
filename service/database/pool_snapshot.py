"""What a pool looks like at one moment: for a command, a page, or a debugger."""

import math
import time
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from service.database.pool import MeteredPoolMixin
from service.database.pool_any import pool_limits
from service.database.pool_events import follower_of, followers
from service.database.pool_follower import PoolFollower
from service.database.pool_holders import Holder
from service.database.pool_queue import FairQueue
from service.database.pool_watch import oldest_wait


class UnknownPoolError(LookupError):
    """There is no pool of this name that could be operated; the text names those that there are."""


@dataclass(frozen=True, kw_only=True)
class HolderSnapshot:
    """One connection that is out of the pool.

    Attributes:
        age: Seconds since its checkout.
        route: The template of the HTTP route that it was taken for; empty outside of any.
        is_leaked: Whether it has been out for longer than the leak threshold.
        stack: The code that took it, innermost first, as `path:line in function`; empty unless
            stacks were asked for and leak detection is on.
    """

    age: float
    route: str
    is_leaked: bool
    stack: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class WaiterSnapshot:
    """One checkout in the line.

    Attributes:
        age: Seconds since it began to wait.
        route: As of a holder.
    """

    age: float
    route: str


@dataclass(frozen=True, kw_only=True)
class PoolSnapshot:
    """A pool at one moment; the words are those of its metrics.

    Attributes:
        pool_name: Its label.
        used: Connections that are out.
        idle: Connections that lie idle.
        pending: Checkouts that wait, for a place or for the server.
        max: The most connections that are open at once; None without a limit.
        idle_max: The most idle connections that are kept; None without a limit.
        oldest_wait: Seconds that the first in the line has waited; 0 without one.
        is_suspended: Whether nobody is served until `resume()`.
        holders: Who has a connection, whoever has had it for longest first; those of a pool that
            `dispose()` replaced are among them, and not in `used`.
        waiters: Who waits in line, whoever has waited for longest first; a checkout that waits for
            the server is not among them.
    """

    pool_name: str
    used: int
    idle: int
    pending: int
    max: int | None
    idle_max: int | None
    oldest_wait: float
    is_suspended: bool
    holders: tuple[HolderSnapshot, ...]
    waiters: tuple[WaiterSnapshot, ...]


def pool_snapshot(engine: Engine | AsyncEngine, *, stacks: bool = False) -> PoolSnapshot:
    """Look at an engine's pool, without touching its connections or the database.

    Args:
        engine: An engine of the kit, or one that was given to `instrument`.
        stacks: Whether to tell the code that took each connection.

    Raises:
        ValueError: Nothing follows the engine's pool.
    """
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    follower = follower_of(sync_engine)
    if follower is None:
        raise ValueError(
            "nothing follows this engine's pool; call instrument(engine, pool_name=...) first"
        )
    return _snapshot(follower, stacks=stacks)


def pool_snapshots(*, stacks: bool = False) -> list[PoolSnapshot]:
    """Look at every pool of this process that is followed, in the order of their names.

    Args:
        stacks: As of `pool_snapshot`.
    """
    return [_snapshot(follower, stacks=stacks) for follower in followers()]


def operable_pool(pool_name: str) -> MeteredPoolMixin:
    """The pool of a name, to suspend, resume, resize or evict it.

    Args:
        pool_name: Its label.

    Raises:
        UnknownPoolError: There is none, or it is of a kind that cannot be operated.
    """
    pools = {follower.pool_name: follower.pool for follower in followers()}
    pool = pools.get(pool_name)
    if isinstance(pool, MeteredPoolMixin):
        return pool
    known = [name for name, one in pools.items() if isinstance(one, MeteredPoolMixin)]
    problem = "there is no such pool" if pool is None else "it is one fixed connection, or none"
    raise UnknownPoolError(f"{pool_name}: {problem}; take one of {', '.join(known) or 'none'}")


def _snapshot(follower: PoolFollower, *, stacks: bool) -> PoolSnapshot:
    pool = follower.pool
    used, idle = follower.ledger.counts()
    idle_max, most = pool_limits(pool)
    queue = pool.queue if isinstance(pool, MeteredPoolMixin) else None
    return PoolSnapshot(
        pool_name=follower.pool_name,
        used=used,
        idle=idle,
        pending=follower.pending,
        max=_limit(most),
        idle_max=_limit(idle_max),
        oldest_wait=oldest_wait(pool),
        is_suspended=queue is not None and queue.suspended,
        holders=_holders(follower, stacks=stacks),
        waiters=_waiters(queue) if queue is not None else (),
    )


def _waiters(queue: FairQueue) -> tuple[WaiterSnapshot, ...]:
    now = time.monotonic()
    return tuple(
        WaiterSnapshot(age=now - waiter.since, route=waiter.route) for waiter in queue.line()
    )


def _holders(follower: PoolFollower, *, stacks: bool) -> tuple[HolderSnapshot, ...]:
    return tuple(_holder(each, stacks=stacks) for each in follower.ledger.holders())


def _holder(holder: Holder, *, stacks: bool) -> HolderSnapshot:
    return HolderSnapshot(
        age=holder.age,
        route=holder.route,
        is_leaked=holder.is_leaked,
        stack=tuple(holder.borrow_site()) if stacks else (),
    )


def _limit(count: float) -> int | None:
    return None if math.isinf(count) else int(count)
