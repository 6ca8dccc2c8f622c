"""`tidegate catalog`: products in bulk, from files and into files."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final, Literal, NoReturn

import typer

from service.cli.output import INTERRUPTED

if TYPE_CHECKING:
    from service.product_catalog.files import BadLine, FileFormat
    from service.product_catalog.import_export import ImportResult, ImportStoppedError

app = typer.Typer(help="Load products from a file, or write them to one.", no_args_is_help=True)

_USAGE: Final = 2
_BROKEN_PIPE: Final = 141
_STANDARD_STREAM: Final = "-"
_SUFFIXES: Final = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}

_FormatOption = Annotated[
    Literal["csv", "ndjson"] | None,
    typer.Option("--format", help="By default what FILE ends in, and csv for a standard stream."),
]


@app.command("import")
def import_file(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="CSV with a header line, or NDJSON; - is standard input."
        ),
    ],
    form: _FormatOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Load nothing if any line is bad.")
    ] = False,
) -> None:
    """Add the products whose code is new, and update the others.

    Bad lines are reported on standard error, the others loaded.
    Exits with 1 if any was bad.
    """
    chosen = _format_of(file, form)
    _connect()
    with _opened(file) as stream:
        result = _import(stream, _shown(file, "<stdin>"), chosen, strict=strict)
    typer.echo(_summary(result, strict=strict))
    if result.rejected:
        raise typer.Exit(1)


@app.command("export")
def export_file(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Replaced once all is written; - is standard output."),
    ] = _STANDARD_STREAM,
    form: _FormatOption = None,
) -> None:
    """Write every product, by code, in the form that `import` takes."""
    from service.cli.output import replacing, standard_output
    from service.product_catalog.import_export import export_products

    chosen = _format_of(file, form)
    _connect()
    try:
        with standard_output() if file == _STANDARD_STREAM else replacing(Path(file)) as target:
            count = export_products(target, chosen)
    except BrokenPipeError:
        # The reader has seen enough, as `head` has. Others would have died of SIGPIPE, with 141.
        raise typer.Exit(_BROKEN_PIPE) from None
    except OSError as error:
        _fail(f"{_shown(file, '<stdout>')}: {error.strerror}", 1)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    typer.echo(f"wrote {_count(count, 'product')}", err=True)


@app.command()
def demo() -> None:
    """Load the products that come with the service, if the catalog is empty."""
    from importlib import resources

    from service.database import read_session
    from service.product_catalog.files import FileFormat
    from service.product_catalog.repository import ProductRepository

    _connect()
    with read_session() as session:
        if ProductRepository(session).exists():
            typer.echo("nothing loaded: the catalog holds products already")
            return
    with resources.files("service.product_catalog").joinpath("demo.csv").open("rb") as stream:
        result = _import(stream, "demo.csv", FileFormat.CSV, strict=True)
    typer.echo(_summary(result, strict=True))


def _format_of(file: str, form: str | None) -> "FileFormat":
    from service.product_catalog.files import FileFormat

    name = form or ("csv" if file == _STANDARD_STREAM else _SUFFIXES.get(Path(file).suffix.lower()))
    if name is None:
        endings = ", ".join(_SUFFIXES)
        _fail(f"{file}: ends in none of {endings}; say --format csv or --format ndjson", _USAGE)
    return FileFormat(name)


def _connect() -> None:
    from service.database import process
    from service.settings import load_settings

    process.configure(load_settings().database)


@contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    if file == _STANDARD_STREAM:
        yield sys.stdin.buffer
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 - only opening it is to be caught
    except OSError as error:
        _fail(f"{file}: {error.strerror}", _USAGE)
    with stream:
        yield stream


def _import(stream: IO[bytes], name: str, form: "FileFormat", *, strict: bool) -> "ImportResult":
    from service.cli.output import progress_through
    from service.product_catalog.files import FileFormatError, read_products
    from service.product_catalog.import_export import ImportStoppedError, import_products

    try:
        with progress_through(stream) as progress:

            def report(bad: "BadLine") -> None:
                progress.say(f"{name}:{bad.number}: {bad.reason}")

            return import_products(
                read_products(stream, form),
                on_bad=report,
                strict=strict,
                on_batch=lambda so_far: progress.advance(so_far.loaded + so_far.rejected),
            )
    except FileFormatError as error:
        _fail(f"{name}: {error}", _USAGE)
    except ImportStoppedError as stopped:
        _explain(stopped, name)


def _explain(stopped: "ImportStoppedError", name: str) -> NoReturn:
    from service.cli.errors import explain

    kept = (
        f"{_count(stopped.committed, 'product')} loaded before; to load the file again is safe"
        if stopped.committed
        else "nothing was loaded"
    )
    cause = stopped.__cause__
    if isinstance(cause, KeyboardInterrupt):
        _fail(f"interrupted; {kept}", INTERRUPTED)
    if isinstance(cause, OSError):
        _fail(f"{name}: {cause.strerror}; {kept}", 1)
    line, code = explain(cause) if isinstance(cause, Exception) else (None, 1)
    if line is None:
        raise stopped
    _fail(f"{line}; {kept}", code)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"tidegate: {message}", err=True)
    raise typer.Exit(code)


def _shown(file: str, standard_stream: str) -> str:
    return standard_stream if file == _STANDARD_STREAM else file


def _summary(result: "ImportResult", *, strict: bool) -> str:
    rejected = f", rejected {_count(result.rejected, 'line')}" if result.rejected else ""
    if strict and rejected:
        return f"loaded nothing{rejected}"
    return f"loaded {_count(result.loaded, 'product')}{rejected}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
