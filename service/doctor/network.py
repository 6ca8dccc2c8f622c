"""Why a database server cannot be reached, told without a driver."""

import socket
import time

from sqlalchemy.engine import URL

from service.database.urls import DEFAULT_PORTS


def network_complaint(url: URL, timeout: float) -> tuple[str, str] | None:
    """Try to reach a server's port.

    Args:
        url: The database's.
        timeout: Seconds.

    Returns:
        What is wrong and what to do; None where the port can be reached, or there is none.
    """
    host = url.host or _first(url.query.get("host"))
    if not host or host.startswith("/") or "," in host or "unix_socket" in url.query:
        return None
    port = url.port or int(_first(url.query.get("port")) or DEFAULT_PORTS[url.get_backend_name()])
    deadline = time.monotonic() + timeout
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return "its host name is not known", "correct the host, or see to the name server"
    errors = [_connect(address[4], address[0], deadline) for address in addresses]
    if None in errors:
        return None
    if any(isinstance(error, ConnectionRefusedError) for error in errors):
        return "nothing listens on its port", "start the server, or correct the port"
    if any(isinstance(error, TimeoutError) for error in errors):
        return (
            "its host does not answer",
            "see to the network: a firewall, a NetworkPolicy, or a wrong address",
        )
    return "its host cannot be reached", "see to the network, or correct the host"


def _connect(address: tuple[object, ...], family: int, deadline: float) -> OSError | None:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(max(0.05, deadline - time.monotonic()))
        try:
            client.connect(address)
        except OSError as error:
            return error
    return None


def _first(value: str | tuple[str, ...] | None) -> str:
    if isinstance(value, tuple):
        return value[0] if value else ""
    return value or ""
