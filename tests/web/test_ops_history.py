"""The pools' last minutes: gaps, bounds, and that the clock keeps them."""

from service.database import create_db_engine
from service.web.ops_history import SAMPLES, PoolHistories, PoolHistory
from tests.support.polling import eventually


def used(history: PoolHistory) -> list[int]:
    return [*history.report()["used"]]


def test_seconds_follow_each_other() -> None:
    history = PoolHistory(4)
    for second in range(100, 107):
        history.add(second, (second, 0, 1))
    assert history.report() == {
        "used": [103, 104, 105, 106], "idle": [0, 0, 0, 0], "pending": [1, 1, 1, 1],
    }  # fmt: skip


def test_one_second_that_the_clock_passed_over_is_no_gap() -> None:
    history = PoolHistory(6)
    history.add(10, (1, 0, 0))
    history.add(12, (2, 0, 0))
    assert used(history) == [1, 2, 2]


def test_seconds_in_which_nobody_looked_are_told() -> None:
    history = PoolHistory(6)
    history.add(10, (1, 0, 0))
    history.add(13, (2, 0, 0))
    assert used(history) == [1, -1, -1, 2]
    history.add(1000, (3, 0, 0))
    assert used(history) == [-1, -1, -1, -1, -1, 3]


def test_a_second_is_counted_once_and_none_goes_back() -> None:
    history = PoolHistory(4)
    history.add(10, (1, 0, 0))
    history.add(10, (2, 0, 0))
    history.add(9, (3, 0, 0))
    assert used(history) == [1]


def test_a_count_beyond_all_bounds_is_kept_as_large() -> None:
    history = PoolHistory(2)
    history.add(1, (1_000_000, 0, 0))
    assert used(history) == [32_767]


def test_the_clock_keeps_the_history_of_every_pool() -> None:
    engine = create_db_engine("sqlite:///test.db", pool_name="kept")
    histories = PoolHistories()
    with engine.connect(), engine.connect():
        eventually(lambda: (histories.report("kept") or {"used": [0]})["used"][-1] == 2)
    eventually(lambda: (histories.report("kept") or {})["idle"][-1] == 2)
    assert len((histories.report("kept") or {})["used"]) <= SAMPLES
    assert histories.report("another") is None
    engine.dispose()
