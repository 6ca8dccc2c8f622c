"""Reading products from files: what is a product, what is a bad line, and why."""

import io
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.product_catalog.files import (
    BadLine,
    FileFormat,
    FileFormatError,
    ProductRow,
    read_products,
)
from tests.product_catalog.support import HEADER, product

LINE_LIMIT = 65_536
# How long an example takes says more of the machine than of the code.
UNTIMED = settings(deadline=None)


def read(
    content: str | bytes, form: FileFormat = FileFormat.CSV
) -> tuple[list[ProductRow], list[tuple[int, str]]]:
    """The products, and the numbers and reasons of the bad lines."""
    stream = io.BytesIO(content.encode() if isinstance(content, str) else content)
    items = [*read_products(stream, form)]
    bad = [(item.number, item.reason) for item in items if isinstance(item, BadLine)]
    return [item for item in items if not isinstance(item, BadLine)], bad


def read_csv(lines: str | bytes) -> tuple[list[ProductRow], list[tuple[int, str]]]:
    """The same of lines below the usual header."""
    return read(HEADER.encode() + (lines.encode() if isinstance(lines, str) else lines))


def read_ndjson(lines: str | bytes) -> tuple[list[ProductRow], list[tuple[int, str]]]:
    return read(lines, FileFormat.NDJSON)


def test_columns_may_stand_in_any_order_and_letter_case() -> None:
    rows, bad = read("Price, NAME ,code\n1,n,A\n")
    assert rows == [product()]
    assert bad == []


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_byte_order_mark_and_line_ends_make_no_difference(start: bytes, end: bytes) -> None:
    csv_file = start + end.join([b"code,name,price", b"A,n,1", b"B,n,1", b""])
    assert read(csv_file) == ([product("A"), product("B")], [])
    json_line = b'{"code": "A", "name": "n", "price": 1}'
    assert read_ndjson(start + json_line + end) == ([product()], [])


def test_last_line_needs_no_line_end() -> None:
    assert read_csv("A,n,,1") == ([product()], [])


def test_quoted_field_holds_commas_quotes_and_lines() -> None:
    rows, bad = read_csv('A,"n, ""n""","one\n\ntwo",1\r\nB,n,"one\r\ntwo",1\n')
    assert rows[0] == product(name='n, "n"', description="one\n\ntwo")
    assert rows[1] == product("B", description="one\ntwo")
    assert bad == []


def test_quote_within_an_unquoted_field_is_taken_as_it_is() -> None:
    assert read_csv('A,5" nail,,1\n') == ([product(name='5" nail')], [])


def test_empty_description_is_none() -> None:
    assert read_csv("A,n,,1\nB,n,  ,1\n")[0] == [product("A"), product("B")]
    assert read_ndjson('{"code":"A","name":"n","price":1,"description":""}')[0] == [product()]


def test_blank_lines_are_skipped_and_counted() -> None:
    rows, bad = read_csv("\nA,n,,1\n  \r\nB,n,,x\n")
    assert rows == [product("A")]
    assert bad == [(5, "price: Input should be a valid decimal")]


def test_bad_record_of_several_lines_has_the_number_of_its_first() -> None:
    rows, bad = read_csv('A,n,"one\ntwo",-1\nB,n,,1\n')
    assert rows == [product("B")]
    assert bad == [(2, "price: Input should be greater than or equal to 0")]


def test_every_reason_names_field_and_rule() -> None:
    _, bad = read_csv(",n,,1\nA,,,1\nA,n,,1.999\nB *,n,,-1\n")
    assert bad == [
        (2, "code: String should have at least 1 character"),
        (3, "name: String should have at least 1 character"),
        (4, "price: Decimal input should have no more than 2 decimal places"),
        (
            5,
            (
                "code: must be letters, digits, '.', '_' or '-', the first one a letter or digit;"
                " price: Input should be greater than or equal to 0"
            ),
        ),
    ]


@pytest.mark.parametrize(
    "stray",
    [
        'X,"n,,1',
        'X,n,"d,1',
        '"X,n,d,1',
        'X,n,d,"1',
        'X,"n" n,,1',
        'X,"n"",,1',
        '"',
    ],
)
def test_stray_quote_costs_only_its_own_line(stray: str) -> None:
    before = "".join(f"A{number},n,,1\n" for number in range(5))
    after = "".join(f'B{number},"n, m","d",1\nC{number},n,d,1\n' for number in range(500))
    rows, bad = read_csv(f"{before}{stray}\n{after}")
    assert len(rows) == 5 + 2 * 500
    assert [number for number, _ in bad] == [7]


def test_stray_quote_in_the_last_line_is_reported() -> None:
    assert read_csv('A,n,,1\nB,"n,,1\n') == ([product()], [(3, "a quoted field has no end")])


def test_two_stray_quotes_that_seem_to_match_lose_no_good_line() -> None:
    """Together they read as one name of three lines, which no product has."""
    rows, bad = read_csv('A,"n,,1\nB,n,,1\nC,n",,1\nD,n,,1\n')
    assert rows == [product("B"), product("C", name='n"'), product("D")]
    assert bad == [(2, "name: runs over the end of the line; is a quote missing?")]


@pytest.mark.parametrize("line", ["A,n,1", "A,n,d,1,2"])
def test_wrong_number_of_fields_is_a_bad_line(line: str) -> None:
    rows, bad = read_csv(f"{line}\nB,n,,1\n")
    assert rows == [product("B")]
    (number, reason) = bad[0]
    assert number == 2
    assert reason.startswith(f"expected 4 fields, found {len(line.split(','))}")


def test_carriage_return_within_a_line_is_a_bad_line() -> None:
    assert read_csv("A,n\rm,,1\nB,n,,1\n")[1] == [
        (2, "a carriage return outside of quotes; end lines with LF or CRLF")
    ]


def test_bytes_that_are_not_utf8_are_a_bad_line() -> None:
    rows, bad = read_csv(b"A,caf\xe9,,1\nB,caf\xc3\xa9,,1\n")
    assert rows == [product("B", name="café")]
    assert bad == [(2, "name: is not UTF-8 text")]
    rows, bad = read_ndjson(
        b'{"code":"A","name":"caf\xe9","price":1}\n{"code":"B","name":"n","price":1}'
    )
    assert rows == [product("B")]
    assert bad == [(1, "name: is not UTF-8 text")]


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x7f"])
def test_control_characters_are_a_bad_line(character: str) -> None:
    rows, bad = read_csv(f"A,n{character},,1\nB,n,d{character},1\nC,n,,1\n")
    assert rows == [product("C")]
    assert [number for number, _ in bad] == [2, 3]


@pytest.mark.parametrize("form", FileFormat)
def test_line_that_is_too_long_is_skipped(form: FileFormat) -> None:
    start, good = {
        FileFormat.CSV: (HEADER + "A,n,", "B,n,,1\n"),
        FileFormat.NDJSON: ("\n" + '{"name":"', '{"code":"B","name":"n","price":1}\n'),
    }[form]
    rows, bad = read(start + "x" * (3 * LINE_LIMIT) + "\n" + good, form)
    assert rows == [product("B")]
    assert bad == [(2, f"the line is longer than {LINE_LIMIT} bytes")]


def test_line_that_is_too_long_ends_an_open_quote() -> None:
    rows, bad = read_csv('A,n,"d,1\n' + "x" * LINE_LIMIT + "\nB,n,,1\n")
    assert rows == [product("B")]
    assert [number for number, _ in bad] == [2, 3]


class Endless(io.RawIOBase):
    """Bytes without a line end, as many as one likes, made when they are read."""

    def __init__(self, start: bytes, size: int) -> None:
        self._start = start
        self._size = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        chunk = (self._start or b"x" * min(len(buffer), self._size))[: len(buffer)]
        if self._start:
            self._start = b""
        else:
            self._size -= len(chunk)
        buffer[: len(chunk)] = chunk
        return len(chunk)


@pytest.mark.parametrize("start", [b"A,n,", b'A,"n', b'"'])
def test_file_of_one_line_takes_no_memory(start: bytes) -> None:
    stream = io.BufferedReader(Endless(HEADER.encode() + start, 20_000_000))
    tracemalloc.start()
    try:
        items = [*read_products(stream, FileFormat.CSV)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert items == [BadLine(2, f"the line is longer than {LINE_LIMIT} bytes")]
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "the file is empty; the first line must be code,name,description,price"),
        ("\n\n", "the file is empty"),
        ("code,name\n", "missing column price"),
        ("code,name,price,weight\n", "unknown column 'weight'"),
        ("code,name,price,code\n", "column code given twice"),
        ("id,code\n", "unknown column 'id'; missing column name; missing column price"),
        ("A,n,,1\n", "the first line must name the columns: code,name,description,price"),
        ("code;name;price\n", "separated by semicolons"),
        ("code\tname\tprice\n", "separated by tabs"),
        ('{"code": "A"}\n', "looks like NDJSON"),
        ('code,"name\nA,n\n', "a quoted field has no end"),
        ("code,name\rA,n\r", "a carriage return"),
        ("code,name,price\nA,n,1\n".encode("utf-16"), "not UTF-8"),
        (b"PK\x03\x04\x14\x00\x06\x00", "not UTF-8"),
        ("x" * LINE_LIMIT, "longer than"),
    ],
)
def test_file_without_its_header_is_refused_as_a_whole(
    content: str | bytes, complaint: str
) -> None:
    with pytest.raises(FileFormatError) as caught:
        read(content)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_header_alone_is_no_product_and_no_error() -> None:
    assert read(HEADER) == ([], [])


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("9999999999.99", "9999999999.99"),
        ("0.01", "0.01"),
        ("0.1", "0.10"),
        ("0", "0.00"),
        ("1.50000", "1.50"),
        ("1e3", "1000.00"),
    ],
)
def test_prices_are_exact(text: str, price: str) -> None:
    for rows, bad in (
        read_csv(f"A,n,,{text}\n"),
        read_ndjson(f'{{"code": "A", "name": "n", "price": {text}}}'),
        read_ndjson(f'{{"code": "A", "name": "n", "price": "{text}"}}'),
    ):
        assert bad == []
        assert str(rows[0]["price"]) == price


@pytest.mark.parametrize("text", ["10000000000", "0.001", "-0.01", "NaN", "Infinity", "1e400000"])
def test_prices_that_cannot_be_kept_exactly_are_refused(text: str) -> None:
    for rows, bad in (
        read_csv(f"A,n,,{text}\n"),
        read_ndjson(f'{{"code": "A", "name": "n", "price": {text}}}'),
    ):
        assert rows == []
        assert bad[0][1].startswith("price: ")


@pytest.mark.parametrize("text", ["1,50", "$5", "", "0x10", "1 000"])
def test_text_that_is_no_price_is_refused(text: str) -> None:
    assert read_csv(f'A,n,,"{text}"\n')[1] == [(2, "price: Input should be a valid decimal")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"code": "A"', "not JSON: Expecting ',' delimiter at character 13"),
        ("[1]", "not a JSON object; write one object a line"),
        ('"A"', "not a JSON object; write one object a line"),
        ('{"code": "A", "name": "n"}', "price: Field required"),
        ('{"code": 1, "name": "n", "price": 1}', "code: Input should be a valid string"),
        (
            '{"code": "A", "name": "n", "price": true}',
            "price: Decimal input should be an integer, float, string or Decimal object",
        ),
        ('{"code": "A", "name": "n", "price": 1, "id": 7}', "unknown key 'id'"),
        ('{"code": "A", "code": "B", "name": "n", "price": 1}', "a key is given twice"),
        ('{"\\ud800\\u001b[2J": 1}', "unknown key '\\ud800\\x1b[2J'"),
        ('{"code": "A", "name": "n", "price": 1e99999999999999999999}', "a number too large"),
        ("[" * 60_000, "a number too large, or lists within lists"),
    ],
)
def test_line_that_is_no_product_object_is_a_bad_line(line: str, reason: str) -> None:
    good = '{"code": "A", "name": "n", "price": 1}'
    rows, bad = read_ndjson(f"{good}\n{line}\n{good}\n")
    assert rows == [product(), product()]
    assert bad[0][0] == 2
    assert bad[0][1].startswith(reason)
    assert bad[0][1].isprintable()


def test_json_array_is_refused_as_a_whole() -> None:
    with pytest.raises(FileFormatError, match="JSON array; write one object a line"):
        read_ndjson('[\n  {"code": "A", "name": "n", "price": 1}\n]\n')


@UNTIMED
@given(st.binary(max_size=400), st.sampled_from(FileFormat))
def test_no_bytes_whatever_make_the_reader_fail(content: bytes, form: FileFormat) -> None:
    lines = content.count(b"\n") + 2
    _, bad = read(HEADER.encode() + content if form is FileFormat.CSV else b"\n" + content, form)
    numbers = [number for number, _ in bad]
    assert numbers == sorted(set(numbers))
    assert all(2 <= number <= lines for number in numbers)


@UNTIMED
@given(st.lists(st.sampled_from(["A,n,,1", '"', 'B,"n",d,2', "\n", ",", "\r\n", "\\", "'", "x"])))
def test_no_order_of_quotes_and_lines_makes_the_reader_fail(parts: list[str]) -> None:
    content = "".join(parts)
    rows, bad = read_csv(content)
    assert len(rows) + len(bad) <= content.count("\n") + 1
