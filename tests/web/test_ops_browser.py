"""The ops page in a real browser: what an operator sees, by mouse, by keyboard and on a phone.

With `SCREENSHOTS=docs/images` the pictures of the documentation are made on the way.
"""

import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2
import pytest
from selenium.webdriver.common.keys import Keys

from service.migrator.revisions import Revisions
from service.web.control_client import ask_workers
from tests.support.browser import Browser, require_chromium, running_browser
from tests.support.databases import PostgresDatabases
from tests.support.locks import locked_table
from tests.support.polling import eventually
from tests.support.server import Service, running_service

pytestmark = pytest.mark.browser

TOKEN: Final = "an operator's <b>token</b> & key"
CAPACITY: Final = 3
WORKERS: Final = 2
PICTURES: Final = os.environ.get("SCREENSHOTS")


@pytest.fixture(scope="module")
def url(postgres: PostgresDatabases) -> Iterator[str]:
    require_chromium()
    with postgres.migrated("ops_page") as url:
        yield url


@pytest.fixture(scope="module")
def service(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    variables = {
        "APP_NAME": "catalog",
        "ENVIRONMENT": "staging",
        "DATABASE_URL": url,
        "DATABASE_POOL_SIZE": str(CAPACITY),
        "DATABASE_MAX_OVERFLOW": "0",
        "DATABASE_LEAK_THRESHOLD": "2",
        "DATABASE_POOL_TIMEOUT": "30",
        "DATABASE_STATEMENT_TIMEOUT": "40",
        "DATABASE_QUERY_DEADLINE": "45",
        "ADMISSION_WAIT": "30",
        "HEALTH_INTERVAL": "1",
        "DRAIN_SECONDS": "0",
        "OPS_TOKEN": TOKEN,
        "WEB_CONCURRENCY": str(WORKERS),
    }
    with running_service(tmp_path_factory.mktemp("service"), variables) as running:
        eventually(lambda: len(ask_workers({"command": "show"}, port=running.port)) == WORKERS)
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Browser]:
    """The page, of somebody who is signed in, with nothing in the console."""
    browser.resize(1280, 900)
    browser.prefer("light")
    browser.open(address(service))
    if "/login" in browser.driver.current_url:
        eventually(lambda: browser.focused() == "token")
        browser.press(TOKEN, Keys.ENTER)
    browser.wait_for("#holders", "Nobody.")
    browser.complaints()
    yield browser
    assert browser.complaints() == []


def address(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}/ops"


@contextmanager
def held(url: str, service: Service, requests: int) -> Iterator[None]:
    """Let requests wait for a lock, each with a connection, for as long as the context is open."""
    with ThreadPoolExecutor(requests) as clients, locked_table(url):
        for _ in range(requests):
            clients.submit(ask, service)
        yield


def ask(service: Service) -> None:
    # Each over a connection of its own, so that both workers get some.
    httpx2.get(f"http://127.0.0.1:{service.port}/products", timeout=60)


@contextmanager
def suspended(service: Service) -> Iterator[None]:
    """Let every checkout wait, for as long as the context is open."""
    ask_workers({"command": "suspend", "pool": "primary"}, port=service.port)
    try:
        yield
    finally:
        ask_workers({"command": "resume", "pool": "primary"}, port=service.port)


def seconds_old(page: Browser) -> int:
    """How old the page says that it is."""
    told = re.search(r"as of (\d+) s ago", page.text("#freshness"))
    assert told is not None, page.text("#freshness")
    return int(told[1])


def picture(page: Browser, name: str) -> None:
    if PICTURES:
        page.picture(Path(PICTURES) / f"{name}.png")


def test_somebody_signs_in_and_out(browser: Browser, service: Service) -> None:
    browser.driver.delete_all_cookies()
    browser.open(address(service))
    assert browser.driver.current_url.endswith("/ops/login")
    eventually(lambda: browser.focused() == "token")
    assert browser.barriers() == []
    assert browser.complaints() == []
    browser.press("a wrong token", Keys.ENTER)
    browser.wait_for("[role=alert]", "That is not the token.")
    # Chromium reports the status of the answer.
    assert all("403" in complaint for complaint in browser.complaints())
    eventually(lambda: browser.focused() == "token")
    browser.press(TOKEN, Keys.ENTER)
    browser.wait_for("#verdict", "All is well")
    assert browser.driver.current_url == address(service)
    cookie = browser.driver.get_cookie("tidegate_ops")
    assert cookie is not None
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert browser.evaluate("return document.cookie") == ""
    browser.all("form button")[0].click()
    eventually(lambda: browser.driver.current_url.endswith("/ops/login"))
    browser.open(address(service))
    assert browser.driver.current_url.endswith("/ops/login")


def test_a_healthy_service_is_seen_at_a_glance(page: Browser) -> None:
    page.wait_for("#verdict", "All is well")
    assert page.text("#findings-list") == ""
    assert "Nothing." in page.text("#findings")
    assert len(page.all("#pools article")) == WORKERS
    assert f"{Revisions().head}, current" in page.text("#workers")
    assert page.text("#name") == "catalog"
    picture(page, "ops-healthy")


def test_who_holds_and_who_waits_appears_by_itself(
    page: Browser, url: str, service: Service
) -> None:
    with held(url, service, 2 * CAPACITY * WORKERS):
        page.wait_for("#holders", "/products")
        page.wait_for("#findings-list", "requests ")
        assert "service/product_catalog/" in page.text("#holders summary")
        page.wait_for("#findings-list", "taken for leaked", within=15)
        assert page.text("#verdict") in ("Warnings", "Failing"), "as the workers share the requests"
        page.all("#holders summary")[0].click()
        assert len(page.text("#holders pre").splitlines()) > 2
        before = page.text("#freshness")
        eventually(lambda: page.text("#freshness") != before)
        assert page.evaluate("return document.querySelector('#holders details').open")
        picture(page, "ops-held")
        page.prefer("dark")
        picture(page, "ops-held-dark")
        assert page.barriers() == []
    page.wait_for("#holders", "Nobody.")
    page.wait_for("#verdict", "All is well", within=20)


def test_a_suspended_pool_shows_who_waits(page: Browser, service: Service) -> None:
    with suspended(service):
        threads = [threading.Thread(target=ask, args=(service,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        page.wait_for("#waiters", "/products")
        page.wait_for("#findings-list", "pool primary is suspended")
        page.resize(360, 800, is_mobile=True)
        picture(page, "ops-phone")
    page.wait_for("#waiters", "Nobody.")
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out(page: Browser, scheme: str) -> None:
    page.prefer(scheme)
    page.all("#settings-details summary")[0].click()
    page.wait_for("#settings", "DATABASE_POOL_SIZE")
    assert page.barriers() == []
    back = "return getComputedStyle(document.body).backgroundColor"
    shade = sum(map(int, page.evaluate(back)[4:-1].split(",")))
    assert (shade < 200) is (scheme == "dark")


def test_secrets_are_not_among_the_settings(page: Browser) -> None:
    page.all("#settings-details summary")[0].click()
    page.wait_for("#settings", "OPS_TOKEN")
    assert TOKEN not in page.driver.page_source
    assert "postgresql://" not in page.driver.page_source


def test_a_phone_shows_all_without_scrolling_sideways(
    page: Browser, url: str, service: Service
) -> None:
    page.resize(360, 740, is_mobile=True)
    with held(url, service, CAPACITY):
        page.wait_for("#holders", "/products")
        page.all("#holders summary")[0].click()
        page.all("#settings-details summary")[0].click()
        page.wait_for("#settings", "DATABASE_POOL_SIZE")
        assert page.evaluate("return document.documentElement.scrollWidth") == 360
        assert page.barriers() == []


def test_the_keyboard_reaches_everything(page: Browser) -> None:
    order = []
    for _ in range(6):
        page.press(Keys.TAB)
        order.append(page.focused())
        outline = "return getComputedStyle(document.activeElement).outlineWidth"
        assert page.evaluate(outline) == "3px", order
    assert order[:4] == [
        "Skip to what is wrong",
        "pause",
        "Sign out",
        "Show what this worker runs with",
    ]
    # And out of the page again: nothing traps the focus.
    assert "body" in order[4:] or order[4] == order[0]
    page.evaluate("document.querySelector('.skip').focus()")
    page.press(Keys.ENTER)
    assert page.focused() == "findings"
    page.press(Keys.TAB, Keys.ENTER)
    page.wait_for("#settings", "DATABASE_POOL_SIZE")


def test_a_pause_holds_what_is_shown(page: Browser) -> None:
    page.all("#pause")[0].click()
    assert "paused" in page.text("#freshness")
    # How long each worker has run is among it.
    before = page.text("#workers")
    eventually(lambda: seconds_old(page) >= 4, within=30)
    assert page.text("#workers") == before
    page.all("#pause")[0].click()
    eventually(lambda: page.text("#workers") != before)


def test_a_worker_that_is_stopped_is_named(page: Browser, service: Service) -> None:
    slots = {one.pid: one.slot for one in ask_workers({"command": "show"}, port=service.port)}
    (victim,) = (worker for worker in service.workers() if slots[worker.pid] == 0)
    victim.suspend()
    try:
        page.wait_for("#findings-list", "does not answer", within=20)
        page.wait_for("#pools", "worker 0: does not answer")
        page.wait_for("#verdict", "Failing")
        picture(page, "ops-stopped")
        for worker in service.workers():
            worker.suspend()
        page.wait_for("#verdict", "The service does not answer", within=20)
        assert page.driver.title == "NO ANSWER ops"
    finally:
        for worker in service.workers():
            worker.resume()
    page.wait_for("#verdict", "All is well", within=20)
    page.complaints()
