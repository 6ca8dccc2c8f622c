"""The workers that run here, by what they say of themselves."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from service.doctor.findings import Finding, Findings
from service.settings import Settings
from service.web.control_client import ask_workers
from service.web.control_directory import ControlError


def examine_workers(settings: Settings | None, *, port: int, timeout: float) -> Iterator[Finding]:
    """Ask every worker how it is.

    Args:
        settings: How many there should be.
        port: Where their server serves requests.
        timeout: Seconds.
    """
    findings = Findings("workers", f"port {port}")
    try:
        replies = ask_workers({"command": "show"}, port=port, timeout=timeout)
    except ControlError as error:
        told, _, advice = str(error).partition("; ")
        yield findings.warned(told, advice or "start the service, or look where it runs")
        return
    wanted = settings.web_concurrency if settings is not None else len(replies)
    yield findings.judged(
        len(replies) == wanted,
        f"{len(replies)} of {wanted} run",
        "WEB_CONCURRENCY is another here, a reload is on, or the log tells why workers end",
    )
    for reply in replies:
        one = Findings("workers", f"worker {reply.slot}")
        if reply.problem:
            yield one.failed(reply.problem, "see the log; gunicorn replaces a worker that is stuck")
            continue
        complaints = [*_complaints(one, reply.answer)]
        yield from complaints or [one.passed("answers, and all of its checks pass")]


def _complaints(findings: Findings, report: Mapping[str, Any]) -> Iterator[Finding]:
    if report["loop_delay"] is None:
        yield findings.failed("its event loop is blocked", "see the log for the stack it hangs in")
    if report["version"] != version("tidegate"):
        yield findings.warned(
            f"it is of {report['version']}, and not of {version('tidegate')}", "reload the service"
        )
    for check in report["checks"]:
        if check["status"] == "fail":
            yield findings.failed(f"{check['check']}: {check['reason']}", check["advice"])
        elif check["status"] == "warn":
            yield findings.warned(f"{check['check']}: {check['reason']}", check["advice"])
    for pool in report["pools"]:
        yield from _pool_complaints(findings, pool)


def _pool_complaints(findings: Findings, pool: Mapping[str, Any]) -> Iterator[Finding]:
    name = pool["pool_name"]
    if pool["is_suspended"]:
        yield findings.warned(f"pool {name} is suspended", f"`tidegate pool resume {name}`")
    if leaked := sum(holder["is_leaked"] for holder in pool["holders"]):
        yield findings.warned(
            f"pool {name}: {leaked} connections are out for too long",
            "`tidegate pool show --stacks` tells who has them",
        )
    if pool["waiters"]:
        yield findings.warned(
            f"pool {name}: {len(pool['waiters'])} wait in line for a connection",
            "`tidegate pool top` tells who has them",
        )
