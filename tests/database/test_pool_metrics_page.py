"""docs/pool-metrics.md explains every reason for which a pool closes a connection, and no other."""

import re

from tests.database.pools import CLOSE_REASONS
from tests.support.server import ROOT

KIT = ROOT / "service" / "database"


def test_every_reason_of_a_close_is_explained() -> None:
    page = (ROOT / "docs" / "pool-metrics.md").read_text(encoding="utf-8")
    table = page.partition("### Why a connection was closed\n")[2].partition("\n#")[0]
    assert {*re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)} == CLOSE_REASONS


def test_every_reason_is_one_that_the_kit_gives() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in KIT.glob("*.py"))
    assert [reason for reason in CLOSE_REASONS if f'"{reason}"' not in source] == []
