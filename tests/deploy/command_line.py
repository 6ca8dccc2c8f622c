"""What `tidegate` makes of a command line."""

from collections.abc import Sequence
from typing import Any

import typer.main

from service.cli.main import app


def parse(words: Sequence[str]) -> None:
    """Have `tidegate` parse a command line, and run nothing; it raises what it does not know."""
    program, *rest = words
    assert program == "tidegate", words
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *rest = rest
        command = command.commands[name]
    command.make_context(command.name, rest)
