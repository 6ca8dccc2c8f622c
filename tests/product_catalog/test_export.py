"""`tidegate catalog export` on every database, and that what it writes is what `import` reads."""

import io
import json
import os
import subprocess
import threading
from collections.abc import Mapping
from decimal import Decimal
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from service.database import DatabaseSettings, read_session, write_session
from service.product_catalog.files import BadLine, FileFormat, ProductRow, read_products
from service.product_catalog.import_export import export_products, import_products
from service.product_catalog.models import Product
from service.product_catalog.repository import ProductRepository
from service.product_catalog.schemas import ProductInput
from tests.product_catalog.support import HEADER, Command, product, renamed_table
from tests.support.server import PYTHON, environment


def store(*products: ProductRow) -> None:
    with write_session() as session:
        ProductRepository(session).load(products)


def clear() -> None:
    with write_session() as session:
        session.execute(delete(Product))


def exported(form: FileFormat = FileFormat.CSV) -> str:
    target = io.StringIO(newline="")
    export_products(target, form)
    return target.getvalue()


def refuse(bad: BadLine) -> None:
    raise AssertionError(bad)


@pytest.mark.usefixtures("configured")
def test_csv_has_a_header_and_the_products_by_code() -> None:
    store(
        product("B", name='5" nail, long', description="one\ntwo", price=Decimal("9999999999.99")),
        product("A", name="café", price=Decimal("0.1")),
    )
    assert exported() == HEADER + ('A,café,,0.10\nB,"5"" nail, long","one\ntwo",9999999999.99\n')


@pytest.mark.usefixtures("configured")
def test_ndjson_has_an_object_a_line_and_prices_as_exact_text() -> None:
    store(product("B"), product("A", description="ü\n"), product("C", price=Decimal(1000000000)))
    lines = exported(FileFormat.NDJSON).splitlines()
    assert lines[0] == '{"code": "A", "name": "n", "description": "ü\\n", "price": "1.00"}'
    assert [json.loads(line)["price"] for line in lines] == ["1.00", "1.00", "1000000000.00"]
    assert json.loads(lines[1])["description"] is None


@pytest.mark.usefixtures("configured")
def test_empty_catalog_is_a_header_or_nothing() -> None:
    assert exported(FileFormat.CSV) == HEADER
    assert exported(FileFormat.NDJSON) == ""


printable = st.characters(exclude_categories=["Cs", "Cc"])
awkward = st.sampled_from(['"', ",", "'", "=1+1", "\ufeff", "\\", "\u2028", '""', "#", '",'])
awkward_lines = st.sampled_from(['"\n"', ",\n,", "a\tb", "\\n", "null", "A,n,,1\nB,n,,1"])
candidates = st.fixed_dictionaries(
    {
        "code": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True),
        "name": st.text(printable, min_size=1, max_size=20) | awkward,
        "description": (
            st.none() | st.text(printable | st.sampled_from("\n\t")) | awkward | awkward_lines
        ),
        "price": st.decimals(0, Decimal("9999999999.99"), places=2),
    }
)


def as_kept(candidate: Mapping[str, object]) -> ProductRow:
    """The product as the catalog keeps it; an empty row if it would not."""
    try:
        return dict(ProductInput.model_validate(candidate))
    except ValueError:
        return {}


catalogs = st.lists(
    candidates.map(as_kept).filter(bool), max_size=8, unique_by=lambda row: str(row["code"])
)


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("form", FileFormat)
@settings(
    max_examples=40,
    deadline=None,
    # The database outlives an example, which therefore clears it.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(catalog=catalogs)
def test_any_catalog_survives_export_and_import(
    catalog: list[ProductRow], form: FileFormat
) -> None:
    clear()
    store(*catalog)
    written = exported(form)
    clear()
    result = import_products(
        read_products(io.BytesIO(written.encode()), form), on_bad=refuse, strict=True
    )
    assert result.loaded == len(catalog)
    assert exported(form) == written
    with read_session() as session:
        rows = {row.code: row for row in ProductRepository(session).list()}
    kept = [{name: getattr(rows[row["code"]], name) for name in row} for row in catalog]
    assert kept == catalog


@pytest.mark.usefixtures("configured")
def test_catalog_of_many_batches_survives_export_and_import() -> None:
    store(*(product(f"P{number:05}", price=Decimal(number)) for number in range(4567)))
    written = exported()
    clear()
    items = read_products(io.BytesIO(written.encode()), FileFormat.CSV)
    assert import_products(items, on_bad=refuse).loaded == 4567
    assert exported() == written


class WritingTarget(io.StringIO):
    """A file during whose writing somebody adds a product."""

    def __init__(self) -> None:
        super().__init__(newline="")
        self.is_first = True

    def write(self, text: str) -> int:
        if self.is_first and not text.startswith("code"):
            self.is_first = False
            store(product("Z-LATER"))
        return super().write(text)


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("form", FileFormat)
def test_export_is_of_one_moment_and_keeps_nobody_from_writing(form: FileFormat) -> None:
    store(*(product(f"P{number:05}") for number in range(3000)))
    target = WritingTarget()
    assert export_products(target, form) == 3000
    assert "Z-LATER" not in target.getvalue()
    assert "Z-LATER" in exported(form)


def test_command_writes_standard_output_by_default(command: Command) -> None:
    store(product(name="café"))
    result = command("export")
    assert (result.exit_code, result.stderr) == (0, "wrote 1 product\n")
    assert result.stdout_bytes == f"{HEADER}A,café,,1.00\n".encode()
    assert command("export", "--format", "ndjson").stdout.startswith('{"code": "A"')


@pytest.mark.parametrize("name", ["products.csv", "products.ndjson", "products.JSONL"])
def test_command_writes_a_file_that_import_reads(
    command: Command, tmp_path: Path, name: str
) -> None:
    store(product(name="café", description="one\ntwo"), product("B"))
    file = tmp_path / name
    assert command("export", file).exit_code == 0
    clear()
    assert command("import", file, "--strict").stdout == "loaded 2 products\n"
    again = tmp_path / f"again-{name}"
    command("export", again)
    assert again.read_bytes() == file.read_bytes()


def test_demo_file_is_what_export_writes(command: Command, tmp_path: Path) -> None:
    command("demo")
    file = tmp_path / "products.csv"
    command("export", file)
    demo = resources.files("service.product_catalog").joinpath("demo.csv").read_text("utf-8")
    # Each database sorts in its own way.
    assert sorted(file.read_text("utf-8").splitlines()) == sorted(demo.splitlines())


def test_failed_export_leaves_the_former_file(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_text("former")
    file.chmod(0o600)
    with renamed_table():
        assert command("export", file).exit_code != 0
    assert file.read_text() == "former"
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []
    assert command("export", file).exit_code == 0
    assert file.read_text() == HEADER
    assert file.stat().st_mode & 0o777 == 0o600


def test_command_follows_a_link_instead_of_replacing_it(command: Command, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "products.csv"
    link.symlink_to(tmp_path / "real" / "products.csv")
    assert command("export", link).exit_code == 0
    assert link.is_symlink()
    assert (tmp_path / "real" / "products.csv").read_text() == HEADER


@pytest.mark.parametrize(
    ("name", "code", "complaint"),
    [
        ("missing/products.csv", 1, "No such file or directory"),
        ("folder.csv", 1, "Is a directory"),
        ("products.txt", 2, "--format"),
    ],
)
def test_command_refuses_what_it_cannot_write(
    command: Command, tmp_path: Path, name: str, code: int, complaint: str
) -> None:
    (tmp_path / "folder.csv").mkdir()
    result = command("export", tmp_path / name)
    assert result.exit_code == code
    assert result.stderr.startswith("tidegate: ")
    assert complaint in result.stderr


def test_command_writes_to_a_named_pipe(command: Command, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert command("export", pipe).exit_code == 0
    reader.join(timeout=30)
    assert read == [HEADER]
    assert pipe.is_fifo()


def test_reader_that_has_seen_enough_ends_the_export_quietly(
    configured: DatabaseSettings,
) -> None:
    store(*(product(f"P{number:05}", description="d" * 100) for number in range(3000)))
    url = configured.sync_url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [PYTHON, "-m", "service", "catalog", "export"],
        env=environment({"DATABASE_URL": url}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as exporting:
        assert exporting.stdout is not None
        assert exporting.stderr is not None
        assert exporting.stdout.readline() == HEADER.encode()
        exporting.stdout.close()
        assert exporting.stderr.read() == b""
        assert exporting.wait() == 141
