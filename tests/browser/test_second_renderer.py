"""Our pictures of mesh files against those of three.js: what is covered, and its colours, or a note says why not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, DRIVER, FLAGS

from mdtbench.base.errors import AssetError

HERE = Path(__file__).parents[1] / "second_renderer"
sys.path.insert(0, str(HERE))

import samples  # noqa: E402
import sheet  # noqa: E402
import three_js  # noqa: E402

OVERLAP, COLOUR = 0.98, 0.03  # least intersection over union; most that a mean colour differs
REAL = Path(os.environ.get("MDTBENCH_TEST_ASSETS", Path(__file__).parents[3] / "shared" / "assets"))
# What this version of three.js does not know; test_gltf_samples.py works it out by hand.
UNKNOWN_THERE = {"HiddenNodes"}  # KHR_node_visibility
SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")

pytestmark = pytest.mark.skipif(
    not three_js.THREE or not CHROMIUM or not DRIVER,
    reason="chromium, or three.js in the folder MDTBENCH_THREE, is not installed",
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = [flag for flag in FLAGS if not flag.startswith("--host-resolver")]
    hosts = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    for flag in (*flags, hosts, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def pairs_of(driver: Any, root: Path, paths: list[Path]) -> tuple[list[three_js.Pair], list[str]]:
    """Pairs, and the files that we refuse."""
    pairs, refused = [], []
    with three_js.served(root) as address:
        three_js.open_page(driver, address)
        for path in paths:
            try:
                pairs.append(three_js.compared(driver, root, path))
            except AssetError as error:
                refused.append(str(error))
    return pairs, refused


def check(pairs: list[three_js.Pair]) -> None:
    where = os.environ.get("MDTBENCH_SHEETS")  # a folder for the worst ten pairs, to be looked at
    if where:
        name = "samples" if pairs[0].name.removesuffix(".glb") in samples.SAMPLES else "real"
        sheet.write_sheet(Path(where) / f"{name}.png", pairs)
    silent = [
        f"{pair.name}: IoU {pair.overlap:.3f}, colour {pair.colour:.3f}"
        for pair in pairs
        if not pair.notes and (pair.overlap < OVERLAP or pair.colour > COLOUR)
    ]
    assert not silent


def test_samples_look_as_in_three_js(driver, tmp_path):
    paths = [path for path in samples.write_samples(tmp_path) if path.stem not in UNKNOWN_THERE]
    pairs, refused = pairs_of(driver, tmp_path, paths)
    assert not refused
    assert len(pairs) >= 40
    check(pairs)


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real assets is not there")
def test_real_assets_look_as_in_three_js(driver):
    paths = [path for path in sorted(REAL.rglob("*")) if path.suffix.lower() in SUFFIXES]
    pairs, _ = pairs_of(driver, REAL, paths)
    assert len(pairs) > 0.9 * len(paths)
    check(pairs)
