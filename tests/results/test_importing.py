"""Rows of other tools: what a CSV may say, what is taken over from a run, and how both are marked."""

from __future__ import annotations

import pytest

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.results.compare import compare
from mdtbench.results.frames import rows_frame
from mdtbench.results.importing import Import, imported_rows, read_csv
from mdtbench.results.merge import Run, merged
from mdtbench.results.report import RunResults, tables

WHEN = "2026-11-22T00:00:00+00:00"


@pytest.fixture
def rows_of(tmp_path):
    """Rows of a CSV's text."""

    def made(text: str, like=(), name="LGM"):
        path = tmp_path / "lgm.csv"
        path.write_text(text, encoding="utf-8")
        return imported_rows(read_csv(path), Import(path.name, name, like, WHEN))

    return made


@pytest.fixture
def evaluation(make):
    at = {"stage": "evaluation", "split": "toys", "reference_sha": "r", "config_sha": "p", "seed": None, "run_id": "e"}
    at |= {"train_seed": None, "steps": None, "nfe": None}
    return [
        make.row("FlashVDM", "FD_incep", 20.0, weights_sha="w1", metric_version=3, **at),
        make.row("FlashVDM", "ULIP_I", 37.0, weights_sha="w2", unit="x100", higher_is_better=True, **at),
        make.row("truth", "ULIP_I", 60.0, weights_sha="w2", unit="x100", higher_is_better=True, **at),
    ]


def test_all_columns_arrive_and_the_rows_say_that_they_were_imported(rows_of):
    text = (
        "\ufeffmetric,value,method,variant,steps,nfe,seed,stderr,n,latency_s,unit,higher_is_better,note\n"
        "Chamfer, 0.5 ,LGM,big,4,8,2,0.25,60,1.5,mm,false,from its paper\n"
    )
    row, time = rows_of(text)
    assert (row.metric, row.value, row.method, row.variant, row.steps, row.nfe, row.seed) == (
        "Chamfer",
        0.5,
        "LGM",
        "big",
        4,
        8,
        2,
    )
    assert (row.stderr, row.n_ok, row.n_total, row.unit, row.higher_is_better) == (0.25, 60, 60, "mm", False)
    assert row.note == "imported from lgm.csv, not measured here; from its paper"
    assert (row.git_commit, row.torch, row.stage) == ("imported", "imported", "imported")
    assert row.device == "imported, not measured here"
    assert (time.metric, time.value, time.wall_s, time.unit, time.steps) == ("latency_s", 1.5, 1.5, "s", 4)
    assert (time.stderr, time.higher_is_better) == (None, False)


def test_with_a_run_its_definitions_are_taken_over_and_one_table_shows_both(rows_of, evaluation):
    rows = rows_of("metric,value,n,latency_s\nFD_incep,25.5,60,3.5\nULIP_I,33,60,3.5\n", evaluation)
    fd, time, ulip = rows
    assert (fd.metric_version, fd.weights_sha, fd.reference_sha, fd.config_sha) == (3, "w1", "r", "p")
    assert (fd.n_ok, fd.n_total, fd.split, fd.stage) == (60, 64, "toys", "evaluation")
    assert (ulip.unit, ulip.higher_is_better, ulip.weights_sha) == ("x100", True, "w2")
    assert time.metric == "latency_s"
    both = merged([Run("e", RunResults(rows_frame(evaluation)), {}), Run("i", RunResults(rows_frame(rows)), {})])
    (table,) = tables(both)
    assert [line.method for line in table.rows] == ["FlashVDM", "LGM", "truth"]
    assert not any(cell.best for cell in table.column("FD_incep"))  # one value of each tells no chance
    assert any("Nothing in FD_incep, ULIP_I: one value per line" in note for note in table.notes)
    assert table.column("n")[1].text == "60/64"
    assert any("LGM: imported from lgm.csv, not measured here" in note for note in table.footnotes)
    verdicts = compare(rows_frame(rows), rows_frame(evaluation), methods=["LGM=FlashVDM"]).differences
    measured = [one for one in verdicts if one.method == "FlashVDM" and one.metric != "latency_s"]
    assert [(one.metric, one.difference) for one in measured] == [("FD_incep", 5.5), ("ULIP_I", -4.0)]


def test_seconds_take_the_runs_own_count(rows_of, evaluation, make):
    at = evaluation[0].model_dump(include={"stage", "split", "reference_sha", "config_sha", "seed", "run_id", "steps"})
    timed = make.row("FlashVDM", "latency_s", 2.0, unit="s", n_ok=1, n_total=1, metric_version=2, **at)
    for run in (evaluation, [*evaluation, timed]):
        fd, time = rows_of("metric,value,n,latency_s\nFD_incep,25.5,60,3.5\n", run)
        assert (fd.n_ok, fd.n_total) == (60, 64)
        assert (time.n_ok, time.n_total, time.metric_version) == (1, 1, 2)
        (table,) = tables(
            merged([Run("e", RunResults(rows_frame(run)), {}), Run("i", RunResults(rows_frame([fd, time])), {})])
        )
        assert table.column("latency_s")[1].text == "3.50"
    _, time = rows_of("metric,value,latency_s\nFD_incep,25.5,3.5\n", [*evaluation, timed])
    assert "n not given" not in time.note


def test_an_unknown_n_is_taken_to_be_all_and_the_note_says_so(rows_of, evaluation):
    (row,) = rows_of("metric,value\nULIP_I,33\n", evaluation)
    assert (row.n_ok, row.n_total) == (64, 64)
    assert row.note.endswith("n not given, taken to be all 64")
    (alone,) = rows_of("metric,value\nULIP_I,33\n")
    assert (alone.n_total, alone.higher_is_better) == (0, True)  # the direction is that of the paper's metric
    assert alone.note.endswith("n not known")


def test_equal_files_are_equal_runs_and_other_values_are_not(rows_of):
    first, again, other = (rows_of(f"metric,value\nFD_incep,{value}\n")[0].run_id for value in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metric,valeu\nFD_incep,1\n", "Unknown column 'valeu'. Did you mean 'value'?"),
        ("metric\nFD_incep\n", "has no column value"),
        ("metric,value,value\nFD_incep,1,2\n", "has a column twice"),
        ("metric,value\n", "has no values"),
        ("metric,value\nFD_incep\n", "line 2 has another number of cells"),
        ("metric,value\nFD_incep,1,2\n", "line 2 has another number of cells"),
        ("metric,value\nFD_incep,\n", "line 2 has no value"),
        ("metric,value\nFD_incep,nan\n", "line 2: value cannot be that .got 'nan'"),
        ("metric,value\nFD_incep,1_000\n", "line 2: value cannot be that .got '1_000'"),
        ("metric,value\nlatency_s,-1\n", "line 2: value cannot be that .got '-1'"),
        ("metric,value,stderr\nFD_incep,1,-1\n", "stderr cannot be that"),
        ("metric,value,steps\nFD_incep,1,1.5\n", "steps is not a whole number .got '1.5'"),
        ("metric,value,higher_is_better\nFD_incep,1,maybe\n", "higher_is_better .got 'maybe'"),
        ("metric,value\nChamfer,1\n", "line 2: the direction of Chamfer is not known"),
        ("metric,value\nFD_incep,1\nFD_incep,2\n", "line 3: FD_incep of LGM is given twice"),
        ("metric,value,latency_s\nFD_incep,1,2\nULIP_I,1,3\n", "line 3: latency_s of LGM is given twice"),
        ("metric,value,method\nFD_incep,1,teacher\n", "'teacher' is the name of a control"),
    ],
)
def test_a_mistake_is_named_with_its_line(rows_of, text, message):
    with pytest.raises(UsageError, match=message):
        rows_of(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metric,value\nFD_inecp,1\n", "Unknown metric 'FD_inecp'. Did you mean 'FD_incep'?"),
        ("metric,value,n\nFD_incep,1,65\n", "n is 65 - the run of --like has 64 assets"),
        ("metric,value,unit\nULIP_I,1,x1\n", "unit of ULIP_I is 'x1' - that of the run of --like is 'x100'"),
        ("metric,value,higher_is_better\nULIP_I,1,no\n", "higher_is_better of ULIP_I is 'False'"),
    ],
)
def test_what_the_run_measured_otherwise_is_refused(rows_of, evaluation, text, message):
    with pytest.raises(UsageError, match=message):
        rows_of(text, evaluation)


def test_what_is_no_csv_is_a_missing_file(tmp_path):
    with pytest.raises(MissingError, match="Missing file"):
        read_csv(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00metric")
    with pytest.raises(MissingError, match="not a CSV file"):
        read_csv(tmp_path / "binary.csv")
