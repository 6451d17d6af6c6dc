"""The examples of the documentation run as they stand, at miniature size, and the pages show them as they are."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from pages import DOCS, EXAMPLES, blocks, links

from mdtbench.assets.source import SOURCES
from mdtbench.harness.cli.app import VERBS, verb
from mdtbench.metrics.contract import METRICS, Comparison, Seen
from mdtbench.results.rows import BOTH, STRUCTURE, Row, read_rows

README = DOCS.parent / "README.md"
EVERY_PAGE = (README, *sorted(DOCS.glob("*.md")))
PAGES = {
    "adding_a_method.md": ("my_method.py", "my_flow_map.py", "my_critic.py", "my_adversary.py", "my_pairs.py"),
    "adding_a_metric.md": ("my_metric.py",),
    "adding_a_data_source.md": ("my_source.py",),
    "adding_a_backbone.md": ("my_backbone.py",),
}
TINY = (
    "train.steps=2", "train.batch=4", "slat.steps=1", "slat.batch=2", "data.train=8",
    "evaluate.seeds=[0]", "evaluate.whole=2",
)  # fmt: skip
SIZE = ["--preset", "smoke", "--steps", "1", *(word for change in TINY for word in ("--set", change))]


def call(*args: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own: examples register names, which a process can do once."""
    done = subprocess.run(
        [sys.executable, *map(str, args)], cwd=folder, env=os.environ, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples: pictures and features of the toys that they are compared with take most of a run."""
    return tmp_path_factory.mktemp("cache")


def run(folder: Path, cache: Path, *args: object) -> list[Row]:
    """Rows of `mdtbench run`."""
    call("-m", "mdtbench", "run", *SIZE, "--cache", cache, "--out", "run", *args, folder=folder)
    return read_rows(folder / "run" / "rows.jsonl")


def value(rows: list[Row], metric: str, **place: object) -> float:
    """Of the only row of that place."""
    [row] = [row for row in rows if row.metric == metric and all(getattr(row, k) == v for k, v in place.items())]
    assert row.value is not None
    return row.value


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples can be imported; what they register is forgotten."""
    monkeypatch.syspath_prepend(EXAMPLES)
    for registry in (METRICS, SOURCES):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    yield
    for name in chain(*PAGES.values()):
        sys.modules.pop(Path(name).stem, None)


@pytest.mark.parametrize(("page", "examples"), PAGES.items())
def test_the_page_shows_the_files(page: str, examples: tuple[str, ...]):
    shown = [block.text for block in blocks(DOCS / page) if block.kind == "python"]
    assert shown == [(EXAMPLES / example).read_text(encoding="utf-8") for example in examples]


@pytest.mark.slow
def test_a_method_and_metrics(cache: Path, tmp_path: Path):
    """Both stages. Two and four steps of the teacher make different students, and each metric has a value for each."""
    plugins = ["--plugin", EXAMPLES / "my_method.py", "--plugin", EXAMPLES / "my_metric.py"]
    rows = run(tmp_path, cache, *plugins, "--methods", "mine,mine:four", "--limit", 3)
    assert all(row.status == "ok" for row in rows)
    errors = [value(rows, "MSE_teacher", method="mine", variant=v) for v in ("", "four")]
    assert errors[0] != errors[1]
    assert value(rows, "fill_gap", stage=STRUCTURE, method="mine", variant="") > 0
    assert value(rows, "cells_gap", stage=BOTH, method="mine", variant="four") >= 0
    assert value(rows, "fill_gap", method="reconstruction", stage=STRUCTURE) >= 0
    assert not any(row.metric == "fill_gap" for row in rows if row.method in ("truth", "shuffled", "floor"))
    assert not any(row.metric == "cells_gap" for row in rows if row.method == "teacher")  # it has no other teacher
    log = next((tmp_path / "run" / "students").glob("structure-mine-*/*log*"))
    assert "rms_error" in log.read_text()


@pytest.mark.usefixtures("registries")
def test_a_metric_is_what_it_says():
    """Two shapes with 2 and 8 cells, of which 4 and 4 are true: 50 % and 100 % off."""
    from my_metric import FillGap

    assert "fill_gap" in METRICS.names()

    def filled(counts: list[int]) -> Seen:
        grids = np.stack([(np.arange(64) < count).reshape(4, 4, 4) for count in counts])
        return Seen(("a", "b"), np.ones(2, bool), {"occupancy": grids})

    score = FillGap().score(filled([2, 8]), Comparison(truth=filled([4, 4])))
    assert score.value == pytest.approx(75)
    assert score.per_asset == pytest.approx([50, 100])


@pytest.mark.slow
def test_a_source(cache: Path, tmp_path: Path):
    """Shapes are made in worker processes, in the same way each time; the manifest names the source."""
    args = ["--stages", "structure", "--plugin", EXAMPLES / "my_source.py", "--methods", "vm"]
    rows = run(tmp_path, cache, *args, "--assets", "superellipsoids:4", "--workers", 2)
    assert {row.n_ok for row in rows if row.method == "vm" and row.unit != "s"} == {4}
    assert value(rows, "IoU_truth", method="reconstruction") > 0.3  # the encoder and decoder have seen boxes alone
    assert '"superellipsoids"' in (tmp_path / "run" / "manifest.json").read_text()
    command = ["-m", "mdtbench", "run", "--plugin", EXAMPLES / "my_source.py", "--assets"]
    for wrong, told in (("superelipsoids:4", "Did you mean 'superellipsoids'?"), ("superellipsoids:x", "got 'x'")):
        failed = subprocess.run([sys.executable, *map(str, command), wrong], capture_output=True, text=True)
        assert failed.returncode == 2
        assert told in failed.stderr


@pytest.mark.usefixtures("registries")
def test_the_shapes_of_the_source_are_closed_and_outward():
    """The signed volume of a normalised solid is positive, and at most that of its cube."""
    from my_source import Superellipsoids

    for asset in Superellipsoids(3).assets():
        triangles = asset.load().triangles
        volume = np.linalg.det(triangles).sum() / 6
        assert 0.02 < volume < 0.95**3
        np.testing.assert_array_equal(triangles, asset.load().triangles)


@pytest.mark.slow
def test_a_backbone(cache: Path, tmp_path: Path):
    """A world with a network of another class is distilled, in workers too; without the plug-in it is refused."""
    call(EXAMPLES / "my_backbone.py", "my_world", "--steps", 3, "--toys", 6, "--width", 8, folder=tmp_path)
    args = ["--stages", "structure", "--methods", "scm", "--limit", 2, "--set", "world=my_world"]
    rows = run(tmp_path, cache, *args, "--plugin", EXAMPLES / "my_backbone.py", "--workers", 2)
    assert all(row.status == "ok" for row in rows)
    assert (tmp_path / "my_world" / "ckpts" / "ss_flow.json").read_text().count("ConvFlow") == 1
    alone = [sys.executable, "-m", "mdtbench", "run", *SIZE, *map(str, args), "--out", "other"]
    failed = subprocess.run([*alone, "--workers", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "Unknown network 'ConvFlow'" in failed.stderr
    assert "--plugin" in failed.stderr


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_between_pages(page: Path):
    """Every page and file that a page refers to is there, every heading too; the index has every page."""
    for target in links(page):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), target
        if heading:
            assert heading in anchors(found), target
    assert page.name == "README.md" or f"({page.name})" in (DOCS / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.name)
def test_commands_of_pages_have_verbs_and_options_that_exist(page: Path):
    for line in re.findall(r"^ *(?:\$ )?mdtbench ([a-z].*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        words = shlex.split(re.sub(r"[\[\]|()]", " ", line.partition("   ")[0].removesuffix("\\")), comments=True)
        assert words[0] in VERBS, line
        command = verb(words.pop(0))
        while hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts}
        used = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert used <= known, f"{line}: {used - known}"


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = [line.lstrip("#").strip() for line in page.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    kept = ["".join(c for c in heading.lower() if c.isalnum() or c in " -_") for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}
