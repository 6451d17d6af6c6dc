"""A report of a real run, named by MDTBENCH_REPORT=FOLDER: `mdtbench report RUN --format html --out FOLDER`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chromium import PHONE, Browser

GIVEN = os.environ.get("MDTBENCH_REPORT", "")
LOCAL = ("file:", "data:", "blob:")
PAGES = 3  # asset pages looked at

pytestmark = pytest.mark.skipif(not GIVEN, reason="MDTBENCH_REPORT names no report")


def pages() -> list[Path]:
    report = Path(GIVEN).resolve()
    return [report / "index.html", report / "assets.html", *sorted(report.glob("assets/*.html"))[:PAGES]]


def test_all_pages_open_without_errors_and_without_network(browser: Browser):
    browser.open(pages()[0])
    browser.requests()  # those of the browser's own first page, too
    for page in pages():
        browser.open(page)
        assert browser.one("h1").text
        assert browser.errors() == []
    urls = browser.requests()
    assert urls
    assert [url for url in urls if not url.startswith(LOCAL)] == []


def test_viewers_show_every_mesh(browser: Browser):
    for page in pages()[2:]:
        browser.open(page)
        browser.one("#load-all").click()
        cards = len(browser.all("figure[data-model]"))
        assert cards
        browser.until(lambda cards=cards: len(browser.all("figure[data-loaded]")) == cards)
        for viewer in browser.all("model-viewer"):
            browser.until(lambda viewer=viewer: browser.picture(viewer).std() > 5)  # neither blank nor of one colour


def test_pages_fit_a_phone(browser: Browser):
    for page in pages():
        browser.open(page, PHONE)
        assert browser.js("return document.documentElement.scrollWidth") <= PHONE[0]
