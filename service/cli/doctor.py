"""`tidegate doctor`: what is wrong, and what to do."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from service.cli.output import AsJson

if TYPE_CHECKING:
    from service.doctor.findings import Finding

# prometheus_client's own, which makes files in that directory for each process that has it set:
# the service's scrape would show the doctor's pools among its own.
_METRICS_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
_STYLES: Final = {"pass": "green", "warn": "bold yellow", "fail": "bold red"}


def doctor(
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65_535, help="The service's port; PORT when left out."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.5, max=60, help="Seconds for each database, all at once.")
    ] = 5.0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for a warning.")] = False,
    detail: Annotated[
        bool,
        typer.Option("--detail", help="What drivers say, too; it may name hosts and users."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at everything that the service needs, and say what is wrong and what to do.

    Exits with 1 if something fails.
    """
    metrics_directory = os.environ.pop(_METRICS_DIRECTORY, None)
    from service.cli.ports import service_port
    from service.doctor.examination import examine
    from service.doctor.findings import Verdict, worst

    findings = examine(
        port=port or service_port(), timeout=timeout, metrics_directory=metrics_directory
    )
    verdict = worst(findings)
    if as_json:
        from service.cli.output import print_json

        hidden = () if detail else ("detail",)
        told = [
            {key: text for key, text in asdict(finding).items() if key not in hidden}
            for finding in findings
        ]
        print_json({"verdict": str(verdict), "findings": told})
    else:
        _print(findings, detail=detail)
    if verdict is Verdict.FAIL or (strict and verdict is Verdict.WARN):
        raise typer.Exit(1)


def _print(findings: "Sequence[Finding]", *, detail: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from service.cli.output import wide_console

    console = wide_console()
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        lines = [finding.told]
        if finding.advice:
            lines.append(f"-> {finding.advice}")
        if detail and finding.detail:
            lines.append(f"   {finding.detail}")
        table.add_row(
            Text(finding.verdict.upper(), _STYLES[finding.verdict]),
            Text(finding.group),
            Text(finding.subject),
            Text("\n".join(lines)),
        )
    console.print(table)
    counts = {one: sum(finding.verdict == one for finding in findings) for one in _STYLES}
    console.print(
        Text(f"\n{counts['pass']} pass, {counts['warn']} warn, {counts['fail']} fail", "bold")
    )
