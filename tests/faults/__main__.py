"""Cause each fault of a database for real, and show what probes and clients see of it.

Run `python -m tests.faults`, or with the names of some faults. Each has a PostgreSQL and a gunicorn
of its own. It ends with status 1 when a bound is missed; what cannot be caused here is SKIPPED.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.faults import experiment, report
from tests.faults.faults import FAULTS
from tests.faults.outcome import Outcome, Times

_SETTINGS: Final = {
    "fault": "seconds that a fault lasts",
    "interval": "HEALTH_INTERVAL",
    "timeout": "HEALTH_TIMEOUT",
    "deadline": "DATABASE_QUERY_DEADLINE",
    "after": "seconds that are watched after the recovery",
}


def main() -> None:
    """Run the program."""
    given = _arguments()
    times = Times(**{name: getattr(given, name) for name in _SETTINGS})
    console = Console()
    results: list[Outcome | report.Skipped] = []
    for fault in [each() for each in FAULTS if each.name in (given.faults or _names())]:
        reason = fault.missing()
        if reason is None:
            with console.status(f"{fault.name}: {fault.story}"):
                results.append(experiment.run(fault, times))
        else:
            results.append(report.Skipped(fault, reason))
        report.show(results[-1], console)
    console.print(report.brief(results).rich("All faults"))
    if given.write:
        given.write.write_text(report.page(results, times))
        console.print(f"written to {given.write}")
    missed = [each for each in results if isinstance(each, Outcome) and each.missed()]
    sys.exit(1 if missed else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("faults", nargs="*", metavar="fault", help=", ".join(_names()))
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page of the docs")
    for name, text in _SETTINGS.items():
        default = getattr(Times(), name)
        parser.add_argument(
            f"--{name}", type=float, default=default, help=f"{text} (default {default:g})"
        )
    given = parser.parse_args()
    if unknown := set(given.faults) - set(_names()):
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(_names())}")
    return given


def _names() -> list[str]:
    return [each.name for each in FAULTS]


if __name__ == "__main__":
    main()
