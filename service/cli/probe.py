"""`tidegate probe`: ask a probe from within the container, which has no curl.

No framework is imported here: `service.__main__` says why.
"""

import http.client
import sys
from typing import Final

from service.port import configured_port

_TIMEOUT: Final = 3.0


def ask(name: str) -> int:
    """Ask the service on this machine, print what it says, and return the exit code.

    The port is `PORT`; the other settings are not read, which would cost more than the question.

    Args:
        name: `live`, `ready` or `startup`.

    Returns:
        0 if the answer is yes, 1 if it is no or does not come within 3 s.
    """
    port = configured_port()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=_TIMEOUT)
        connection.request("GET", f"/{name}z")
        response = connection.getresponse()
        body = response.read(65_536).decode("utf-8", "replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"no answer on port {port}: {error}", file=sys.stderr)  # noqa: T201 - a command
        return 1
    print(body)  # noqa: T201 - as above
    return 0 if response.status == http.client.OK else 1
