"""What the demo asks Prometheus."""

from typing import Any, Literal, NamedTuple

import httpx2

State = Literal["pending", "firing"]


class Alert(NamedTuple):
    """An alert that is pending or fires, with its summary as a message would have it."""

    state: State
    summary: str


class Prometheus:
    """A running server.

    Args:
        port: Where it listens.
    """

    def __init__(self, port: int) -> None:
        self._http = httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10)

    def close(self) -> None:
        """Ask nothing more."""
        self._http.close()

    def alerts(self) -> dict[str, Alert]:
        """The alerts that are pending or fire, by name; of several the one that fires."""
        found: dict[str, Alert] = {}
        for each in self._get("alerts")["alerts"]:
            name, state = each["labels"]["alertname"], each["state"]
            if state == "firing" or name not in found:
                found[name] = Alert(state, each["annotations"]["summary"])
        return found

    def value(self, query: str) -> float | None:
        """What a query for one series finds."""
        result = self._get("query", query=query)["result"]
        return float(result[0]["value"][1]) if result else None

    def _get(self, path: str, **params: str) -> Any:
        return self._http.get(f"/{path}", params=params).raise_for_status().json()["data"]
