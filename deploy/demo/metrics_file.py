"""Serves one file of metrics to Prometheus, as a node exporter's textfile collector would.

It runs in the image, with nothing but Python's own library.
"""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Final
from urllib.request import urlopen

PORT: Final = 9100


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer with what is in the file; with nothing before there is one."""
        path = Path(sys.argv[1])
        body = path.read_bytes() if path.exists() else b""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: it is asked every second."""


if __name__ == "__main__":
    if "--probe" in sys.argv:
        sys.exit(urlopen(f"http://127.0.0.1:{PORT}", timeout=2).status != 200)  # noqa: PLR2004
    # All interfaces, of a container that publishes no port.
    HTTPServer(("0.0.0.0", PORT), _Handler).serve_forever()  # noqa: S104
