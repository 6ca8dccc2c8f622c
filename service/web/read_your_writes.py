"""Read-your-writes: a client that just wrote reads from the primary.

A cookie tells when it wrote. A replica past `DATABASE_REPLICA_MAX_LAG` is never read, so that a
client whose cookie is older finds there what it wrote.
"""

import math
import re
import time
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from service.database import process

COOKIE: Final = "wrote"
# What the clocks of two servers may differ by, and the 0.6 s that PostgreSQL may take to write down
# a commit of `synchronous_commit=off`.
MARGIN_SECONDS: Final = 1.5
_MILLISECONDS: Final = re.compile(r"[0-9]{1,15}", re.ASCII)


def remember_write(response: Response) -> None:
    """Let the client's next reads go to the primary, by a cookie that ends when they need not.

    To be called after the commit. Without a replica no cookie is set.

    Args:
        response: What answers the write.
    """
    replica = process.replica
    if replica is None:
        return
    # It guards nothing, so that it needs no Secure, which clients without TLS would not send back.
    response.set_cookie(
        COOKIE,
        str(round(time.time() * 1000)),
        max_age=math.ceil(replica.max_lag + MARGIN_SECONDS),
        path="/",
        httponly=True,
        samesite="lax",
    )


def has_just_written(request: Request) -> bool:
    """Whether a read has to go to the primary, for `read_session(fresh=…)`; counts those that do.

    A value that is forged, malformed or of the future costs the primary a read, and no more.

    Args:
        request: One that reads.
    """
    replica = process.replica
    # First of all: to look for a cookie reads all of the headers.
    if replica is None or (value := request.cookies.get(COOKIE)) is None:
        return False
    if _age(value) > replica.max_lag + MARGIN_SECONDS:
        return False
    replica.count_fallback("recent_write")
    return True


def _age(value: str) -> float:
    """Seconds since a cookie was set; 0 where it does not tell."""
    return time.time() - int(value) / 1000 if _MILLISECONDS.fullmatch(value) else 0.0
