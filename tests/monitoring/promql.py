"""What a PromQL query asks for, from its parse tree."""

from dataclasses import dataclass
from typing import Any, Final

from promql_parser import AggregateExpr, Expr, VectorSelector, parse, walk

# Those of a target, which Prometheus adds; `namespace` and `pod` on Kubernetes.
TARGET_LABELS: Final = frozenset({"job", "namespace", "instance", "pod"})


@dataclass(frozen=True)
class Selector:
    """One selector of a query.

    Attributes:
        name: The metric's.
        matchers: Pairs of a label and what it is compared with; a regular expression's
            alternatives are pairs of their own.
    """

    name: str
    matchers: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Grouping:
    """One aggregation of a query.

    Attributes:
        labels: What it keeps.
        names: The metrics that it adds up.
    """

    labels: frozenset[str]
    names: frozenset[str]


def selectors(query: str) -> list[Selector]:
    """The selectors of a query.

    Raises:
        ValueError: It is no PromQL.
    """
    return [_selector(found) for found in _selectors(_parse(query))]


def groupings(query: str) -> list[Grouping]:
    """The aggregations of a query that name labels."""
    found: list[Grouping] = []

    def visit(node: Expr) -> None:
        if isinstance(node, AggregateExpr) and node.modifier is not None:
            names = frozenset(str(selector.name) for selector in _selectors(node.expr))
            found.append(Grouping(frozenset(node.modifier.labels), names))

    walk(_parse(query), visit)
    return found


def _parse(query: str) -> Any:
    try:
        return parse(query)
    except ValueError as error:
        raise ValueError(f"{error}\n{query}") from error


def _selectors(tree: Expr) -> list[VectorSelector]:
    found: list[VectorSelector] = []

    def visit(node: Expr) -> None:
        if isinstance(node, VectorSelector):
            found.append(node)

    walk(tree, visit)
    return found


def _selector(node: VectorSelector) -> Selector:
    if node.name is None:
        raise ValueError(f"a selector without a metric's name: {node}")
    return Selector(
        node.name,
        frozenset(
            (matcher.name, value)
            for matcher in node.matchers.matchers
            for value in matcher.value.split("|")
        ),
    )
