"""Loading products from files into the catalog in bulk, and writing all of them out."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final, TextIO

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.database import get_db_context, process, read_session, write_session
from service.product_catalog.files import COLUMNS, BadLine, FileFormat, ProductRow
from service.product_catalog.repository import ExportedProduct, ProductRepository

# Half as many cost a twentieth of the speed; more gain as little, and take memory and longer locks.
BATCH_LINES: Final = 2000


@dataclass(slots=True)
class ImportResult:
    """How an import went, or goes.

    Args:
        loaded: How many products were inserted, updated, or found equal already.
        rejected: How many lines were bad.
    """

    loaded: int = 0
    rejected: int = 0


class ImportStoppedError(Exception):
    """An import ended before the file did; its cause tells why.

    Args:
        committed: How many products are in the catalog nevertheless. To load them again is safe.
    """

    def __init__(self, committed: int) -> None:
        super().__init__(f"the import stopped after {committed} products")
        self.committed = committed


def import_products(
    items: Iterable[ProductRow | BadLine],
    *,
    on_bad: Callable[[BadLine], None],
    strict: bool = False,
    on_batch: Callable[[ImportResult], None] | None = None,
) -> ImportResult:
    """Insert products by batches, or update those whose code is taken and that differ.

    Args:
        items: What `read_products` gives. Of two products with one code the later one stays.
        on_bad: Told of each bad line as it is met.
        strict: Whether a single bad line means that nothing is loaded: one transaction for all,
            which ends at the first bad line. Otherwise each batch is a transaction of its own.
        on_batch: Told how it goes, after each batch.

    Raises:
        FileFormatError: The file as a whole cannot be read. Nothing is loaded.
        ImportStoppedError: The database failed, the file could not be read to its end, or the
            user interrupted.
    """
    result = ImportResult()
    batches = _batches(items, result, on_bad, on_batch)
    try:
        if strict:
            _load_all_or_nothing(batches, result)
        else:
            for batch in batches:
                with write_session() as session:
                    ProductRepository(session).load(batch)
    except (SQLAlchemyError, OSError, KeyboardInterrupt) as error:
        raise ImportStoppedError(0 if strict else result.loaded) from error
    return result


def export_products(target: TextIO, form: FileFormat) -> int:
    """Write every product by code, as the catalog was at one moment, in constant memory.

    Args:
        target: Text that keeps line ends as they are.
        form: How to write.

    Returns:
        How many there were.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database failed; what is written is not complete.
    """
    write = _write_csv if form is FileFormat.CSV else _write_ndjson
    with _long_read() as session, closing(ProductRepository(session).stream()) as products:
        return write(products, target)


def _batches(
    items: Iterable[ProductRow | BadLine],
    result: ImportResult,
    on_bad: Callable[[BadLine], None],
    on_batch: Callable[[ImportResult], None] | None,
) -> Iterator[Iterable[ProductRow]]:
    """The products by batches; each is counted when the caller, done with it, asks for more."""
    remaining = iter(items)
    while batch := [*islice(remaining, BATCH_LINES)]:
        rows: dict[str, ProductRow] = {}
        bad = 0
        for item in batch:
            if isinstance(item, BadLine):
                bad += 1
                on_bad(item)
            else:
                rows[item["code"]] = item
        result.rejected += bad
        if rows:
            yield rows.values()
        result.loaded += len(batch) - bad
        if on_batch is not None:
            on_batch(result)


def _load_all_or_nothing(batches: Iterator[Iterable[ProductRow]], result: ImportResult) -> None:
    with get_db_context() as session:
        for batch in batches:
            if result.rejected:
                # The rest is read for its bad lines alone, and holds up nobody meanwhile.
                session.rollback()
            else:
                ProductRepository(session).load(batch)
        if not result.rejected:
            session.commit()
    if result.rejected:
        result.loaded = 0


@contextmanager
def _long_read() -> Iterator[Session]:
    """A session in which one query can be read slowly.

    PostgreSQL hands a result out bit by bit only within a transaction. SQLite does so without
    one, and there the kit's transactions take the write lock.
    """
    is_sqlite = process.engine.dialect.name == "sqlite"
    with read_session() if is_sqlite else get_db_context() as session:
        yield session


def _write_csv(products: Iterable[ExportedProduct], target: TextIO) -> int:
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(COLUMNS)
    count = 0
    for code, name, description, price in products:
        writer.writerow((code, name, description, f"{price:f}"))
        count += 1
    return count


def _write_ndjson(products: Iterable[ExportedProduct], target: TextIO) -> int:
    count = 0
    for product in products:
        target.write(ndjson_line(product))
        count += 1
    return count


def ndjson_line(product: ExportedProduct) -> str:
    """A product as a line of NDJSON; its price is text, so that no reader makes it binary."""
    code, name, description, price = product
    values = (code, name, description, f"{price:f}")
    return f"{json.dumps(dict(zip(COLUMNS, values, strict=True)), ensure_ascii=False)}\n"
