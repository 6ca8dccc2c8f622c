"""Who may see more than the public: whoever sends `OPS_TOKEN`."""

import hmac

from fastapi import Request

from service.settings import Settings


def has_ops_token(request: Request) -> bool:
    """Whether a request carries `Authorization: Bearer` with `OPS_TOKEN`.

    The comparison takes as long for a token that is nearly right as for any other of its length.

    Args:
        request: Any request; without the setting, none has the token.
    """
    settings: Settings = request.app.state.settings
    if settings.ops_token is None:
        return False
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    # Headers are read as Latin-1; so this gives the bytes that were sent.
    given, expected = token.strip().encode("latin-1"), settings.ops_token.get_secret_value()
    return scheme.lower() == "bearer" and hmac.compare_digest(given, expected.encode())
