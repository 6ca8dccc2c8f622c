"""`tidegate settings`: what is in force, and where it came from."""

from dataclasses import asdict
from typing import Annotated

import typer

from service.cli.output import AsJson


def settings(
    changed: Annotated[bool, typer.Option("--changed", help="Only what somebody has set.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show every setting, where it came from, and what it may be; secrets are masked.

    Exits with 2 where the service or `tidegate migrate` would not start with them.
    """
    from service.migrator.settings import MigratorSettings
    from service.settings import load_settings
    from service.settings_report import report_settings

    reported = report_settings(load_settings(), MigratorSettings.load())
    found = [one for one in reported if one.is_set or not changed]
    if as_json:
        from service.cli.output import print_json

        print_json({"settings": [asdict(one) for one in found]})
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from service.cli.output import wide_console

    table = Table(
        "setting",
        "value",
        "source",
        "allowed",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for one in found:
        value = "-" if one.value is None else f"{one.value} {one.unit}".rstrip()
        cells = (one.name, value, one.source, one.allowed)
        table.add_row(*(Text(cell, "bold" if one.is_set else "") for cell in cells))
    wide_console().print(table)
