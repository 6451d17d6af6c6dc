"""A headless Chromium that can reach nothing but files."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
DESKTOP, PHONE = (1200, 900), (390, 844)
PATIENCE_S = 30.0  # software rendering on a busy machine


@dataclass(frozen=True)
class Browser:
    """What the tests do with it."""

    driver: Any

    def open(self, path: Path, size: tuple[int, int] = DESKTOP) -> None:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(path.as_uri())

    def js(self, text: str, *values: Any) -> Any:
        return self.driver.execute_script(text, *values)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def until(self, what: Callable[[], Any]) -> Any:
        """Wait until something is true; returns it."""
        end = time.monotonic() + PATIENCE_S
        while not (found := what()):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.1)
        return found

    def picture(self, element: Any) -> np.ndarray:
        """[H, W, 3] of an element as it is on the screen."""
        return np.asarray(Image.open(BytesIO(element.screenshot_as_png)).convert("RGB")).astype(int)

    def errors(self) -> list[str]:
        """Of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """URLs of all requests since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
