"""The metrics of all workers of one server, read from the files that they share.

prometheus_client's own reader parses each key of each file and formats each line at every scrape:
0.1 s for 4 workers with 300 histograms each, and other requests wait for it. Keys only ever come to
be added, so here what follows from them is kept, and a scrape reads and adds up the numbers.
"""

import contextlib
import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

from prometheus_client import REGISTRY, Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

# prometheus_client's name for the directory of those files.
VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_SUMS: Final = ("counter_*.db", "histogram_*.db", "summary_*.db")
_GAUGES: Final = ("gauge_*.db",)
# In a file: how many bytes are in use, then entries of a key and two doubles.
_DOUBLE_BYTES: Final = 8
# A reader names the version of its format, so that there could be any number of them.
_MOST_PAGES: Final = 4
_END: Final = "# EOF\n"

Encoder = Callable[[Any], bytes]
# A sample's name and labels.
_Key = tuple[str, frozenset[tuple[str, str]]]


def is_shared() -> bool:
    """Whether metrics are kept in files for several workers, as prometheus_client decides it."""
    return VARIABLE in os.environ


def value_files(directory: Path, patterns: Sequence[str] = (*_SUMS, *_GAUGES)) -> list[Path]:
    """The files of values in a directory, which may hold others."""
    return sorted(chain.from_iterable(map(directory.glob, patterns)))


class Exposition:
    """What a scrape shows: every worker where metrics are shared, otherwise this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[Path, _SumsFile] = {}
        self._pages: dict[str, _Page] = {}

    def write(self, encode: Encoder, content_type: str) -> bytes:
        """All metrics in a format.

        Args:
            encode: Writes the metrics of a registry.
            content_type: What it writes.
        """
        if not is_shared():
            return encode(REGISTRY)
        directory = Path(os.environ[VARIABLE])
        gauges = encode(_Metrics(_merged(_written(directory, _GAUGES))))
        with self._lock:
            return self._page(directory, encode, content_type).write() + gauges

    def _page(self, directory: Path, encode: Encoder, content_type: str) -> "_Page":
        known = self._files
        self._files = {
            path: known.get(path) or _SumsFile(path) for path in _written(directory, _SUMS)
        }
        changed = [file.refresh() for file in self._files.values()]
        if any(changed) or len(known) > len(changed) or len(self._pages) > _MOST_PAGES:
            self._pages.clear()
        if content_type not in self._pages:
            self._pages[content_type] = _Page(self._files, encode)
        return self._pages[content_type]


class _SumsFile:
    """A file of counters and histograms, which grows while the server lives and never goes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._used = 0
        self._numbers = memoryview(b"").cast("d")
        self._positions: list[int] = []
        self.keys: list[str] = []

    def refresh(self) -> bool:
        """Read the numbers.

        Returns:
            Whether keys have come to be added.
        """
        content = memoryview(self._path.read_bytes())
        self._numbers = content.cast("d")
        used = content.cast("i")[0]
        if used == self._used:
            return False
        self._used = used
        self._find_keys()
        return True

    def values(self) -> Sequence[float]:
        """The numbers, one for each of the keys."""
        numbers = self._numbers
        return [numbers[position] for position in self._positions]

    def _find_keys(self) -> None:
        self.keys.clear()
        self._positions.clear()
        entries = MmapedDict.read_all_values_from_file(str(self._path))  # type: ignore[no-untyped-call] # as the library has it
        for key, _, _, position in entries:
            if position < self._used:
                self.keys.append(key)
                self._positions.append(position // _DOUBLE_BYTES)


class _Page:
    """Counters and histograms in one format: lines, and which sum ends each of them.

    Args:
        files: Where the numbers are.
        encode: Writes the metrics of a registry.
    """

    def __init__(self, files: dict[Path, _SumsFile], encode: Encoder) -> None:
        self._files = list(files.values())
        self._sums: dict[_Key, int] = {}
        numbers: dict[str, int] = {}
        self._targets = [
            [numbers[key] if key in numbers else self._number(numbers, key) for key in file.keys]
            for file in self._files
        ]
        self._runs: list[list[int]] = []
        metrics = [self._numbered(metric) for metric in _merged(files)]
        self._lines = _split(encode(_Metrics(metrics)).decode())

    def write(self) -> bytes:
        """The lines with the numbers of now."""
        sums = [0.0] * len(self._sums)
        for targets, file in zip(self._targets, self._files, strict=True):
            for target, number in zip(targets, file.values(), strict=True):
                sums[target] += number
        for run in self._runs:
            below = 0.0
            for target in run:
                below = sums[target] = sums[target] + below
        lines = [f"{start}{_text(sums[number])}\n" for start, number in self._lines]
        return "".join(lines).encode()

    def _number(self, numbers: dict[str, int], key: str) -> int:
        """Number the sum that a file's key belongs to; the workers' keys are mostly the same."""
        _, name, labels, _ = json.loads(key)
        numbers[key] = self._sums.setdefault(_key(name, labels), len(self._sums))
        return numbers[key]

    def _numbered(self, metric: Metric) -> Metric:
        """Replace each value by the number of the sum that belongs there."""
        samples = []
        runs: defaultdict[_Key, list[int]] = defaultdict(list)
        for sample in metric.samples:
            labels = dict(sample.labels)
            if metric.type == "histogram" and sample.name == f"{metric.name}_count":
                number = self._sums.get(_key(f"{metric.name}_bucket", labels | {"le": "+Inf"}))
            else:
                number = self._sums.get(_key(sample.name, labels))
                if labels.pop("le", None) is not None and number is not None:
                    runs[_key(sample.name, labels)].append(number)
            # What a worker has added since the files were read is shown next time.
            if number is not None:
                samples.append(sample._replace(value=number))
        self._runs += runs.values()
        metric.samples = samples
        return metric


class _Metrics:
    """What an encoder takes for a registry."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _key(name: str, labels: dict[str, str]) -> _Key:
    return name, frozenset(labels.items())


def _written(directory: Path, patterns: Sequence[str]) -> list[Path]:
    """Without files that have just been made, and have no content yet, or just been removed."""
    found = []
    for path in value_files(directory, patterns):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size:
                found.append(path)
    return found


def _merged(paths: Iterable[Path]) -> Iterable[Metric]:
    merged: Iterable[Metric] = MultiProcessCollector.merge([str(path) for path in paths])  # type: ignore[no-untyped-call] # as above
    return merged


# Counts and times in the form that Prometheus has them in.
_text: Callable[[float], str] = floatToGoString


def _split(text: str) -> list[tuple[str, int]]:
    """Each line's start, with the comments before it, and the number at its end."""
    lines = []
    start = ""
    for line in text.removesuffix(_END).split("\n")[:-1]:
        if line.startswith("#"):
            start += f"{line}\n"
        else:
            series, _, number = line.rpartition(" ")
            lines.append((f"{start}{series} ", int(float(number))))
            start = ""
    return lines
