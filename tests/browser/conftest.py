"""A headless Chromium for the tests that open a page. It reaches no network, and its profile is new."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1500,1000",
    "--force-device-scale-factor=1",
)


class Browser:
    """A browser that opens atlases and is asked about them."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, patience: float = 60) -> None:
        """Open a page and wait until the map is drawn; its errors from then on are those of this page."""
        self.driver.get_log("browser")
        self.driver.get(path.as_uri())
        self.wait("return document.documentElement.dataset.drawn", patience)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, patience: float = 10) -> Any:
        """Ask until the answer is true."""
        end = time.monotonic() + patience
        while not (answer := self.run(script)):
            assert time.monotonic() < end, f"not within {patience} s: {script}\n{self.errors()}"
            time.sleep(0.02)
        return answer

    def errors(self) -> list[str]:
        """What the console holds that is worse than a remark."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def find(self, name: str) -> Any:
        return self.driver.find_element("id", name)

    def hover(self, tower: str, layer: int, dim: int, *, click: bool = False) -> None:
        """Move the pointer onto a unit of the map."""
        from selenium.webdriver.common.action_chains import ActionChains

        x, y, width, height = self.run(
            "const {sheet, atlas} = modalnetAtlas, box = document.getElementById('map').getBoundingClientRect();"
            "return [...sheet().screenOf(atlas.unitOf(...arguments)), box.width, box.height]",
            *(tower, layer, dim),
        )
        moved = ActionChains(self.driver).move_to_element_with_offset(
            self.find("map"), round(x - width / 2), round(y - height / 2)
        )
        (moved.click() if click else moved).perform()

    def set(self, name: str, value: str, event: str = "input") -> None:
        """Give a control a value, as a person does who moves it."""
        self.run(
            "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
            "one.dispatchEvent(new Event(arguments[2]))",
            *(name, value, event),
        )

    def pixel(self, tower: str, layer: int, dim: int) -> tuple[int, ...]:
        """The colour in the middle of a unit's cell."""
        return tuple(
            self.run(
                "const {sheet, atlas, draw} = modalnetAtlas; draw();"
                "const at = sheet().screenOf(atlas.unitOf(...arguments)).map(Math.floor);"
                # By way of a canvas that is made to be read: reading the map's own would draw a warning.
                "const copy = Object.assign(document.createElement('canvas'), {width: 1, height: 1});"
                "const context = copy.getContext('2d', {willReadFrequently: true});"
                "context.drawImage(document.getElementById('map'), -at[0], -at[1]);"
                "return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3)",
                *(tower, layer, dim),
            )
        )

    def network(self, place: int) -> list[int]:
        """Which units a network has now, as places among all units."""
        return self.run(
            "const found = [], {bits} = modalnetAtlas.state;"
            "for (let i = 0; i < bits.length; i++) if (bits[i] & (1 << arguments[0])) found.push(i); return found",
            place,
        )


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    chromedriver = shutil.which(os.environ.get("CHROMEDRIVER", "chromedriver"))
    if not chromium or not chromedriver:
        pytest.skip("no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
