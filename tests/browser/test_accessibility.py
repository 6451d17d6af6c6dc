"""The pages for readers without eyes or mouse: axe-core's rules, the outline, and the keyboard alone."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from chromium import DESKTOP, PHONE, Browser
from report_run import write_run

from mdtbench.results.html.report import write_report

pytestmark = pytest.mark.slow
AXE = "axe-core@4.10.3"  # MPL-2.0; not part of this package
PAGES = ("index.html", "assets.html", "assets/chair.html")
TAB, RETURN = "\ue004", "\ue007"
RUN_AXE = """const done = arguments[arguments.length - 1];
axe.run(document, { resultTypes: ["violations"], preload: false }).then(found => done(
  found.violations.map(one => one.id + ": " + one.nodes.map(node => node.html.slice(0, 200)).join(" ; "))))"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(write_run(folder / "run"), folder / "out")
    return folder / "out"


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of axe-core: of the file that MDTBENCH_AXE names, or as npm packs it."""
    given = os.environ.get("MDTBENCH_AXE", "")
    if given:
        return Path(given).read_text(encoding="utf-8")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and MDTBENCH_AXE names no axe.min.js")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run([npm, "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True, timeout=120)
    packed = sorted(folder.glob("*.tgz"))
    if done.returncode or not packed:
        pytest.skip(f"npm cannot fetch {AXE}: {done.stderr[-200:]}")
    shutil.unpack_archive(packed[0], folder)
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_axe_finds_no_violation(browser: Browser, report: Path, axe: str, page: str):
    for size, scheme in ((DESKTOP, "light"), (PHONE, "dark")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.open(report / page, size)
        meshes = len(browser.all("figure[data-model]"))
        if meshes:
            browser.one("#load-all").click()
            browser.until(lambda meshes=meshes: len(browser.all("figure[data-loaded]")) == meshes)
        browser.js(axe)
        browser.driver.set_script_timeout(120)
        assert browser.driver.execute_async_script(RUN_AXE) == []
        assert browser.errors() == []
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("page", PAGES)
def test_the_outline_is_in_order(browser: Browser, report: Path, page: str):
    """One h1, no level left out; heads of tables have a scope, pictures with a meaning of their own a text."""
    browser.open(report / page)
    levels = browser.js("return [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert browser.js("return [...document.querySelectorAll('th')].filter(e => !e.scope).length") == 0
    assert browser.js("return [...document.images].filter(e => !e.hasAttribute('alt')).length") == 0
    alone = "return [...document.images].filter(e => !e.alt && !e.closest('li, a')?.textContent.trim()).length"
    assert browser.js(alone) == 0  # without a text only where the name stands beside it
    names = "return [...document.querySelectorAll('svg[role=img]')].map(e => e.querySelector('title').textContent)"
    assert all(browser.js(names))


def focused(browser: Browser) -> str:
    """Tag, id, target and text of what has the focus."""
    what = "[e.tagName, e.id, e.getAttribute('href') ?? '', e.innerText].join('|')"
    return browser.js(f"const e = document.activeElement; return {what}")


def tabbed(browser: Browser, count: int) -> list[str]:
    """What has the focus after each of so many presses of the tabulator."""
    found = []
    for _ in range(count):
        browser.driver.switch_to.active_element.send_keys(TAB)
        found.append(focused(browser))
    return found


def test_the_keyboard_alone_reaches_links_filter_and_sorting(browser: Browser, report: Path):
    browser.open(report / "index.html")
    reached = tabbed(browser, 60)
    assert reached[0].startswith("A||#main|")  # first of all, past the head
    for part in ("SUMMARY|", "|assets/chair.html|", "|assets.html|", "INPUT|filter|", "INPUT|blocks|", "BUTTON|"):
        assert any(part in one for one in reached), part
    browser.open(report / "index.html")
    for _ in range(60):
        browser.driver.switch_to.active_element.send_keys(TAB)
        if browser.js("return document.activeElement.closest('thead th.metric') !== null"):
            break
    browser.driver.switch_to.active_element.send_keys(RETURN)
    assert browser.js("return document.activeElement.closest('th').getAttribute('aria-sort')") in (
        "ascending",
        "descending",
    )
    outline = browser.js("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # where the focus is can be seen
    browser.one("#filter").send_keys("pcm")
    assert "lines in" in browser.one("#found").text
    assert browser.one("#found").get_attribute("role") == "status"


def test_the_keyboard_alone_goes_through_the_assets(browser: Browser, report: Path):
    browser.open(report / "assets.html")
    reached = tabbed(browser, 12)
    controls = ("asset-filter", "asset-metric", "asset-method", "asset-order", "asset-failed")
    for part in (*(f"|{name}|" for name in controls), "|assets/chair.html|"):
        assert any(part in one for one in reached), part
    for _ in range(12):
        if "|assets/chair.html|" in focused(browser):
            break
        browser.driver.switch_to.active_element.send_keys("\ue008" + TAB)  # shift: back
    browser.driver.switch_to.active_element.send_keys(RETURN)
    browser.until(lambda: browser.one("h1").text == "chair")
    assert any("BUTTON|load-all|" in one for one in tabbed(browser, 8))


def test_a_wide_table_keeps_its_first_column_and_says_that_there_is_more(browser: Browser, report: Path):
    browser.open(report / "index.html", PHONE)
    box = browser.one("#table_1 .scroll")
    assert browser.js("return arguments[0].scrollWidth > arguments[0].clientWidth", box)
    cue = browser.one("#table_1 .cue")
    assert cue.is_displayed()
    assert "more" in box.get_attribute("class").split()
    left = "return [...arguments[0].querySelectorAll('tbody th[scope=row]')].map(e => e.getBoundingClientRect().left)"
    before = browser.js(left, box)
    browser.js("arguments[0].scrollLeft = 1e6", box)
    browser.until(lambda: "more" not in box.get_attribute("class").split())
    assert browser.js(left, box) == before
    assert browser.js("return arguments[0].scrollLeft", box) > 100
    hit = """const cell = arguments[0].querySelector('tbody th[scope=row]'), r = cell.getBoundingClientRect();
    cell.scrollIntoView({ block: "center" }); const now = cell.getBoundingClientRect();
    return cell.contains(document.elementFromPoint((now.left + now.right) / 2, (now.top + now.bottom) / 2))"""
    assert browser.js(hit, box)  # nothing lies over it


@pytest.mark.parametrize("size", [(1440, 900), (1024, 768), PHONE])
def test_verdicts_are_on_the_first_screen(browser: Browser, report: Path, size: tuple[int, int]):
    browser.open(report / "index.html", size)
    bottom = "return document.querySelector(arguments[0]).getBoundingClientRect()"
    assert browser.js(bottom, ".answers li .says")["bottom"] < size[1]
    assert browser.js("return document.documentElement.scrollWidth") <= size[0]
    if size[0] >= 1024:  # beside each other
        assert browser.js(bottom, ".gallery img")["bottom"] < size[1]
    if size[0] >= 1440:
        assert browser.js(bottom, ".glance svg")["bottom"] < size[1]
