"""What is wrong, in a few lines with the worst first, from the reports of the workers."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.web.health_state import Status

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        status: How bad it is.
        what: What it is, in a few words.
        advice: What to do about it, or where to look.
    """

    status: Status
    what: str
    advice: str = ""


def findings(workers: Sequence[Report], expected: int) -> list[dict[str, Any]]:
    """What is wrong, each thing once with the workers that it is wrong with.

    Args:
        workers: The workers' reports; `problem` is set in those that did not answer.
        expected: How many workers there should be.

    Returns:
        Findings with `status`, `what`, `advice` and `workers` (their slots), the worst first, and
        of several that are as bad the one of most workers.
    """
    found: defaultdict[Finding, list[int]] = defaultdict(list)
    for worker in workers:
        for finding in _of_worker(worker):
            if worker["slot"] not in found[finding]:
                found[finding].append(worker["slot"])
    for finding in _of_all(workers, expected):
        found[finding] = []
    ordered = sorted(found.items(), key=lambda one: (one[0].status, -len(one[1])))
    return [
        {
            "status": str(finding.status),
            "what": finding.what,
            "advice": finding.advice,
            "workers": slots,
        }
        for finding, slots in ordered
    ]


def _of_all(workers: Sequence[Report], expected: int) -> Iterator[Finding]:
    if len(workers) < expected:
        advice = "one that ended is started again within seconds; see the log if it is not"
        yield Finding(Status.WARN, f"{len(workers)} of {expected} workers run", advice)
    if len({worker["version"] for worker in workers if not worker["problem"]}) > 1:
        yield Finding(Status.WARN, "the workers run several versions", "see whether a reload hangs")


def _of_worker(worker: Report) -> Iterator[Finding]:
    if worker["problem"]:
        advice = "it hangs or is stopped: it answers again, or the server replaces it"
        yield Finding(Status.FAIL, "a worker does not answer", f"{worker['problem']}; {advice}")
        return
    if worker["loop_delay"] is None:
        advice = "code blocks the event loop: no request of this worker goes on"
        yield Finding(Status.FAIL, "the event loop is blocked", advice)
    yield from _of_checks(worker["checks"])
    for pool in worker["pools"]:
        yield from _of_pool(pool)
    for gate in worker["admission"]:
        yield from _of_gate(gate)


def _of_checks(checks: Iterable[Report]) -> Iterator[Finding]:
    for check in checks:
        status = Status[check["status"].upper()]
        if status is not Status.PASS:
            yield Finding(status, f"{check['check']}: {check['reason']}", check["advice"])


def _of_pool(pool: Report) -> Iterator[Finding]:
    name = pool["pool_name"]
    if pool["is_suspended"]:
        advice = f"when the cause is mended: tidegate pool resume {name}"
        yield Finding(Status.WARN, f"pool {name} is suspended", advice)
    elif pool["waiters"]:
        advice = "see who has the connections, below"
        yield Finding(Status.WARN, f"requests wait for a connection of pool {name}", advice)
    if any(holder["is_leaked"] for holder in pool["holders"]):
        advice = "see its stack below; it comes back when that code lets go, or with the worker"
        yield Finding(Status.WARN, f"pool {name} misses a connection: taken for leaked", advice)


def _of_gate(gate: Report) -> Iterator[Finding]:
    if gate["queue"] and gate["queued"] >= gate["queue"]:
        advice = "too many at once, or each takes too long: see the holders and their routes"
        yield Finding(Status.FAIL, f"{gate['gate']} are turned away: the queue is full", advice)
    elif gate["queued"]:
        yield Finding(Status.WARN, f"{gate['gate']} queue to be admitted", "see the holders below")
