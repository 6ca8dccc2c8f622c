"""HTTP over bare sockets: clients that leave, that do not read, or that are many."""

import contextlib
import json
import socket

from tests.support.server import Service

# What ends a body in chunks that is whole.
END = b"0\r\n\r\n"


def ask(
    service: Service,
    request: str,
    body: object = None,
    *,
    receive_buffer: int | None = None,
) -> socket.socket:
    """Send a request and wait for nothing.

    Args:
        service: Whom to ask.
        request: Method and path.
        body: What to send as JSON.
        receive_buffer: Bytes that the kernel takes of the answer before anybody reads it.

    Returns:
        The connection, which the caller closes.
    """
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(30)
    client.connect(("127.0.0.1", service.port))
    content = b"" if body is None else json.dumps(body).encode()
    headers = (
        f"{request} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    client.sendall(headers.encode() + content)
    return client


def rest(client: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    parts = []
    while part := client.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def until_end(client: socket.socket) -> bytes:
    """What comes until the connection ends, well or not."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(1 << 20):
            received += piece
    return received
