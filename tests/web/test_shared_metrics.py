"""The reader of the workers' files shows what prometheus_client's own would show."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.web.shared_metrics import VARIABLE, Exposition

FORMATS = ("", "application/openmetrics-text;version=1.0.0", "text/plain;version=1.0.0")
ODD = 'a "b" \\ # c\nd \u2028 {x} 1'


def use_slot(slot: int) -> None:
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call] # as the library has it


class Worker:
    """The metrics of one process, whose values lie in the files of a slot."""

    def __init__(self, slot: int) -> None:
        use_slot(slot)
        self.errors = Counter("errors", "Errors.", registry=None)
        self.requests = Counter("requests", "Requests # of.", ["path"], registry=None)
        self.times = Histogram("times", "Times.", ["path"], buckets=(0.1, 1, 10), registry=None)
        self.active = Gauge("active", "Now.", registry=None, multiprocess_mode="livesum")
        self.worst = Gauge("worst", "Now.", ["path"], registry=None, multiprocess_mode="livemax")

    def work(self, path: str, amount: float) -> None:
        self.errors.inc()
        self.requests.labels(path).inc(amount)
        self.times.labels(path).observe(amount)
        self.active.inc(2)
        self.worst.labels(path).set(amount)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    return tmp_path


def assert_same(exposition: Exposition) -> None:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # as the library has it
    for accept in FORMATS:
        encode, content_type = choose_encoder(accept)
        expected = encode(registry).decode()
        shown = exposition.write(encode, content_type).decode()
        assert sorted(shown.split("\n")) == sorted(expected.split("\n"))
        assert shown.endswith("# EOF\n") == ("openmetrics" in accept)


def test_every_change_is_shown(directory: Path) -> None:
    exposition = Exposition()
    assert exposition.write(*choose_encoder("")) == b""
    first = Worker(0)
    assert_same(exposition)
    first.work("/a", 0.5)
    assert_same(exposition)
    second = Worker(1)
    second.work(ODD, 3)
    second.work("/a", 2.5e7)
    assert_same(exposition)
    first.work("/a", 1 / 3)
    first.work("/b", 0)
    assert_same(exposition)
    mark_process_dead(1, str(directory))  # type: ignore[no-untyped-call] # as the library has it
    assert_same(exposition)
    for number in range(600):
        second.work(f"/{number}", number)
    assert_same(exposition)
    assert (directory / "histogram_1.db").stat().st_size > 1 << 16, "it has grown"


def test_a_successor_goes_on_with_what_it_finds(directory: Path) -> None:
    exposition = Exposition()
    Worker(0).work("/a", 2)
    assert_same(exposition)
    mark_process_dead(0, str(directory))  # type: ignore[no-untyped-call] # as the library has it
    Worker(0).work("/a", 3)
    assert_same(exposition)
    text = exposition.write(*choose_encoder("")).decode()
    assert 'requests_total{path="/a"} 5.0\n' in text
    assert "active 2.0\n" in text


@pytest.mark.usefixtures("directory")
def test_a_metric_whose_text_has_changed_is_one() -> None:
    for slot, text in enumerate(("As it was.", "As it is.")):
        use_slot(slot)
        Counter("things", text, registry=None).inc()
    lines = Exposition().write(*choose_encoder("")).decode().split("\n")
    assert [line for line in lines if not line.startswith("#")] == ["things_total 2.0", ""]


def test_what_is_no_value_file_or_has_no_values_yet_is_passed_over(directory: Path) -> None:
    Worker(0).work("/a", 1)
    for name in ("other.db", "notes.txt", "histogram_1.db", "gauge_livesum_1.db"):
        (directory / name).write_bytes(b"mine" if name[0] in "on" else b"")
    text = Exposition().write(*choose_encoder("")).decode()
    assert 'requests_total{path="/a"} 1.0\n' in text
