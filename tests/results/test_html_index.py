from __future__ import annotations

import json
import math
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.base.files import write_json, write_record, write_text
from mdtbench.results.asset_values import write_asset_values
from mdtbench.results.figures.style import looks_of_run
from mdtbench.results.frames import rows_frame
from mdtbench.results.html.assets import AssetIndex
from mdtbench.results.html.data import Failure, ReportData, read_data
from mdtbench.results.html.environment import environment
from mdtbench.results.html.extremes import averaged, extremes
from mdtbench.results.html.logs import downsampled, read_logs
from mdtbench.results.html.pareto import families
from mdtbench.results.html.provenance import provenances
from mdtbench.results.html.report import MARKER, index_page, write_report
from mdtbench.results.html.summary import CONTROL_SENTENCES, controls, sentence
from mdtbench.results.html.tables import view
from mdtbench.results.pareto import front, plotted_tables
from mdtbench.results.places import CONTROLS
from mdtbench.results.report import RunResults, read_run, tables
from mdtbench.results.rows import write_rows
from mdtbench.results.students import StudentRecord, write_students
from mdtbench.results.sweep import SweepRecord, Trial, write_sweeps

EVIL = "<img src=x onerror=alert(1)>"
VOID = {"meta", "link", "img", "input", "br", "hr"}
LINKS = {"https://arxiv.org/abs/2509.04406"}  # where the page may lead, by a click


class Page(HTMLParser):
    """A page's tags with their attributes, the tables' cells, all text; unbalanced tags are an error."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text: list[str] = []
        self._name = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "div" and dict(attrs).get("class") == "table":
            self._name = dict(attrs)["id"] or ""
            self.tables[self._name] = []
        if self._name and tag == "tr":
            self.tables[self._name].append([])
        if self._name and tag in ("td", "th"):
            self.tables[self._name][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self._name = ""

    def handle_data(self, data):
        self.text.append(data)
        if self._name and "table" in self.open and ("td" in self.open or "th" in self.open) and "sup" not in self.open:
            self.tables[self._name][-1][-1] += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def write_run(folder: Path, rows: Iterable, values: Iterable = (), students: Iterable[StudentRecord] = ()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.jsonl", rows)
    if values:
        write_asset_values(folder, values)
    if students:
        write_students(folder, students)
    return folder


def write_log(folder: Path, name: str, entries: Iterable[dict], **account) -> None:
    write_text(folder / "students" / name / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))
    if account:
        write_record(folder / "students" / name / "training.json", account)


def student(method: str = "cm", **changes) -> StudentRecord:
    values = {"method": method, "train_seed": 0, "steps": 20, "batch": 4, "forwards": 6.0, "lr": 0.0003}
    return StudentRecord.model_validate(values | changes)


def tables_of(rows):
    return tables(RunResults(rows_frame(rows)))


def index(run: Path, out: Path) -> Page:
    return Page(write_report(run, out).read_text(encoding="utf-8"))


def test_numbers_of_all_tables_are_those_of_the_report(make, tmp_path):
    run = write_run(tmp_path / "run", make.whole_run(), students=[student()])
    page = index(run, tmp_path / "out")
    expected = tables(read_run(run))
    assert list(page.tables) == [table.name for table in expected]
    for table in expected:
        head, *lines = page.tables[table.name]
        shown = [[" ".join(cell.split()) for cell in line] for line in lines if len(line) > 1]  # others name blocks
        assert shown == [[cell.text for cell in line.cells] for line in table.rows]
        assert [cell.split("(")[0].replace("\u00a0", " ").strip() for cell in head] == [
            column.heading.split("(")[0].strip() + (f" {column.arrow}" if column.unit and column.arrow else "")
            for column in table.columns
        ]


def test_marks_and_orders_of_cells(make):
    rows = [
        *(
            make.row(name, value=value + seed, seed=seed)
            for name, value in (("cm", 2.0), ("pcm", 3.0))
            for seed in (0, 1)
        ),
        make.row("scm", value=None),
    ]
    table = view(tables_of(rows)[0])
    column = next(i for i, head in enumerate(table.heads) if head.text.startswith("FD"))
    cells = {line.name.split()[0]: line.cells[column] for body in table.bodies for line in body.rows}
    assert {name: cell.mark for name, cell in cells.items()} == {"CM": "best", "PCM": "", "sCM": ""}
    assert (cells["CM"].order, cells["sCM"].order) == ("2.5", "")
    assert "failed" in cells["sCM"].style.split()
    assert table.heads[column].first == "ascending"  # the best value first


def test_a_head_of_a_score_sorts_the_highest_first(make):
    heads = view(tables_of([make.row(metric="ULIP_tiny", unit="x100")])[0]).heads
    assert next(head.first for head in heads if head.text.startswith("ULIP")) == "descending"


def test_spread_is_told(make):
    rows = [make.row(value=value, seed=seed) for seed, value in enumerate((1.0, 3.0))]
    cells = view(tables_of(rows)[0]).bodies[0].rows[0].cells
    cell = next(cell for cell in cells if cell.spread)
    assert (cell.text, cell.spread) == ("2.000", "1.414")
    assert "sd over generation seeds 1.414" in cell.title


def test_columns_of_the_paper_are_marked_as_such(make, tmp_path):
    page = index(write_run(tmp_path / "run", make.run()), tmp_path / "out")
    heads = [a for a in page.attributes("th") if a.get("scope") == "col" and "data-first" in a]
    assert sum(a["class"] == "paper" for a in heads) == 6  # three in each of Tables 2 and 3
    assert any(a.get("id") == "paper" for a in page.attributes("input"))
    css = (tmp_path / "out/static/report.css").read_text()
    assert ".results .paper { display: none; }" in css


def test_names_are_text(make, tmp_path):
    rows = [
        make.row(EVIL, value=1.0, note=EVIL),
        make.row("cm", value=None, error=EVIL),
        make.row("cm", steps=2, nfe=2),
    ]
    rows = [row.model_copy(update={"variant": EVIL, "run_id": EVIL}) for row in rows]
    values = [make.asset(EVIL, {"FD_tiny2d": 1.0}), make.asset("b", {"FD_tiny2d": 2.0}, ok=False, error=EVIL)]
    run = write_run(tmp_path / "run", rows, values, [student(EVIL, error=EVIL)])
    write_text(run / "failures.csv", f"id,reason\n{EVIL},{EVIL}\n")
    write_json(run / "manifest.json", {"config": {EVIL: EVIL}, "machine": {EVIL: EVIL}, "methods": {EVIL: {}}})
    write_log(
        run, "cm-seed0-ab", [{"step": 0, "loss": 1.0, EVIL: 2.0}, {"step": 1, "loss": 1.0, EVIL: 2.0}], label=EVIL
    )
    page = index(run, tmp_path / "out")
    assert not any(attributes.get("src") == "x" for attributes in page.attributes("img"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert sum(EVIL in text for text in page.text) > 10
    assert all(a.get("src") for a in page.attributes("script"))  # no inline script that names could end


def test_nothing_is_loaded_from_elsewhere(make, tmp_path):
    out = tmp_path / "out"
    index(write_run(tmp_path / "run", make.whole_run()), out)
    for path in (out / "index.html", out / "assets.html"):
        for tag, attributes in Page(path.read_text(encoding="utf-8")).tags:
            for name in ("src", "href", "srcset", "poster", "action"):
                target = attributes.get(name) or ""
                assert "//" not in target or (tag == "a" and target in LINKS), (path, tag, target)
    for path in (out / "static" / "report.css", out / "static" / "report.js"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("http:", "https:", "@import", "url(", "fetch(", "XMLHttpRequest"))


def test_links_within_the_page_have_a_target(make, tmp_path):
    run = write_run(tmp_path / "run", make.whole_run(), [make.asset("a", {"FD_tiny2d": 1.0})], [student()])
    page = index(run, tmp_path / "out")
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for attributes in page.attributes("a"):
        target = attributes["href"] or ""
        if target.startswith("#"):
            assert target[1:] in ids
        elif target not in LINKS:
            assert (tmp_path / "out" / target).is_file()
    labels = [word for _, a in page.tags for word in (a.get("aria-labelledby") or "").split()]
    assert set(labels) <= set(ids)


def test_a_bare_run_has_a_page(make, tmp_path):
    page = index(write_run(tmp_path / "run", [make.row()]), tmp_path / "out")
    assert "None." in " ".join(page.text)  # no failures
    assert not page.attributes("figure")


def test_a_run_of_exact_answers_has_a_page(make, tmp_path):
    at = {"stage": "oracle/modes", "sampler": "euler"}
    rows = [make.row(method, metric, 1.0, **at) for method in ("cm", "vm") for metric in ("transport_rmse", "SW2")]
    page = index(write_run(tmp_path / "run", rows), tmp_path / "out")
    assert list(page.tables) == ["oracle_modes"]


def test_an_evaluation_has_a_page(make, tmp_path):
    at = {"stage": "evaluation", "train_seed": None, "seed": None, "steps": None, "nfe": None, "cfg_strength": None}
    rows = [make.row("My system", "FD_incep", 3.0, **at), make.row("floor", "FD_incep", 1.0, **at)]
    run = write_run(tmp_path / "run", rows)
    write_text(run / "failures.csv", "side,id,what,reason\ngenerated,a7,views,empty mesh\n")
    page = index(run, tmp_path / "out")
    assert list(page.tables) == ["evaluation"]
    assert "empty mesh" in "".join(page.text)
    assert read_data(run).failures[0].what == "generated, views"


def test_again_gives_the_same_and_other_folders_are_refused(make, tmp_path):
    run, out = write_run(tmp_path / "run", make.run()), tmp_path / "out"
    first = write_report(run, out).read_bytes()
    write_text(out / "assets" / "gone.html", "of an asset that is no more")
    assert write_report(run, out).read_bytes() == first
    assert not (out / "assets" / "gone.html").exists()
    (out / MARKER).unlink()
    with pytest.raises(UsageError, match="not an earlier report"):
        write_report(run, out)
    with pytest.raises(UsageError, match="not an earlier report"):
        write_report(run, run)
    assert sorted(path.name for path in run.iterdir()) == ["rows.jsonl"]


def test_a_failed_read_leaves_no_folder(tmp_path):
    with pytest.raises(MissingError, match=r"rows\.jsonl"):
        write_report(tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_named(make, tmp_path):
    run = write_run(tmp_path / "run", make.run())
    write_text(run / "students/cm-seed0-ab/log.jsonl", '{"step": 0, "loss"\n')
    with pytest.raises(MissingError, match=r"log\.jsonl is damaged"):
        write_report(run, tmp_path / "out")
    write_text(run / "failures.csv", "name\nx\n")
    with pytest.raises(MissingError, match=r"failures\.csv"):
        read_data(run)


def test_size_with_the_assets_of_the_paper(make, tmp_path):
    names = [f"asset-{i:04d}-{'x' * 60}" for i in range(3218)]
    values = [make.asset(name, {"FD_tiny2d": float(i % 97), "IoU": i / 3218}) for i, name in enumerate(names)]
    rows = [
        make.row("cm", metric, value, n_ok=3218, n_total=3218) for metric, value in (("FD_tiny2d", 1), ("IoU", 0.5))
    ]
    data = ReportData(
        folder=tmp_path,
        rows=rows_frame(rows),
        tables=tables_of(rows),
        failures=[Failure(name, "why " * 40) for name in names],
        asset_values=values,
    )
    page = index_page(data, [], AssetIndex({name: f"assets/{name}.html" for name in names}, {}), environment())
    assert len(page) < 500_000  # grows with methods and metrics, not with assets
    assert "All 3,218 assets" in page
    assert "3218 in all; the first 200" in page


def test_extremes_are_means_over_seeds_and_know_which_way_is_better(make):
    rows = [make.row(metric="IoU", higher_is_better=True), make.row(metric="MSE")]
    seeds = [
        make.asset(name, {"IoU": value + seed / 10, "MSE": value}, seed=seed)
        for name, value in (("a", 0.2), ("b", 0.6), ("c", 0.4), ("d", 0.5))
        for seed in (0, 1)
    ]
    controls = [make.asset("a", {"IoU": 0.0, "MSE": 9.0}, method="shuffled", steps=None)]
    by_metric = {one.metric: one for one in extremes(rows_frame(rows), [*seeds, *controls])}
    iou = by_metric["IoU"].overall
    assert [value.asset for value in iou.worst] == ["a", "c"]
    assert [value.asset for value in iou.best] == ["b", "d"]
    assert math.isclose(iou.worst[0].values["IoU"], 0.25)
    assert by_metric["MSE"].overall.worst[0].asset == "b"
    assert [line.label for line in by_metric["IoU"].lines] == ["CM"]


def test_extremes_keep_lines_with_another_sampler_apart(make):
    rows = [make.row(metric="IoU", higher_is_better=True)]
    plain = [make.asset("a", {"IoU": 0.5}, sampler="euler", own_sampler=False)]
    extra = [make.asset("a", {"IoU": 0.9}, sampler="renoise", extra_sampler=True)]
    [one] = extremes(rows_frame(rows), [*plain, *extra])
    assert [(line.label, line.ends.worst[0].values["IoU"]) for line in one.lines] == [("CM", 0.5), ("CM, renoise", 0.9)]


def test_an_asset_that_failed_with_one_seed_is_not_ok(make):
    both = [make.asset("a", {"IoU": 0.5}), make.asset("a", {"IoU": 0.0}, seed=1, ok=False, error="empty")]
    (merged,) = averaged(both)
    assert (merged.ok, merged.error, merged.values) == (False, "empty", {"IoU": 0.25})


def test_front_keeps_what_no_other_beats():
    spots = [(1.0, 5.0), (1.0, 4.0), (2.0, 4.5), (2.0, 3.0), (4.0, 3.0), (8.0, 1.0)]
    assert front(spots, higher=False) == [(1.0, 4.0), (2.0, 3.0), (8.0, 1.0)]
    assert front(spots, higher=True) == [(1.0, 5.0)]


def test_figures_show_the_lines_with_a_cost(make):
    shown = tables_of(make.whole_run())
    whole, structure = families(plotted_tables(rows_frame(make.whole_run()), shown), looks_of_run(shown, ()))
    assert (whole.title, structure.title) == ("Whole assets", "Structure stage alone")
    assert [figure.metric for figure in whole.figures] == ["FD_gs", "ULIP_tiny"]
    nfe, seconds = whole.figures[0].charts
    lines = [line for line in shown[0].rows if line.cells[2].value]
    assert str(nfe).count("<title>") - 1 == len(lines)  # a tooltip each, and one of the front
    assert "On the Pareto front: VM+VD, 1x2" in nfe
    assert "against seconds" in seconds
    assert structure.figures[0].beyond == ()
    assert ">floor</text>" in structure.figures[0].charts[0]  # near the students' values, so drawn


def test_figures_of_structures_show_methods_that_table_2_lacks(make, tmp_path):
    write_rows(tmp_path / "rows.jsonl", make.run())
    data = read_data(tmp_path)
    assert "vm" not in {line.method for line in data.tables[0].rows}
    page = index_page(data, (), AssetIndex({}, {}), environment())
    assert 'data-metric="stage_structure-FD_tiny2d"' in page
    assert 'data-metric="table_2-FD_tiny2d"' not in page
    figure = page.partition('data-metric="stage_structure-FD_tiny2d"')[2].partition("</figure>")[0]
    assert "<title>VM, 1: 21." in figure
    assert "<title>VM+VD, 1: " in figure


def test_logs_of_the_shown_students(tmp_path):
    entries = [{"step": i, "loss": 1.0 / (i + 1), "rms_phi": 2.0, "skipped": 0, "step_s": 0.1} for i in range(3)]
    write_log(tmp_path, "cm-seed0-ab", entries, label="cm", lr=0.0003)
    write_log(tmp_path, "cm-seed0-cd", entries, label="cm", lr=0.001)  # of a sweep
    write_log(tmp_path, "slat-mdt_paper-seed1-ef", entries, label="mdt:paper", lr=0.0003)
    write_log(tmp_path, "notes", entries)
    shown = [student(), student("mdt", variant="paper", train_seed=1, stage="slat")]
    first, second = read_logs(tmp_path, shown)
    assert (first.stage, first.label, first.seed) == ("structure", "cm", 0)
    assert (second.stage, second.method, second.variant, second.seed) == ("slat", "mdt", "paper", 1)
    assert first.curves == {"loss": ((0, 1.0), (1, 0.5), (2, 1 / 3)), "rms_phi": ((0, 2.0), (1, 2.0), (2, 2.0))}
    assert len(read_logs(tmp_path, [])) == 3


def test_logs_of_the_settings_that_a_sweep_chose(tmp_path):
    def trials(stage, method="cm", best=1.0):
        at = {"method": method, "lr": 0.0003, "score": 1.0}
        return tuple(
            Trial(**at, cfg_strength=g, chosen=g == best, address=f"students/{stage}-{method}-seed0-{g:.0f}a")
            for g in (1.0, 2.0)
        )

    for stage in ("structure", "slat"):
        for method in ("cm", "vm"):
            for name in ("1a", "2a"):
                folder = f"{stage}-{method}-seed0-{name}"
                write_log(tmp_path, folder, [{"step": 0, "loss": float(name[0])}], label=method, lr=0.0003)
    scored = {"metric": "FD", "higher_is_better": False, "steps": 1, "assets": 8, "seed": 0}
    records = [
        SweepRecord(**scored, trials=(*trials("structure"), *trials("structure", "vm", best=None))),
        SweepRecord(**scored, stage="slat", trials=(*trials("slat", best=2.0), *trials("slat", "vm"))),
    ]
    shown = [student(method, stage=stage) for stage in ("structure", "slat") for method in ("cm", "vm")]
    found = [(log.stage, log.label, log.curves["loss"][0][1]) for log in read_logs(tmp_path, shown, records)]
    both = [("structure", "vm", 1.0), ("structure", "vm", 2.0)]  # no setting gave a student: all that were tried
    assert found == [("structure", "cm", 1.0), *both, ("slat", "cm", 2.0), ("slat", "vm", 1.0)]


def test_tables_of_two_sweeps_are_on_the_page(make, tmp_path):
    run = write_run(tmp_path / "run", make.run(), students=[student()])
    scored = {"metric": "FD", "higher_is_better": False, "steps": 1, "assets": 8, "seed": 0}
    trials = tuple(Trial(method="cm", lr=1e-3, cfg_strength=g, score=g, chosen=g == 1) for g in (1.0, 2.0, 4.0))
    write_sweeps(run, [SweepRecord(**scored, stage=stage, trials=trials) for stage in ("structure", "slat")])
    page = index(run, tmp_path / "out")
    assert list(page.tables)[-3:] == ["training_budget", "sweep_structure", "sweep_slat"]
    assert [cell.strip() for cell in page.tables["sweep_slat"][0]][:3] == ["Method", "Learning rate", "Guidance"]
    assert "CM: the best guidance, 1, is at the edge of the grid" in " ".join(page.text)


def test_values_of_a_log_that_are_no_numbers_are_left_out(tmp_path):
    write_text(tmp_path / "students/vm-seed0-ab/log.jsonl", '{"step": 0, "loss": NaN}\n{"step": 1, "loss": 2.0}\n')
    (log,) = read_logs(tmp_path, [])
    assert log.curves == {"loss": ((1, 2.0),)}


def test_long_curves_are_means_of_neighbours():
    points = [(float(i), float(i % 2)) for i in range(1000)]
    short = downsampled(points, 100)
    assert len(short) == 100
    assert short[0] == (4.5, 0.5)
    assert downsampled(points[:3], 100) == tuple(points[:3])
    assert downsampled([], 100) == ()


def test_several_runs_have_their_provenance_each(make, tmp_path):
    rows = [make.row("cm", run_id="one", config_sha="c1"), make.row("vm", run_id="two", config_sha="c2")]
    runs = {name: {"run_id": name, "git_commit": f"of {name}", "config": {"world": name}} for name in ("one", "two")}
    manifest = {"notes": ["Controls are of one."], "runs": runs}
    data = ReportData(folder=tmp_path, rows=rows_frame(rows), tables=tables_of([rows[0]]), manifest=manifest)
    first, second = provenances(data)
    assert (first.name, second.name) == ("one", "two")
    assert dict(first.groups)["Code"][0] == ("git commit", "of one")
    assert (dict(first.digests)["configuration"], dict(second.digests)["configuration"]) == (("c1",), ("c2",))
    page = " ".join(Page(index_page(data, [], AssetIndex({}, {}), environment())).text)
    assert "Runs one, two" in page
    assert "Controls are of one." in page


def test_provenance_shows_what_the_manifest_says(make, tmp_path):
    manifest = {
        "config": {"train": {"steps": 20}},
        "methods": {"cm": {"version": 1, "parameters": "CM(lr=1)"}},
        "machine": {"cores": 2, "processor": "a processor"},
        "versions": {"torch": "2.6"},
        "git_commit": "abc123",
        "git_dirty": True,
        "started_s": 1000.0,
        "finished_s": 1060.0,
    }
    run = write_run(tmp_path / "run", [make.row(reference_sha="beef")])
    write_json(run / "manifest.json", manifest)
    page = " ".join(index(run, tmp_path / "out").text)
    for text in (
        "abc123",
        "with uncommitted changes",
        "a processor",
        "60 s",
        "CM(lr=1)",
        '"steps": 20',
        "beef",
        "c0ffee",
    ):
        assert text in page


def test_the_first_sentence_counts(make):
    assert sentence(rows_frame(make.run())) == (
        "5 methods at 1 and 2 steps on 64 assets with 3 generation seeds and 1 training seed."
    )
    assert sentence(rows_frame([make.row(value=None)])).endswith("; 1 value failed.")
    both = [make.row(value=None), make.row("vm", value=None, status="lost", error="out of memory")]
    assert sentence(rows_frame(both)).endswith("; 1 value failed; 1 value lost.")


def test_lists_of_failures_tell_what_was_lost_and_with_which_sampler(make, tmp_path):
    lost = {"value": None, "status": "lost", "error": "out of memory"}
    rows = [
        make.row(),
        *(make.row(metric=name, sampler="euler", extra_sampler=True, **lost) for name in ("IoU", "MSE")),
    ]
    page = " ".join("".join(index(write_run(tmp_path / "run", rows), tmp_path / "out").text).split())
    assert "CM, euler, 1 step, structure: lost: out of memory; the same command tries again (2 times)" in page
    assert "CM, euler, 1 step: lost: out of memory; the same command tries again" in page  # the table's footnote


def test_controls_of_the_run_are_explained(make):
    named = [control.label for control in controls(rows_frame(make.run()))]
    assert named == ["Floor (held-out reference)", "Reconstruction (VAE)", "Teacher", "Undistilled"]
    assert set(CONTROL_SENTENCES) == set(CONTROLS)
