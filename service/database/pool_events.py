"""Which engine's pool is followed, and by what: one for each name that the metrics have."""

import os
import weakref

from sqlalchemy import Engine
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.asyncio import AsyncEngine

from service.database.pool_follower import PoolFollower

_followers: "weakref.WeakKeyDictionary[Dialect, weakref.ref[PoolFollower]]" = (
    weakref.WeakKeyDictionary()
)
_latest: "weakref.WeakValueDictionary[str, PoolFollower]" = weakref.WeakValueDictionary()


def instrument(
    engine: Engine | AsyncEngine, *, pool_name: str, leak_threshold: float | None = None
) -> None:
    """Feed the pool metrics from an engine's events.

    Works on any engine and any pool; the kit's own pools tell more, of their line, of validations,
    and why a connection was closed. The opening of a connection by a `creator` of one's
    own fires no event, so it is neither timed nor counted. A second call for the same engine does
    nothing.

    Args:
        engine: The engine.
        pool_name: The value of the label `pool_name`; one for each pool of a process. The gauges
            tell of the engine that took the name last.
        leak_threshold: Seconds after which a connection that is out is taken for leaked. Left
            out, that of the pool's policy; any other pool than the kit's has none.
    """
    if isinstance(engine, AsyncEngine):
        engine = engine.sync_engine
    if follower_of(engine) is not None:
        return
    if (former := _latest.get(pool_name)) is not None:
        former.retire()
    follower = _latest[pool_name] = PoolFollower(engine, pool_name, leak_threshold)
    # An engine's copies with other execution options share its pool and its dialect.
    _followers[engine.dialect] = weakref.ref(follower)


def follower_of(engine: Engine) -> "PoolFollower | None":
    """What follows an engine's pool, if something does."""
    reference = _followers.get(engine.dialect)
    return reference() if reference is not None else None


def followers() -> list["PoolFollower"]:
    """What follows the pools of this process, one for each name, in the names' order."""
    living = [reference() for reference in _latest.valuerefs()]
    return sorted(filter(None, living), key=lambda follower: follower.pool_name)


def _start_anew() -> None:
    for reference in [*_followers.values()]:
        if (follower := reference()) is not None:
            follower.start_anew()


os.register_at_fork(after_in_child=_start_anew)
