"""The rules by which a pool asks, replaces and closes what it holds."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PoolPolicy:
    """How a pool treats its connections. Times are in seconds; infinity turns a rule off.

    Args:
        max_lifetime: How old a connection may become; shortened by up to 2.5 % at random.
        idle_timeout: How long a connection may lie idle before it is closed.
        min_idle: How many connections `idle_timeout` leaves open, and `warm_up()` opens.
        keepalive: How often an idle connection is asked whether it is alive; shortened by up to
            10 % at random.
        validation_bypass: A connection that was heard of within this time is not asked again
            before it is handed out.
        leak_threshold: A connection that is out for longer is taken for leaked.
    """

    max_lifetime: float = math.inf
    idle_timeout: float = math.inf
    min_idle: int = 0
    keepalive: float = math.inf
    validation_bypass: float = 0.5
    leak_threshold: float = math.inf
