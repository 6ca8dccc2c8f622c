"""Reading products from files: CSV with a header line, or one JSON object a line (NDJSON).

Memory stays constant whatever a file holds, and a line that is no product never ends the reading:
it comes out as a `BadLine`.
"""

import codecs
import csv
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import IO, Any, Final, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.product_catalog.schemas import ProductInput

COLUMNS: Final = ("code", "name", "description", "price")
_REQUIRED: Final = ("code", "name", "price")
# The longest product is some 50 KB: 4200 characters, each as two JSON escapes.
_LIMIT: Final = 65_536
_TOO_LONG: Final = f"the line is longer than {_LIMIT} bytes"
_SHOWN_LENGTH: Final = 40
# What UTF-16 and binary files look like after `_Lines` has decoded them.
_NOT_TEXT: Final = re.compile("[\x00\ud800-\udfff]")

ProductRow = dict[str, Any]


class FileFormat(StrEnum):
    """How products are written down."""

    CSV = "csv"
    NDJSON = "ndjson"


class FileFormatError(ValueError):
    """The file as a whole is not what it should be; the text is one line that says why."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no product.

    Args:
        number: Which line of the file, counted from 1; the first one of a record of several.
        reason: Why, in one line.
    """

    number: int
    reason: str


def read_products(stream: IO[bytes], form: FileFormat) -> Iterator[ProductRow | BadLine]:
    """Read products, as the values of their columns, and the lines that are none.

    Args:
        stream: UTF-8 text, with or without a byte order mark, its lines ended by LF or CRLF.
        form: How it is written.

    Raises:
        FileFormatError: From the first step, if the file as a whole cannot be read.
    """
    lines = _Lines(stream)
    return _read_csv(lines) if form is FileFormat.CSV else _read_ndjson(lines)


class _Line(NamedTuple):
    number: int
    text: str | None
    """None for a line that is too long to be kept."""


class _Lines(Iterator[_Line]):
    """The lines of a stream, ended by LF, of bounded length; some can be put back."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._number = 0
        self._next: deque[_Line] = deque()

    def __next__(self) -> _Line:
        if self._next:
            return self._next.popleft()
        raw = self._stream.readline(_LIMIT)
        if not raw:
            raise StopIteration
        self._number += 1
        if len(raw) == _LIMIT and not raw.endswith(b"\n"):
            self._skip_to_next()
            return _Line(self._number, None)
        if self._number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        # Bytes that are not UTF-8 become lone surrogates, which the schema refuses by field.
        text = raw.decode("utf-8", "surrogateescape")
        return _Line(self._number, f"{text[:-2]}\n" if text.endswith("\r\n") else text)

    def put_back(self, lines: Iterable[_Line]) -> None:
        """Have these come next, in this order."""
        self._next.extendleft(reversed([*lines]))

    def _skip_to_next(self) -> None:
        while (part := self._stream.readline(_LIMIT)) and not part.endswith(b"\n"):
            pass


def _read_csv(lines: _Lines) -> Iterator[ProductRow | BadLine]:
    header = _read_header(lines)
    for line in lines:
        if line.text is None:
            yield BadLine(line.number, _TOO_LONG)
        elif not line.text.isspace():
            yield _read_record(line, lines, header)


def _read_header(lines: _Lines) -> Sequence[str]:
    line = next((line for line in lines if line.text is None or not line.text.isspace()), None)
    if line is None:
        raise FileFormatError(f"the file is empty; the first line must be {','.join(COLUMNS)}")
    if line.text is None:
        raise FileFormatError(f"{_TOO_LONG}; is this a CSV file?")
    if _NOT_TEXT.search(line.text):
        raise FileFormatError("the first line is not UTF-8 text; save the file as UTF-8")
    if line.text.startswith("{"):
        raise FileFormatError("the file looks like NDJSON, not CSV")
    try:
        cells = next(csv.reader([line.text], strict=True))
    except csv.Error as error:
        raise FileFormatError(f"the first line: {_explain(error)}") from None
    header = [cell.strip().lower() for cell in cells]
    _check_header(header)
    return header


def _check_header(header: Sequence[str]) -> None:
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and separator in header[0]:
            raise FileFormatError(f"the columns are separated by {name}; separate them by commas")
    if not {*header} & {*COLUMNS}:
        raise FileFormatError(f"the first line must name the columns: {','.join(COLUMNS)}")
    complaints = [
        *(f"unknown column {_shown(name)}" for name in header if name not in COLUMNS),
        *(f"missing column {name}" for name in _REQUIRED if name not in header),
        *(f"column {name} given twice" for name in COLUMNS if header.count(name) > 1),
    ]
    if complaints:
        raise FileFormatError(f"the first line: {'; '.join(complaints)}")


def _read_record(line: _Line, lines: _Lines, header: Sequence[str]) -> ProductRow | BadLine:
    taken: list[_Line] = []
    try:
        fields = next(csv.reader(_with_following(line, lines, taken), strict=True))
        values = _by_name(header, fields, spans_lines=bool(taken))
    except csv.Error as error:
        # Of the lines that a stray quote swallowed only the first is bad: the others come again.
        lines.put_back(taken)
        return BadLine(line.number, _explain(error))
    return _validated(line.number, values)


def _with_following(line: _Line, lines: _Lines, taken: list[_Line]) -> Iterator[str]:
    """The line, and for as long as the parser is within quotes those after it."""
    size = 0
    following: _Line | None = line
    while following is not None and following.text is not None and size < _LIMIT:
        size += len(following.text)
        yield following.text
        following = next(lines, None)
        if following is not None:
            taken.append(following)


def _by_name(header: Sequence[str], fields: Sequence[str], *, spans_lines: bool) -> ProductRow:
    if len(fields) != len(header):
        raise csv.Error(
            f"expected {len(header)} fields, found {len(fields)}; quote a field with commas"
        )
    values: ProductRow = dict(zip(header, fields, strict=True))
    for name in header if spans_lines else ():
        if name != "description" and "\n" in values[name]:
            raise csv.Error(f"{name}: runs over the end of the line; is a quote missing?")
    return values


def _explain(error: csv.Error) -> str:
    text = str(error)
    if text.startswith("unexpected end"):
        return "a quoted field has no end"
    if "expected after" in text:
        return "text after a closing quote; within quotes, a quote is written twice"
    if text.startswith("new-line"):
        return "a carriage return outside of quotes; end lines with LF or CRLF"
    return text


def _read_ndjson(lines: _Lines) -> Iterator[ProductRow | BadLine]:
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=Decimal, parse_int=Decimal)
    for line in lines:
        if line.text is None:
            yield BadLine(line.number, _TOO_LONG)
        elif line.number == 1 and line.text.startswith("["):
            raise FileFormatError("the file is a JSON array; write one object a line")
        elif not line.text.isspace():
            yield _read_object(line.number, line.text, decoder)


def _read_object(number: int, text: str, decoder: json.JSONDecoder) -> ProductRow | BadLine:
    try:
        values = decoder.decode(text.rstrip())
    except json.JSONDecodeError as error:
        return BadLine(number, f"not JSON: {error.msg} at character {error.pos + 1}")
    except ValueError as error:
        return BadLine(number, str(error))
    except (ArithmeticError, RecursionError):
        return BadLine(number, "a number too large, or lists within lists without end")
    if not isinstance(values, dict):
        return BadLine(number, "not a JSON object; write one object a line")
    if unknown := [name for name in values if name not in COLUMNS]:
        return BadLine(number, f"unknown key {_shown(unknown[0])}")
    return _validated(number, values)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is given twice")
    return values


def _validated(number: int, values: ProductRow) -> ProductRow | BadLine:
    description = values.get("description")
    if isinstance(description, str) and not description.strip():
        values["description"] = None
    try:
        return vars(ProductInput.model_validate(values))
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        return BadLine(number, "; ".join(_reason(detail) for detail in details))


def _reason(detail: ErrorDetails) -> str:
    field = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "string_unicode":
        return f"{field}: is not UTF-8 text"
    return f"{field}: {detail['msg'].removeprefix('Value error, ')}"


def _shown(text: str) -> str:
    # What the file holds could otherwise steer the reader's terminal.
    return repr(text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…")
