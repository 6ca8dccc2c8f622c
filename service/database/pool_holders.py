"""Who has a connection: since when, for which route, and from where in the code."""

import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

import sqlalchemy
from greenlet import getcurrent

# What tells the route that the code which runs now works for: the web layer sets it for each
# request. It is asked at the checkout, because a router decides after the request began.
route_source: ContextVar[Callable[[], str] | None] = ContextVar("route_source", default=None)

# Frames between the pool's caller and here. They tell nothing, and each costs 65 ns.
_SKIPPED: Final = 6
# Frames that are kept of the code that takes a connection: to look at more costs every checkout.
_DEPTH: Final = 8
_LIBRARY: Final = str(Path(sqlalchemy.__file__).parent)
# Every module of the pool is named for it.
_OWN: Final = str(Path(__file__).parent / "pool")
# SQLAlchemy makes some of its functions as it runs.
_GENERATED: Final = "<sqlalchemy "
# Whether the code of a file takes connections, or is of what hands them out.
_takes: Final[dict[str, bool]] = {}


def current_route() -> str:
    """The template of the route that the code which runs now works for; empty outside of any."""
    source = route_source.get()
    return source() if source is not None else ""


class Holder:
    """One checkout that has not come back."""

    __slots__ = ("is_leaked", "route", "since", "stack")

    def __init__(self, with_stack: bool) -> None:
        self.since = time.perf_counter()
        self.route = current_route()
        self.stack = _capture() if with_stack else ()
        self.is_leaked = False

    @property
    def age(self) -> float:
        """Seconds since the checkout."""
        return time.perf_counter() - self.since

    def borrow_site(self) -> list[str]:
        """The code that took the connection, innermost first, without SQLAlchemy's part of it.

        Returns:
            Lines of the form `path:line in function`; empty where stacks are not captured.
        """
        return [
            f"{code.co_filename}:{_line(code, position)} in {code.co_qualname}"
            for code, position in self.stack
        ]

    def __str__(self) -> str:
        where = f"for {self.route}" if self.route else "outside of any route"
        return f"{self.age:.1f} s {where}"


def _capture() -> tuple[tuple[CodeType, int], ...]:
    # Code and position, and not the frames: those would keep every local variable alive.
    stack: list[tuple[CodeType, int]] = []
    try:
        _walk(sys._getframe(_SKIPPED), stack)  # noqa: SLF001 - there is no other way to a frame
    except ValueError:
        # A greenlet's stack may be as short as this.
        _walk(sys._getframe(2), stack)  # noqa: SLF001
    if (parent := getcurrent().parent) is not None:
        # For asyncio SQLAlchemy runs in a greenlet: its caller's frames are those of the parent.
        _walk(parent.gr_frame, stack)
    return tuple(stack)


def _walk(frame: FrameType | None, stack: list[tuple[CodeType, int]]) -> None:
    while frame is not None and len(stack) < _DEPTH:
        code = frame.f_code
        try:
            is_taker = _takes[code.co_filename]
        except KeyError:
            is_taker = not code.co_filename.startswith((_LIBRARY, _OWN, _GENERATED))
            _takes[code.co_filename] = is_taker
        if is_taker:
            stack.append((code, frame.f_lasti))
        frame = frame.f_back


def _line(code: CodeType, position: int) -> int:
    positions = [*code.co_positions()]
    return positions[position // 2][0] or code.co_firstlineno
