"""The HTML report in a real browser: opened from disk, without network, as a reader uses it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import DESKTOP, PHONE, Browser
from report_run import HOSTILE, IDS, MAKERS, TRUTH_RGB, UNUSABLE, write_large_run, write_run

from mdtbench.results.html.media import page_name
from mdtbench.results.html.report import write_report

pytestmark = pytest.mark.slow
MANY = 3218  # assets of the benchmark's larger set
COLOURS = (TRUTH_RGB, MAKERS["cm"], MAKERS["mdt"])  # in the order of the cards
LOCAL = ("file:", "data:", "blob:")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report, moved after it was written."""
    folder = tmp_path_factory.mktemp("report")
    write_report(write_run(folder / "run"), folder / "out")
    return (folder / "out").rename(folder / "moved here")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without meshes, whose pages open faster."""
    folder = tmp_path_factory.mktemp("plain")
    write_report(write_run(folder / "run", models=False), folder / "out")
    return folder / "out"


def page_of(report: Path, asset_id: str) -> Path:
    return report / "assets" / f"{page_name(asset_id)}.html"


def load_viewers(browser: Browser, report: Path, asset_id: str, count: int) -> list:
    browser.open(page_of(report, asset_id))
    browser.until(lambda: len(browser.all("figure[data-loaded]")) == count)
    return browser.all("model-viewer")


def orbits(browser: Browser) -> np.ndarray:
    """[viewers, 3] radians, radians, metres: where each camera is, not where it is going."""
    script = "return [...document.querySelectorAll('model-viewer')].map(v => { const o = v.getCameraOrbit();"
    return np.array(browser.js(script + "return [o.theta, o.phi, o.radius]; })"))


def shown_rows(browser: Browser, table: str) -> list[str]:
    return browser.js(
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr[data-name]')]"
        ".filter(row => !row.hidden).map(row => row.innerText)",
        table,
    )


def shown_names(browser: Browser) -> list[str]:
    items = browser.all("#asset-list > li:not([hidden]) .asset-title")
    return [browser.js("return arguments[0].textContent", item) for item in items]


def test_viewers_show_the_meshes_in_their_colours_from_the_camera_of_the_pictures(browser: Browser, report: Path):
    viewers = load_viewers(browser, report, "chair", len(COLOURS))
    camera = [np.deg2rad(180 - 60), np.deg2rad(90 - 25), 2.0]  # yaw 60, pitch 25; theta is counted from the back
    np.testing.assert_allclose(orbits(browser), [camera] * len(COLOURS), atol=1e-4)
    for viewer, rgb in zip(viewers, COLOURS, strict=True):
        [picture] = browser.until(lambda viewer=viewer: _drawn(browser.picture(viewer)))
        near = np.abs(picture - np.array(rgb) * 255).max(-1) < 6  # without light and tone mapping: rounding alone
        assert 0.03 < near.mean() < 0.6  # the mesh, and not the still picture, which fills the square
        assert (picture[:4, 20:-20] == 0).all()  # black up to the edges, whose corners are round
        assert (picture[20:-20, -4:] == 0).all()


def _drawn(picture: np.ndarray) -> list[np.ndarray]:
    """The picture, once there is the mesh's black surrounding and not the still picture of one colour."""
    return [picture] if (picture[2, 2] == 0).all() and picture.max() > 100 else []


def test_all_viewers_turn_with_one(browser: Browser, report: Path):
    viewers = load_viewers(browser, report, "chair", 3)
    before = browser.picture(viewers[2])
    browser.js("arguments[0].cameraOrbit = '10deg 40deg 3m'; arguments[0].jumpCameraToGoal()", viewers[0])
    expected = [np.deg2rad(10), np.deg2rad(40), 3.0]
    browser.until(lambda: np.allclose(orbits(browser), [expected] * 3, atol=1e-4))
    browser.until(lambda: np.abs(browser.picture(viewers[2]) - before).max() > 50)
    from selenium.webdriver import ActionChains

    ActionChains(browser.driver).drag_and_drop_by_offset(viewers[1], 60, 20).perform()
    browser.until(lambda: np.abs(orbits(browser)[1] - expected).max() > 0.1)  # by hand, from another viewer
    browser.until(lambda: np.ptp(orbits(browser), axis=0).max() < 1e-3)
    browser.one("#reset-view").click()
    browser.until(lambda: np.allclose(orbits(browser), [[np.deg2rad(120), np.deg2rad(65), 2.0]] * 3, atol=1e-4))


def test_meshes_are_loaded_when_they_come_into_view(browser: Browser, report: Path):
    browser.open(page_of(report, "lamps/red"), (390, 420))
    browser.until(lambda: browser.all("figure[data-loaded]"))
    assert len(browser.all("figure[data-model]")) == 3
    assert len(browser.all("figure[data-queued]")) < 3
    browser.one("#load-all").click()
    browser.until(lambda: len(browser.all("figure[data-loaded]")) == 3)
    assert browser.errors() == []


def test_keys_lead_to_the_next_asset_and_back(browser: Browser, plain: Path):
    browser.open(page_of(plain, IDS[0]))
    for key, expected in (("j", IDS[1]), ("\ue014", IDS[2]), ("k", IDS[1]), ("\ue012", IDS[0]), ("k", IDS[0])):
        browser.one("body").send_keys(key)  # \ue014, \ue012: right and left arrow
        browser.until(lambda expected=expected: browser.one("h1").text == expected)


def test_a_name_with_html_is_text(browser: Browser, plain: Path):
    for path in (plain / "index.html", plain / "assets.html", page_of(plain, HOSTILE), page_of(plain, UNUSABLE)):
        browser.open(path)
        assert not browser.js("return [...document.images].some(image => image.getAttribute('src') === 'x')")
        assert browser.errors() == []
    assert browser.one("h1").text == UNUSABLE
    browser.open(plain / "assets.html")
    assert shown_names(browser) == [*IDS, UNUSABLE]


def test_the_list_is_filtered_and_sorted(browser: Browser, report: Path):
    from selenium.webdriver.support.select import Select

    browser.open(report / "assets.html")
    assert browser.one("#asset-count").text == "5 assets"
    Select(browser.one("#asset-order")).select_by_value("best")
    assert shown_names(browser) == [IDS[3], IDS[2], IDS[0], HOSTILE, UNUSABLE]
    Select(browser.one("#asset-method")).select_by_visible_text("VM+VD, 1x2")
    assert shown_names(browser) == [IDS[3], IDS[2], HOSTILE, IDS[0], UNUSABLE]  # mdt did not lose HOSTILE
    Select(browser.one("#asset-order")).select_by_value("worst")
    assert shown_names(browser) == [IDS[0], HOSTILE, IDS[2], IDS[3], UNUSABLE]  # without a value: last again
    browser.one("#asset-filter").send_keys("LAMP")
    assert shown_names(browser) == ["lamps/red"]
    assert browser.one("#asset-count").text == "1 of 5 assets"
    browser.one("#asset-filter").clear()
    browser.one("#asset-failed").click()
    assert set(shown_names(browser)) == {HOSTILE, UNUSABLE}


def test_tables_are_sorted_by_click_and_by_keyboard(browser: Browser, report: Path):
    browser.open(report / "index.html")
    browser.one("#blocks").click()  # across blocks
    table = "table.results"
    heads = browser.all(f"{table} thead th")
    column = next(i for i, head in enumerate(heads) if "FD" in head.text)
    numbers = "return [...document.querySelector(arguments[0]).querySelectorAll('tbody tr[data-name]')]"
    numbers += ".map(row => row.cells[arguments[1]].dataset.order).filter(Boolean).map(Number)"

    def order() -> list[float]:
        return browser.js(numbers, table, column)

    before = order()
    button = heads[column].find_element("css selector", "button")
    button.click()
    assert heads[column].get_attribute("aria-sort") == "ascending"
    assert order() == sorted(before) != before
    button.send_keys("\ue007")  # return
    assert heads[column].get_attribute("aria-sort") == "descending"
    assert order() == sorted(before, reverse=True)
    button.send_keys(" ")
    assert order() == before


def test_the_filter_and_the_paper_numbers(browser: Browser, report: Path):
    browser.open(report / "index.html")
    before = shown_rows(browser, "table.results")
    browser.one("#filter").send_keys("pcm")
    after = shown_rows(browser, "table.results")
    assert 0 < len(after) < len(before)
    assert all("PCM" in row for row in after)
    browser.one("#filter").clear()
    columns = browser.all("table.results thead th.paper")
    assert columns
    assert not any(column.is_displayed() for column in columns)
    browser.one("#paper").click()
    assert all(column.is_displayed() for column in columns)


def test_nothing_leaves_the_machine(browser: Browser, report: Path):
    browser.requests()
    browser.errors()
    load_viewers(browser, report, "chair", 3)
    for path in (report / "index.html", report / "assets.html"):
        browser.open(path)
    found = browser.requests()
    assert sum(url.startswith("file:") for url in found) > 10
    assert [url for url in found if not url.startswith(LOCAL)] == []
    assert browser.errors() == []
    browser.js("new Image().src = 'https://example.org/x.png'")  # such a request would have been seen
    assert browser.until(lambda: [url for url in browser.requests() if url.startswith("https:")])


def emulate(browser: Browser, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture
def dark(browser: Browser) -> Iterator[None]:
    """A reader's system in dark colours."""
    emulate(browser, "dark")
    yield
    emulate(browser, "light")


STROKES = """return [...document.querySelectorAll('svg.chart [style*="stroke:var(--c0)"]')]
.map(drawn => getComputedStyle(drawn).stroke)"""


def test_charts_have_the_colours_of_the_page(browser: Browser, plain: Path, dark: None):
    browser.open(plain / "index.html")
    ground = browser.js("return getComputedStyle(document.body).backgroundColor")
    assert set(browser.js(STROKES)) == {"rgb(90, 180, 238)"}
    emulate(browser, "light")
    assert browser.js("return getComputedStyle(document.body).backgroundColor") != ground
    assert set(browser.js(STROKES)) == {"rgb(0, 114, 178)"}
    ink, text = browser.js(
        "return [document.body, document.querySelector('svg.chart text')].map(e => getComputedStyle(e))"
        ".map((style, i) => i ? style.fill : style.color)"
    )
    assert text == ink
    fonts = "return ['body', 'svg.chart text'].map(e => getComputedStyle(document.querySelector(e)).fontFamily)"
    assert len(set(browser.js(fonts))) == 1


# Of each chart that is shown: the boxes of its texts, and its own.
BOXES = """const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
document.querySelectorAll('figure[data-metric]').forEach(figure => figure.hidden = false);
return [...document.querySelectorAll('svg.chart[role]')]
.map(svg => [box(svg), [...svg.querySelectorAll('text')].map(text => [text.textContent, box(text)])])"""


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_no_text_of_a_chart_is_cut_or_hides_another(browser: Browser, plain: Path, size: tuple[int, int]):
    browser.open(plain / "index.html", size)
    charts = browser.js(BOXES)
    assert len(charts) > 4
    for (left, top, right, bottom), texts in charts:
        assert right - left > 200
        assert right <= size[0]
        for name, box in texts:
            # half a letter: fonts differ in width
            assert left - 4 <= box[0] < box[2] <= right + 4, name
            assert top - 4 <= box[1] < box[3] <= bottom + 4, name
        for (name, a), (other, b) in itertools.combinations(texts, 2):
            # Boxes have room above and below the letters: a quarter of a line of it may be shared.
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] - b[1] <= (a[3] - a[1]) / 4 or b[3] - a[1] <= (b[3] - b[1]) / 4
            assert apart, (name, other)


def test_a_point_tells_its_numbers(browser: Browser, plain: Path):
    browser.open(plain / "index.html")
    script = """const figure = document.querySelector('figure[data-metric]:not([hidden]) svg');
    return [...figure.querySelectorAll('.point use')].map(use => { const r = use.getBoundingClientRect();
    use.scrollIntoView(); const now = use.getBoundingClientRect();
    const hit = document.elementFromPoint((now.left + now.right) / 2, (now.top + now.bottom) / 2);
    return hit.closest('.point').querySelector('title').textContent; })"""
    told = browser.js(script)
    assert told
    assert all(" at " in text for text in told)


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_no_page_is_wider_than_the_screen(browser: Browser, report: Path, plain: Path, size: tuple[int, int]):
    pages = [plain / "index.html", plain / "assets.html", *(page_of(plain, name) for name in (*IDS, UNUSABLE))]
    for path in (*pages, page_of(report, "chair")):
        browser.open(path, size)
        assert browser.js("return document.documentElement.scrollWidth") <= size[0], path.name


def test_a_report_of_many_assets_opens_fast(browser: Browser, tmp_path: Path):
    index = write_report(write_large_run(tmp_path / "run", MANY), tmp_path / "out")
    assert index.stat().st_size < 5 << 20
    browser.errors()  # those of other tests
    for path in (index, tmp_path / "out" / "assets.html"):
        seconds = min(_seconds_to_load(browser, path) for _ in range(2))  # the machine may be busy with other things
        assert seconds < 3, f"{path.name}: {seconds:.2f} s"
    assert len(browser.all("#asset-list > li")) == MANY
    loaded = browser.js("return [...document.images].filter(image => image.complete && image.naturalWidth).length")
    assert 0 < loaded < 500  # those in and near view
    assert browser.errors() == []


def _seconds_to_load(browser: Browser, path: Path) -> float:
    browser.open(path)
    script = "return performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"
    return browser.until(lambda: browser.js(script))
