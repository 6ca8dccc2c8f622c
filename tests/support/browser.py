"""A real browser, driven as a person would: Debian's Chromium, headless."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from axe_core_python.selenium import Axe  # type: ignore[import-untyped] # it has no types
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.support.missing import missing
from tests.support.polling import eventually

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
)
# Kept in the page itself, for a violation need not be an error in the console.
_COLLECT: Final = """
    window.violations = [];
    addEventListener("securitypolicyviolation", (event) => {
        window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
    });
"""


def require_chromium() -> None:
    """Skip the test, or fail in CI, where there is no Chromium."""
    if not _chromium() or not shutil.which("chromedriver"):
        missing("no Chromium with its driver (Debian's packages are chromium and chromium-driver)")


def _chromium() -> str | None:
    # The second is what GitHub's machines have.
    return shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """One browser with one window.

    Args:
        driver: What drives it.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self._run("Page.addScriptToEvaluateOnNewDocument", source=_COLLECT)

    def open(self, url: str) -> None:
        """Go to a page."""
        self.driver.get(url)

    def resize(self, width: int, height: int, *, is_mobile: bool = False) -> None:
        """Give the window the size of a screen, in CSS pixels."""
        self._run(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=is_mobile,
        )

    def prefer(self, scheme: str) -> None:
        """Have the person prefer a colour scheme, `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._run("Emulation.setEmulatedMedia", features=features)

    def all(self, selector: str) -> list[WebElement]:
        """Every element of a selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text that is seen of the first element of a selector; empty without one."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.evaluate(script, selector))

    def wait_for(self, selector: str, text: str, *, within: float = 10.0) -> None:
        """Return once an element shows a text."""
        eventually(lambda: text in self.text(selector), within=within, every=0.1)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def evaluate(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page, and give what it returns."""
        return self.driver.execute_script(script, *arguments)

    def focused(self) -> str:
        """What has the focus: its id, or else its text."""
        return str(
            self.evaluate(
                "const one = document.activeElement;"
                "return one === document.body ? 'body' : one.id || one.innerText"
            )
        )

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since the last call, and violations of the policy."""
        logged = [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call] # as the library has it
        return [*logged, *(self.evaluate("return window.violations ?? []"))]

    def barriers(self) -> list[str]:
        """What axe-core finds that keeps people from using the page, by WCAG 2.1 AA and its own."""
        found = Axe().run(self.driver)
        return [
            f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}"
            for rule in found["violations"]
            for node in rule["nodes"]
        ]

    def picture(self, file: Path) -> None:
        """Write what is in the window as a PNG."""
        shot = self._run("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))

    def _run(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)


@contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """Run a browser for as long as the context is open.

    Args:
        profile: A new and empty directory.
    """
    require_chromium()
    options = webdriver.ChromeOptions()
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = str(_chromium())
    options.set_capability("goog:loggingPrefs", {"browser": "WARNING"})
    # With its path, nothing looks for a driver to download.
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
