"""Who may see more than the public: whoever sends `OPS_TOKEN`."""

import hmac
import math
import time
from collections import OrderedDict
from typing import Final

from fastapi import Request
from pydantic import SecretStr

# Wrong tokens of one address within the window, after which it is not listened to until its end.
MAX_GUESSES: Final = 10
WINDOW_SECONDS: Final = 60.0
# Addresses that are remembered: who has so many guesses no 16 characters all the same.
_MAX_ADDRESSES: Final = 1024


class TokenGuard:
    """Compares with the token, and does not listen to whoever guesses.

    Args:
        token: `OPS_TOKEN`; None lets nobody in.
    """

    def __init__(self, token: SecretStr | None) -> None:
        self._token = token.get_secret_value().encode() if token else None
        # By address: how many were wrong, and when that is forgotten.
        self._guesses: OrderedDict[str, tuple[int, float]] = OrderedDict()

    @property
    def key(self) -> bytes | None:
        """What sessions are sealed with; None without a token."""
        return self._token

    def accepts(self, given: bytes, address: str) -> bool:
        """Whether this is the token.

        The comparison takes as long for one that is nearly right as for any other of its length.

        Args:
            given: What was sent.
            address: By whom: the address that the server sees, which may be a proxy's.
        """
        if self._token is None or self.retry_after(address):
            return False
        if hmac.compare_digest(given, self._token):
            return True
        count, end = self._guesses.pop(address, (0, time.monotonic() + WINDOW_SECONDS))
        self._guesses[address] = (count + 1, end)
        if len(self._guesses) > _MAX_ADDRESSES:
            self._guesses.popitem(last=False)
        return False

    def retry_after(self, address: str) -> int:
        """How many seconds an address is not listened to any more, the right token included.

        Args:
            address: As for `accepts`.
        """
        count, end = self._guesses.get(address, (0, 0.0))
        left = math.ceil(end - time.monotonic())
        if left <= 0:
            self._guesses.pop(address, None)
            return 0
        return left if count >= MAX_GUESSES else 0


def guard_of(request: Request) -> TokenGuard:
    """The guard of the application that is asked."""
    guard: TokenGuard = request.app.state.token_guard
    return guard


def address_of(request: Request) -> str:
    """Where a request comes from; empty over a Unix socket."""
    return request.client.host if request.client else ""


def has_ops_token(request: Request) -> bool:
    """Whether a request carries `Authorization: Bearer` with `OPS_TOKEN`.

    Args:
        request: Any request; without the setting, none has the token.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return False
    # Headers are read as Latin-1; so this gives the bytes that were sent.
    return guard_of(request).accepts(token.strip().encode("latin-1"), address_of(request))
