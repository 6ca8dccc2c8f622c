"""Measuring side by side: rounds are interleaved, so that a noisy machine is noisy for all."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

ResultT = TypeVar("ResultT")


def interleaved(
    variants: Mapping[str, Callable[[], ResultT]], rounds: int
) -> dict[str, list[ResultT]]:
    """Run each variant once in every round, after one round that does not count.

    Args:
        variants: What to run, by name.
        rounds: How often.

    Returns:
        What each returned, by name, in order.
    """
    results: dict[str, list[ResultT]] = {name: [] for name in variants}
    for number in range(-1, rounds):
        for name, run in variants.items():
            result = run()
            if number >= 0:
                results[name].append(result)
    return results


def figure(values: Sequence[float]) -> str:
    """The median, with the least and the greatest value."""
    low, middle, high = min(values), statistics.median(values), max(values)
    digits = 0 if high >= 100 else 1 if high >= 10 else 2
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def row(*cells: str) -> None:
    """Print a line of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def header(*names: str) -> None:
    """Print a Markdown table's head."""
    row(*names)
    row(*("---" for _ in names))
