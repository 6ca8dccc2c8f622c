"""`tidegate catalog import` on every database."""

import array
import fcntl
import io
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from decimal import Decimal
from pathlib import Path
from typing import IO

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError, StatementError

from service.database import DatabaseSettings, process, read_session, write_session
from service.product_catalog.files import BadLine, FileFormat, read_products
from service.product_catalog.import_export import (
    BATCH_LINES,
    ImportResult,
    ImportStoppedError,
    import_products,
)
from service.product_catalog.models import Product
from service.product_catalog.repository import ProductRepository
from tests.product_catalog.support import HEADER, Command, renamed_table
from tests.support.polling import eventually
from tests.support.server import PYTHON, environment


def load(lines: str, *, strict: bool = False, **kwargs: Callable[..., None]) -> ImportResult:
    """Import lines below the usual header."""
    stream = io.BytesIO((HEADER + lines).encode())
    options = {"on_bad": lambda _: None, **kwargs}
    return import_products(read_products(stream, FileFormat.CSV), strict=strict, **options)


def many(count: int, name: str = "n") -> str:
    return "".join(f"P{number:05},{name},,1\n" for number in range(count))


def stored() -> dict[str, Product]:
    with read_session() as session:
        return {row.code: row for row in ProductRepository(session).list()}


@pytest.fixture
def on_postgres(postgres_url: str) -> Iterator[None]:
    process.configure(DatabaseSettings.load(url=postgres_url))
    yield
    process.configure(None)


@pytest.mark.usefixtures("configured")
def test_products_are_loaded_as_they_are_written() -> None:
    assert load('A,n,,9999999999.99\nB,"n, ""m""","two\nlines — ü",0.1\n') == ImportResult(2, 0)
    rows = stored()
    assert (rows["A"].description, rows["A"].price) == (None, Decimal("9999999999.99"))
    assert (rows["B"].name, rows["B"].description) == ('n, "m"', "two\nlines — ü")
    assert (rows["B"].price, rows["B"].version) == (Decimal("0.10"), 1)


@pytest.mark.usefixtures("configured")
def test_known_codes_are_updated_and_equal_rows_left_alone() -> None:
    load("A,old,d,1\nB,same,d,2\nC,same,,3\n")
    before = stored()
    assert load("A,new,,1\nB,same,d,2.00\nC,same,,3\nD,n,,4\n") == ImportResult(4, 0)
    after = stored()
    assert (after["A"].name, after["A"].description, after["A"].version) == ("new", None, 2)
    assert after["A"].id == before["A"].id
    assert after["A"].created_at == before["A"].created_at
    assert after["A"].updated_at > before["A"].updated_at
    for code in ("B", "C"):
        assert after[code].updated_at == before[code].updated_at
        assert after[code].version == 1
    assert len(after) == 4


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("between", [0, 2 * BATCH_LINES])
def test_of_two_lines_with_one_code_the_later_wins(between: int) -> None:
    assert load(f"A,first,,1\n{many(between)}A,last,,2\n") == ImportResult(between + 2, 0)
    rows = stored()
    assert (rows["A"].name, rows["A"].price) == ("last", Decimal(2))
    assert len(rows) == between + 1


@pytest.mark.usefixtures("configured")
def test_good_lines_are_kept_and_bad_ones_told_with_number_and_reason() -> None:
    bad: list[BadLine] = []
    assert load("A,n,,1\nB,n,,-1\nC,,,1\nD,n,,1\n", on_bad=bad.append) == ImportResult(2, 2)
    assert [*stored()] == ["A", "D"]
    assert bad == [
        BadLine(3, "price: Input should be greater than or equal to 0"),
        BadLine(4, "name: String should have at least 1 character"),
    ]


@pytest.mark.usefixtures("configured")
def test_each_batch_is_committed_by_itself() -> None:
    seen: list[int] = []
    load(many(2 * BATCH_LINES + 1), on_batch=lambda _: seen.append(len(stored())))
    assert seen == [BATCH_LINES, 2 * BATCH_LINES, 2 * BATCH_LINES + 1]


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("place", [0, BATCH_LINES + 10, 3 * BATCH_LINES])
def test_strict_loads_nothing_if_any_line_is_bad(place: int) -> None:
    load("KEPT,n,,1\n")
    lines = many(3 * BATCH_LINES).splitlines(keepends=True)
    lines.insert(place, "BAD,n,,x\n")
    lines.append("KEPT,changed,,1\nWORSE,,,1\n")
    bad: list[BadLine] = []
    result = load("".join(lines), strict=True, on_bad=bad.append)
    assert result == ImportResult(0, 2)
    assert [line.number for line in bad] == [place + 2, 3 * BATCH_LINES + 4]
    assert [row.name for row in stored().values()] == ["n"]


@pytest.mark.usefixtures("configured")
def test_strict_loads_a_good_file_at_once() -> None:
    seen: list[int] = []
    count = 2 * BATCH_LINES + 1
    result = load(many(count), strict=True, on_batch=lambda _: seen.append(len(stored())))
    assert result == ImportResult(count, 0)
    assert seen == [0, 0, 0]
    assert len(stored()) == count


@pytest.mark.usefixtures("configured")
def test_imports_of_the_same_products_at_once_do_not_deadlock() -> None:
    forward = many(2 * BATCH_LINES).splitlines(keepends=True)
    files = ["".join(lines) for lines in (forward, reversed(forward), forward[::2] + forward[1::2])]
    with ThreadPoolExecutor(len(files)) as executor:
        results = [*executor.map(load, files)]
    assert results == [ImportResult(2 * BATCH_LINES, 0)] * len(files)
    assert len(stored()) == 2 * BATCH_LINES


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("strict", [False, True])
def test_failing_database_tells_what_is_kept_and_running_again_is_safe(strict: bool) -> None:
    lines = many(3 * BATCH_LINES)
    with ExitStack() as failing:
        if strict:
            failing.enter_context(renamed_table())

        def fail_after_one_batch(so_far: ImportResult) -> None:
            if so_far.loaded == BATCH_LINES:
                failing.enter_context(renamed_table())

        with pytest.raises(ImportStoppedError) as caught:
            load(lines, strict=strict, on_batch=fail_after_one_batch)
    assert isinstance(caught.value.__cause__, SQLAlchemyError)
    assert caught.value.committed == len(stored()) == (0 if strict else BATCH_LINES)
    assert load(lines) == ImportResult(3 * BATCH_LINES, 0)
    assert len(stored()) == 3 * BATCH_LINES


@pytest.mark.usefixtures("on_postgres")
def test_what_does_not_fit_its_column_is_refused_and_not_cut_off() -> None:
    """The schema lets no such value pass; another caller of the repository might."""
    row = {"code": "A", "name": "n", "description": None, "price": Decimal(1)}
    for wrong in ({"name": "n" * 201}, {"price": Decimal("1.001")}, {"price": Decimal(10) ** 10}):
        with pytest.raises(StatementError), write_session() as session:
            ProductRepository(session).load([row | wrong])


@pytest.mark.usefixtures("on_postgres")
def test_upsert_sends_many_rows_as_one_statement_to_postgresql() -> None:
    rows = [
        {"code": f"P{number}", "name": "n", "description": None, "price": Decimal(1)}
        for number in range(100)
    ]
    with write_session() as session:
        ProductRepository(session).upsert(rows, key=["code"])
        cursor = session.connection().connection.cursor()
        cursor.execute("SELECT count(DISTINCT cmin::text) FROM products")
        assert cursor.fetchone() == (1,)


def test_command_reports_what_it_did(command: Command, tmp_path: Path) -> None:
    good = tmp_path / "products.csv"
    good.write_text(HEADER + "A,n,,1\n")
    result = command("import", good)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "loaded 1 product\n", "")
    assert [*stored()] == ["A"]


def test_command_names_each_bad_line_and_exits_with_1(command: Command, tmp_path: Path) -> None:
    mixed = tmp_path / "products.csv"
    mixed.write_text(HEADER + "A,n,,x\nB,n,,1\n")
    result = command("import", mixed)
    assert result.exit_code == 1
    assert result.stdout == "loaded 1 product, rejected 1 line\n"
    assert result.stderr == f"{mixed}:2: price: Input should be a valid decimal\n"
    assert [*stored()] == ["B"]
    result = command("import", mixed, "--strict")
    assert (result.exit_code, result.stdout) == (1, "loaded nothing, rejected 1 line\n")


@pytest.mark.parametrize("suffix", [".ndjson", ".jsonl", ".JSONL"])
def test_command_takes_the_format_from_the_name(
    command: Command, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"products{suffix}"
    file.write_text('{"code": "A", "name": "n", "price": 12.5}\n')
    assert command("import", file).exit_code == 0
    assert stored()["A"].price == Decimal("12.50")


def test_command_reads_standard_input(command: Command) -> None:
    assert command("import", "-", input=HEADER + "A,n,,1\n").exit_code == 0
    line = '{"code": "B", "name": "n", "price": 1}\n{}\n'
    result = command("import", "-", "--format", "ndjson", input=line)
    assert result.exit_code == 1
    assert result.stderr.startswith("<stdin>:2: code: Field required")
    assert [*stored()] == ["A", "B"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("products.csv", None, "No such file"),
        ("folder.csv", "", "Is a directory"),
        ("products.txt", HEADER, "--format"),
        ("products.json", "[]", "--format"),
        ("products.csv", "code;name;price\nA;n;1\n", "semicolons"),
        ("products.csv", "code,name,cost\nA,n,1\n", "unknown column 'cost'"),
    ],
)
def test_command_refuses_what_it_cannot_read(
    command: Command, tmp_path: Path, name: str, content: str | None, complaint: str
) -> None:
    file = tmp_path / name
    if content:
        file.write_text(content)
    elif content == "":
        file.mkdir()
    result = command("import", file)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert stored() == {}


def test_command_asks_for_the_migration_that_is_missing(command: Command) -> None:
    with renamed_table():
        result = command("import", "-", input=HEADER + "A,n,,1\n")
    assert result.exit_code == 20
    assert "tidegate migrate up" in result.stderr
    assert "nothing was loaded" in result.stderr


def test_demo_fills_an_empty_catalog_and_no_other(command: Command) -> None:
    assert command("demo").stdout.startswith("loaded 3")
    with write_session() as session:
        session.execute(text("DELETE FROM products WHERE code <> '12V-BATT-075'"))
    result = command("demo")
    assert (result.exit_code, len(stored())) == (0, 1)
    assert result.stdout == "nothing loaded: the catalog holds products already\n"


def unread(pipe: IO[bytes] | None) -> int:
    """How many bytes of a pipe nobody has read yet."""
    assert pipe is not None
    waiting = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, waiting)
    return waiting[0]


def test_interrupted_command_tells_what_is_kept(configured: DatabaseSettings) -> None:
    url = configured.sync_url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [PYTHON, "-m", "service", "catalog", "import", "-"],
        env=environment({"DATABASE_URL": url}),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as importing:
        assert importing.stdin is not None
        assert importing.stderr is not None
        importing.stdin.write((HEADER + many(BATCH_LINES + 1)).encode())
        importing.stdin.flush()
        eventually(lambda: len(stored()) == BATCH_LINES, within=60)
        # It asks for more once it has counted those.
        importing.stdin.write(b"LAST,n,,1\n")
        importing.stdin.flush()
        eventually(lambda: unread(importing.stdin) == 0, within=60)
        importing.send_signal(signal.SIGINT)
        error = importing.stderr.read().decode()
        assert importing.wait() == 130
    assert error == (
        f"tidegate: interrupted; {BATCH_LINES} products loaded before;"
        " to load the file again is safe\n"
    )


def screen_of(terminal: int) -> Iterator[bytes]:
    """What is written to a terminal until everybody has closed it, which Linux calls an error."""
    with suppress(OSError):
        while shown := os.read(terminal, 65_536):
            yield shown
    os.close(terminal)


def test_progress_is_drawn_where_somebody_watches(
    configured: DatabaseSettings, tmp_path: Path
) -> None:
    file = tmp_path / "products.csv"
    file.write_text(HEADER + many(3000) + "BAD,n,,x\n")
    url = configured.sync_url.render_as_string(hide_password=False)
    watching, terminal = pty.openpty()
    with subprocess.Popen(
        [PYTHON, "-m", "service", "catalog", "import", str(file)],
        env=environment({"DATABASE_URL": url, "TERM": "xterm", "COLUMNS": "200"}),
        stdout=subprocess.PIPE,
        stderr=terminal,
    ) as importing:
        os.close(terminal)
        shown = b"".join(screen_of(watching)).decode()
        assert importing.stdout is not None
        assert importing.stdout.read() == b"loaded 3000 products, rejected 1 line\n"
    assert f"{file}:3002: price: Input should be a valid decimal" in shown
    assert "loading" in shown
    assert "100%" in shown
