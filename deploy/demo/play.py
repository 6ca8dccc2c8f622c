"""Plays a scene: break it, await the alerts, say what the runbook does, mend it, await the end."""

import time
from collections.abc import Callable
from typing import Final

from deploy.demo.narrator import Narrator, Timing
from deploy.demo.prometheus import Alert, Prometheus
from deploy.demo.runbooks import advice, path_of
from deploy.demo.scenes import Act, Output, Scene, Stage
from deploy.demo.stack import ROOT

FIRING_SECONDS: Final = 60.0
RESOLVED_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.25


class SceneError(Exception):
    """An alert did not do in time what it has to; the text says which."""


class Player:
    """Plays scenes, one after another.

    Args:
        stage: What they play on.
        prometheus: Whom to ask for alerts.
        narrator: Who tells of it.
    """

    def __init__(self, stage: Stage, prometheus: Prometheus, narrator: Narrator) -> None:
        self._stage = stage
        self._prometheus = prometheus
        self._narrator = narrator

    def play(self, scene: Scene, timings: list[Timing]) -> None:
        """Play a scene.

        Args:
            scene: Which.
            timings: Gets the times of its alerts, as they become known.

        Raises:
            SceneError: An alert did not fire, or did not resolve, in time.
        """
        own = {each.name: Timing(scene.title, each.name) for each in scene.expected}
        timings += own.values()
        self._await_calm(scene)
        self._narrator.restart_clock()
        cause = time.monotonic()
        before = self._firing()
        try:
            self._act(scene.cause)
            self._await_firing(scene, own, cause)
        except SceneError:
            self._act(scene.end)
            raise
        self._act(scene.look)
        others = self._firing() - before - own.keys()
        end = time.monotonic()
        self._act(scene.end)
        self._await_resolved(scene, own, end)
        if others:
            self._narrator.detail(f"Also fired: {', '.join(sorted(others))}", "dim")

    def _act(self, act: Act) -> None:
        for said in act(self._stage):
            if isinstance(said, Output):
                self._narrator.output(said.text, cut=said.is_table)
            else:
                self._narrator.event(said, "bold")

    def _await_calm(self, scene: Scene) -> None:
        def look(alerts: dict[str, Alert]) -> bool:
            return alerts.keys().isdisjoint(each.name for each in scene.expected)

        self._await(scene, look, RESOLVED_SECONDS, "fires before its cause")

    def _await_firing(self, scene: Scene, own: dict[str, Timing], start: float) -> None:
        pending: set[str] = set()

        def look(alerts: dict[str, Alert]) -> bool:
            for name in own.keys() & alerts.keys():
                if alerts[name].state == "firing" and own[name].fired is None:
                    own[name].fired = time.monotonic() - start
                    self._tell_of_firing(scene, name, alerts[name])
                elif name not in pending:
                    pending.add(name)
                    self._narrator.event(f"{name} is pending  {self._values(scene)}", "yellow")
            return all(timing.fired is not None for timing in own.values())

        self._await(scene, look, FIRING_SECONDS, "did not fire")

    def _await_resolved(self, scene: Scene, own: dict[str, Timing], start: float) -> None:
        def look(alerts: dict[str, Alert]) -> bool:
            for name, timing in own.items():
                is_firing = name in alerts and alerts[name].state == "firing"
                if timing.resolved is None and not is_firing:
                    timing.resolved = time.monotonic() - start
                    self._narrator.event(f"{name} is resolved  {self._values(scene)}", "green")
            return all(timing.resolved is not None for timing in own.values())

        self._await(scene, look, RESOLVED_SECONDS, "did not resolve")

    def _tell_of_firing(self, scene: Scene, name: str, alert: Alert) -> None:
        self._narrator.event(f"{name} FIRES  {self._values(scene)}", "bold red")
        self._narrator.detail(alert.summary)
        (case,) = (each.case for each in scene.expected if each.name == name)
        runbook = path_of(name).relative_to(ROOT)
        self._narrator.detail(f"{runbook}: {advice(name, case)}", "magenta")

    def _await(
        self,
        scene: Scene,
        look: Callable[[dict[str, Alert]], bool],
        within: float,
        complaint: str,
    ) -> None:
        deadline = time.monotonic() + within
        with self._narrator.working(scene.title):
            while not look(self._prometheus.alerts()):
                if time.monotonic() > deadline:
                    names = ", ".join(each.name for each in scene.expected)
                    raise SceneError(f"{scene.title}: of {names} one {complaint} in {within:g} s")
                self._narrator.now(self._values(scene))
                time.sleep(_POLL_SECONDS)

    def _values(self, scene: Scene) -> str:
        """The series that matter, and how requests end."""
        values = [(series.name, self._prometheus.value(series.query)) for series in scene.series]
        shown = ", ".join(f"{name} {value:g}" for name, value in values if value is not None)
        return f"[{shown}; answers {self._stage.load.recent() or 'none'}]"

    def _firing(self) -> set[str]:
        alerts = self._prometheus.alerts()
        return {name for name, alert in alerts.items() if alert.state == "firing"}
