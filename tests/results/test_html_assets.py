"""Pages of single assets: what they show and link to, with names that are no safe paths or HTML."""

from __future__ import annotations

import base64
import json
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image
from report_run import HOSTILE, IDS, NO_SURFACE, UNUSABLE, ulip_of, write_run

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.results.html import assets, media
from mdtbench.results.html.assets import AssetIndex, write_asset_pages
from mdtbench.results.html.data import read_data
from mdtbench.results.html.environment import environment
from mdtbench.results.html.media import page_name

ALL = (*IDS, UNUSABLE)


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def having(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.tags if attribute in attributes]

    @property
    def links(self) -> list[str]:
        """All that it refers to in the report's folder."""
        models = [f"../{url}" for url in self.having("data-model")]  # of pages in a folder
        found = [*self.having("src"), *self.having("href"), *models]
        return [link for link in found if not link.startswith(("#", "data:"))]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def pages_of(run: Path, out: Path) -> AssetIndex:
    return write_asset_pages(read_data(run), out, environment())


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[AssetIndex, Path]:
    """Of the whole run; the run is gone, so that a page can need nothing of it."""
    folder = tmp_path_factory.mktemp("report")
    index = pages_of(write_run(folder / "run"), folder / "out")
    shutil.rmtree(folder / "run")
    moved = folder / "elsewhere"
    shutil.move(folder / "out", moved)
    return index, moved


def page_of(report: tuple[AssetIndex, Path], asset_id: str) -> Page:
    index, out = report
    return Page(out / index.pages[asset_id])


def test_every_asset_has_a_page_of_its_own(report: tuple[AssetIndex, Path]):
    index, out = report
    assert tuple(index.pages) == ALL
    assert index.count == len(ALL) == len(set(index.pages.values()))
    for asset_id in ALL:
        assert asset_id in page_of(report, asset_id).texts  # as text, whatever it is
    assert index.thumbnail(UNUSABLE) is None
    with Image.open(out / index.thumbnail("chair")) as picture:
        assert picture.size == (48, 48)  # the conditioning picture


def test_what_pages_refer_to_is_in_the_folder(report: tuple[AssetIndex, Path]):
    _, out = report
    written_elsewhere = {"index.html", "report.css", "report.js", "assets.css", "assets.js", "viewer.js"}
    for path in [out / "assets.html", *out.glob("assets/*.html")]:
        links = Page(path).links
        assert links
        for link in links:
            target = (path.parent / unquote(link)).resolve()
            assert target.is_relative_to(out.resolve())
            assert "://" not in link
            assert target.is_file() or target.name in written_elsewhere, link


def test_names_with_html_are_text(report: tuple[AssetIndex, Path]):
    _, out = report
    for path in [out / "assets.html", *out.glob("assets/*.html")]:
        page = Page(path)
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert "x" not in page.having("src")
        assert not any(tag == "voxel" or tag == "no" for tag, _ in page.tags)
    for path in out.glob("media/*.js"):
        assert "</script" not in path.read_text(encoding="ascii").replace(json.dumps(UNUSABLE), "")


def test_pages_lead_from_one_asset_to_the_next(report: tuple[AssetIndex, Path]):
    index, out = report
    path, seen = out / index.pages[IDS[0]], []
    while path:
        page = Page(path)
        seen.append(path.relative_to(out).as_posix())
        found = [attributes["href"] for tag, attributes in page.tags if attributes.get("rel") == "next"]
        path = (path.parent / found[0]).resolve().relative_to(out.resolve()) if found else None
        path = out / path if path else None
    assert seen == list(index.pages.values())
    last = page_of(report, ALL[-1])
    back = [attributes["href"] for _, attributes in last.tags if attributes.get("rel") == "prev"]
    assert back == [f"../{index.pages[ALL[-2]]}"]


def test_cards_are_in_order_and_tell_failures(report: tuple[AssetIndex, Path]):
    page = page_of(report, "chair")
    assert page.having("data-model") == [f"media/{maker}/chair.js" for maker in ("truth", "cm-1x2", "mdt-1x2")]
    assert [src for src in page.having("src") if src.endswith(".png")] == [
        f"../media/{maker}/chair.png" for maker in ("condition", "truth", "cm-1x2", "mdt-1x2")
    ]
    lost = page_of(report, HOSTILE)
    assert len(lost.having("data-model")) == 2
    assert f"Failed: {NO_SURFACE}" in lost.text
    assert f"1 of 2 failed: {NO_SURFACE}" in lost.text
    assert "could not be used" not in lost.text  # it was not made, which says nothing of the test asset
    assert "could not be used: no <voxel> is occupied" in page_of(report, UNUSABLE).text


def test_values_are_means_over_seeds_and_none_is_marked(report: tuple[AssetIndex, Path]):
    _, out = report
    text = page_of(report, "lamps/red").text
    cm, mdt = (sum(ulip_of(2, method, seed) for seed in (0, 1)) / 2 for method in ("cm", "mdt"))
    assert (cm, mdt) == (42.5625, 42.0625)
    assert "Whole assets Method Steps ULIP_tiny (x100) ↑ latency_s (s) ↓" in text
    assert "CM 1x2 42.56 0.5 VM+VD 1x2 42.06 0.5 Ground truth 82 -" in text
    assert "Structures Method Steps ULIP_tiny (x100) ↑ CM 2 14" in text
    source = (out / report[0].pages["lamps/red"]).read_text(encoding="utf-8")
    assert "<b>" not in source  # one asset tells no method from another
    assert ">mean of 2 seeds, 42.5 to 42.62" not in source
    assert 'title="mean of 2 seeds, 42.5 to 42.62">42.56<' in source


def test_models_are_scripts_that_hold_the_files(tmp_path: Path):
    run = write_run(tmp_path / "run")
    pages_of(run, tmp_path / "out")
    text = (tmp_path / "out" / "media" / "truth" / "chair.js").read_text()
    key, data = text.removeprefix("(window.mdtbenchModels ??= {})[").removesuffix(";\n").split("] = ")
    assert json.loads(key) == "media/truth/chair.js"
    kind, content = json.loads(data).split(",")
    assert kind == "data:model/gltf-binary;base64"
    assert base64.b64decode(content) == (run / "export" / "truth" / "0.glb").read_bytes()
    assert (tmp_path / "out" / "vendor" / "LICENSE").is_file()


def test_the_list_holds_what_it_sorts_and_filters_by(report: tuple[AssetIndex, Path]):
    _, out = report
    [script] = out.glob("media/list-*.js")
    entries = json.loads(script.read_text().removeprefix("mdtbenchAssets.push(...").removesuffix(");\n"))
    assert [entry["id"] for entry in entries] == list(ALL)
    assert [bool(entry["failed"]) for entry in entries] == [name in (HOSTILE, UNUSABLE) for name in ALL]
    [settings] = [text for text in Page(out / "assets.html").texts if "mdtbenchSettings" in text]
    found = json.loads(settings.split("mdtbenchSettings = ")[1].removesuffix(";"))
    assert [metric["higher"] for metric in found["metrics"]] == [True, False]
    assert found["methods"] == ["CM, 1x2", "VM+VD, 1x2", "Ground truth"]
    assert entries[2]["values"] == [[42.56, 0.5], [42.06, 0.5], [82.0, None]]


@pytest.mark.parametrize(("models", "pictures"), [(False, True), (True, False), (False, False)])
def test_a_page_has_as_much_as_the_run(tmp_path: Path, models: bool, pictures: bool):
    index = pages_of(write_run(tmp_path / "run", models=models, pictures=pictures), tmp_path / "out")
    page = Page(tmp_path / "out" / index.pages["chair"])
    kinds = Counter(src.rsplit(".", 1)[-1] for src in page.having("src"))
    assert kinds["png"] == (4 if pictures else 0)
    assert len(page.having("data-model")) == (3 if models else 0)
    assert (tmp_path / "out" / "vendor").exists() == models
    assert any("model-viewer" in src for src in page.having("src")) == models
    assert "42.06" in Page(tmp_path / "out" / index.pages["lamps/red"]).text
    assert (index.thumbnail("chair") is None) == (not pictures)


def test_a_run_without_anything_of_single_assets_lists_the_failed_ones(tmp_path: Path):
    run = write_run(tmp_path / "run", models=False, pictures=False, values=False)
    assert tuple(pages_of(run, tmp_path / "out").pages) == (UNUSABLE,)
    (run / "failures.csv").unlink()
    assert pages_of(run, tmp_path / "out").count == 0
    assert not list((tmp_path / "out").glob("assets/*"))  # those of the first report are gone


def test_large_pictures_get_thumbnails_and_large_meshes_stay_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = write_run(tmp_path / "run")
    Image.new("RGBA", (518, 400), (9, 9, 9, 255)).save(run / "export" / "condition" / "0.png")
    sizes = [path.stat().st_size for path in (run / "export").rglob("*.glb")]
    monkeypatch.setattr(media, "ALL_MODEL_BYTES", 4 * max(sizes))
    index = pages_of(run, tmp_path / "out")
    assert index.thumbnail("chair") == "media/thumbnails/chair.jpg"
    with Image.open(tmp_path / "out" / "media" / "thumbnails" / "chair.jpg") as picture:
        assert picture.size == (160, 124)  # 400 * 160 / 518 = 123.6
    assert index.thumbnail(HOSTILE).endswith(".png")
    pages = [Page(tmp_path / "out" / index.pages[name]) for name in IDS]
    assert sum(len(page.having("data-model")) for page in pages) == 4
    assert "The mesh is not in this report (0.0 MB)." in pages[2].text
    monkeypatch.setattr(media, "MODEL_BYTES", 10)
    assert not (tmp_path / "again").exists()
    pages_of(run, tmp_path / "again")
    assert not list((tmp_path / "again").rglob("media/*/*.js"))


def test_the_smaller_mesh_is_shown_where_there_are_two(tmp_path: Path):
    run = write_run(tmp_path / "run")
    index = json.loads((run / "export" / "index.json").read_text())
    small = run / "export" / "view" / "cm-1x2" / "0.glb"
    small.parent.mkdir(parents=True)
    small.write_bytes(b"small")
    index["assets"][0]["files"]["cm-1x2"].append("view/cm-1x2/0.glb")
    (run / "export" / "index.json").write_text(json.dumps(index))
    pages_of(run, tmp_path / "out")
    assert base64.b64encode(b"small").decode() in (tmp_path / "out" / "media" / "cm-1x2" / "chair.js").read_text()


def test_names_of_pages_are_safe_and_different():
    ids = [
        "chair",
        "Chair",
        "a/b",
        "a-b",
        "",
        "..",
        HOSTILE,
        "é" * 300,
        "é" * 301,
        "x" * 300,
        "x" * 60,
        "con.v2",
        "\udc80",
    ]
    names = [page_name(name) for name in ids]
    assert len({name.lower() for name in names}) == len(ids)  # also where case makes no difference
    assert all(name and len(name) < 80 and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") for name in names)
    assert page_name("test-00012") == "test-00012"


@pytest.mark.parametrize(
    ("content", "error", "part"),
    [
        ('{"format": 2, "assets": []}', UsageError, "unknown format (got 2)"),
        ('{"format": 1, "assets": [{"id": "a"}]}', MissingError, "not an index of assets"),
        ('{"format": 1, "assets": [{"id": "a", "files": {"truth": ["../../secret.png"]}}]}', MissingError, "outside"),
        ("[", MissingError, "not valid JSON"),
    ],
)
def test_a_damaged_index_is_told(tmp_path: Path, content: str, error: type[Exception], part: str):
    run = write_run(tmp_path / "run")
    (run / "export" / "index.json").write_text(content)
    with pytest.raises(error, match=part.replace("(", r"\(").replace(")", r"\)")):
        pages_of(run, tmp_path / "out")


def test_the_list_of_many_assets_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(assets, "CHUNK", 3)
    pages_of(write_run(tmp_path / "run", models=False), tmp_path / "out")
    parts = sorted((tmp_path / "out" / "media").glob("*.js"))
    assert [path.name for path in parts] == ["list-000.js", "list-001.js"]
    assert [path.read_text().count('"id":') for path in parts] == [3, 2]
    used = [src for src in Page(tmp_path / "out" / "assets.html").having("src") if src.startswith("media/")]
    assert used == ["media/list-000.js", "media/list-001.js"]
