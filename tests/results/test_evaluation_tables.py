"""The table of systems: its lines, columns and notes, the paper's numbers beside it, and what it refuses."""

from __future__ import annotations

import pytest

from mdtbench.base.errors import UsageError
from mdtbench.results.evaluation_tables import ERRORS_NOTE, NOT_CALIBRATED, evaluation_table
from mdtbench.results.frames import rows_frame
from mdtbench.results.report import FORMATS, RunResults, report, tables

METRICS = {"KD_incep": (0.1, "x100"), "FD_incep": (20.0, ""), "FD_dinov2": (150.0, ""), "ULIP_I": (37.0, "x100")}
COMMON = "protocol p (abc); no floor row"


@pytest.fixture
def system(make):
    """Rows of one system; better by `better` in everything."""

    def rows(name="FlashVDM", better=0.0, mark="", latency=None, metrics=tuple(METRICS), **changes):
        at = {"stage": "evaluation", "train_seed": None, "seed": None, "steps": None, "nfe": None, "cfg_strength": None}
        at |= {"split": "toys", "reference_sha": "r", "config_sha": "p", "weights_sha": "w", "note": COMMON}
        at |= {"run_id": name} | changes
        made = []
        for metric in metrics:
            value, unit = METRICS[metric]
            sign = 1 if metric.startswith("ULIP") else -1
            higher = metric.startswith("ULIP")
            made.append(make.row(name, metric + mark, value + sign * better, unit=unit, higher_is_better=higher, **at))
        if latency:
            made.append(make.row(name, "latency_s", latency, unit="s", wall_s=latency, **at | {"weights_sha": None}))
        return made

    return rows


@pytest.fixture
def controls(system):
    return [
        *system("truth", metrics=("ULIP_I",), run_id="reference-r"),
        *system("shuffled", better=-30, metrics=("ULIP_I",), run_id="reference-r"),
    ]


def keys(table) -> list[str]:
    return [column.key for column in table.columns]


def texts(table, key: str) -> list[str]:
    return [cell.text for cell in table.column(key)]


def test_a_report_of_systems_is_their_table(system, controls):
    shown = tables(RunResults(rows_frame([*system(), *controls])))
    assert [table.name for table in shown] == ["evaluation"]
    for form in FORMATS:
        assert "FlashVDM" in report(RunResults(rows_frame([*system(), *controls])), form)


def test_systems_come_first_then_the_controls_and_main_columns_before_others(system, controls):
    table = evaluation_table(rows_frame([*controls, *system("A"), *system("B", better=1, latency=1.3, steps=5)]))
    assert texts(table, "method") == ["A", "B", "Ground truth", "Ground truth, shuffled pairs"]
    ours = [key for key in keys(table) if not key.startswith("paper:")]
    assert ours == ["method", "steps", "latency_s", "FD_incep", "FD_dinov2", "ULIP_I", "KD_incep", "n"]
    assert texts(table, "latency_s") == ["-", "1.30", "-", "-"]
    assert texts(table, "n")[:2] == ["64/64", "64/64"]


def test_what_a_system_does_not_have_is_a_dash(system, controls):
    table = evaluation_table(rows_frame([*system("mesh only", metrics=("ULIP_I",)), *system("B"), *controls]))
    assert texts(table, "FD_incep")[0] == "-"
    assert texts(table, "FD_incep")[1] == "20.00"
    assert "steps" not in keys(table)
    assert "latency_s" not in keys(table)


@pytest.mark.parametrize(
    ("name", "steps", "ulip", "seconds"),
    [("flashvdm", None, 37.91, 1.30), ("FlashVDM", 5, 37.91, 1.30), ("TRELLIS", 25, 39.53, 6.1)],
)
def test_the_papers_own_numbers_stand_beside_official_metrics(system, name, steps, ulip, seconds):
    table = evaluation_table(rows_frame(system(name, steps=steps)))
    assert table.column("paper:ULIP_I")[0].value == ulip
    assert table.column("paper:seconds")[0].value == seconds
    assert any("not comparable" in note for note in table.notes)


@pytest.mark.parametrize(("name", "steps"), [("FlashVDM", 4), ("Ours", None), ("LGM", None), ("mine", None)])
def test_other_steps_ambiguous_ones_and_quoted_rows_are_not_shown(system, name, steps):
    assert not any(key.startswith("paper:") for key in keys(evaluation_table(rows_frame(system(name, steps=steps)))))


def test_the_papers_numbers_never_stand_beside_random_extractors(system):
    table = evaluation_table(rows_frame(system(mark="[random]", latency=1.3)))
    assert "FD_incep[random]" in keys(table)
    assert not any(key.startswith("paper:") for key in keys(table))


def test_what_all_notes_share_stands_under_the_table_and_the_rest_at_the_line(system):
    rows = [*system("A"), *system("B", note=f"{COMMON}; time: as given")]
    table = evaluation_table(rows_frame(rows))
    assert {"Protocol p (abc).", "No floor row."} <= set(table.notes)
    assert table.footnotes == ("B: time: as given",)
    assert [cell.notes for cell in table.column("method")] == [(), (1,)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config_sha": "q"}, "more than one protocol"),
        ({"reference_sha": "s"}, "more than one reference"),
        ({"n_total": 65}, "more than one number of assets"),
        ({"weights_sha": "v"}, "more than one extractor of KD_incep"),
        ({"metric_version": 2}, "more than one version of KD_incep"),
        ({"split": "others"}, "more than one split"),
    ],
)
def test_what_cannot_be_compared_is_refused(system, changes, message):
    evaluation_table(rows_frame([*system("A"), *system("B")]))
    with pytest.raises(UsageError, match=message):
        evaluation_table(rows_frame([*system("A"), *system("B", **changes)]))


def test_random_and_official_metrics_are_different_columns(system):
    table = evaluation_table(rows_frame([*system("A"), *system("B", mark="[random]", weights_sha="random")]))
    assert texts(table, "FD_incep") == ["20.00", "-"]
    assert texts(table, "FD_incep[random]") == ["-", "20.00"]


def test_two_systems_with_one_reference_share_its_controls(system, controls):
    assert len(evaluation_table(rows_frame([*system("A"), *controls, *system("B"), *controls])).rows) == 4


def test_several_seeds_of_a_system_are_one_line_with_their_mean_and_sd(system, controls):
    seeds = [system("A", better=seed, seed=seed, run_id=f"A{seed}") for seed in (0, 1, 2)]
    table = evaluation_table(rows_frame([*controls, *(row for rows in seeds for row in rows), *system("B")]))
    assert texts(table, "method") == ["A", "B", "Ground truth", "Ground truth, shuffled pairs"]
    # 20, 19, 18 and 37, 38, 39: sd (ddof=1) exactly 1
    assert texts(table, "FD_incep")[:2] == ["19.00 ± 1.00", "20.00"]
    assert texts(table, "ULIP_I")[:2] == ["38.00 ± 1.00", "37.00"]
    assert any("Mean ± sd over generation seeds" in note for note in table.notes)
    with pytest.raises(UsageError, match="Two runs hold the same measurement"):
        evaluation_table(rows_frame([*system("A", seed=1), *system("A", seed=1, run_id="again")]))
    with pytest.raises(UsageError, match="more than one reference"):
        evaluation_table(rows_frame([*system("A", seed=1), *system("A", seed=2, run_id="again", reference_sha="s")]))


def test_errors_of_one_seed_are_shown_and_never_mixed_with_the_sd_over_seeds(system):
    one = [row.model_copy(update={"stderr": 0.25} if row.metric == "ULIP_I" else {}) for row in system("A", seed=0)]
    table = evaluation_table(rows_frame(one))
    assert texts(table, "ULIP_I") == ["37.00 ± 0.25"]
    assert texts(table, "FD_incep") == ["20.00"]
    assert ERRORS_NOTE in table.notes
    assert table.column("ULIP_I")[0].sd is None  # that of seeds is not known
    both = evaluation_table(rows_frame([*one, *system("A", seed=1, better=1, run_id="other")]))
    assert texts(both, "ULIP_I") == ["37.50 ± 0.71"]
    assert ERRORS_NOTE not in both.notes


def test_seconds_are_of_fewer_assets_and_show_their_sd_over_repeats(system):
    rows = system("A", seed=0, latency=1.25)
    timed = rows[-1].model_copy(update={"stderr": 0.25, "n_ok": 1, "n_total": 1, "metric_version": 2})
    table = evaluation_table(rows_frame([*rows[:-1], timed]))
    assert texts(table, "latency_s") == ["1.25 ± 0.25"]
    assert texts(table, "n") == ["64/64"]
    assert ERRORS_NOTE in table.notes


def test_an_error_smaller_than_the_columns_digits_shows_more_of_them(system):
    rows = [
        row.model_copy(update={"stderr": 0.0004, "n_ok": 60}) for row in system("A", metrics=("KD_incep", "ULIP_I"))
    ]
    short = [rows[0], rows[1].model_copy(update={"n_ok": 64})]
    assert texts(evaluation_table(rows_frame(short)), "KD_incep") == ["0.1000 ± 0.0004 (60/64)"]


def test_a_teacher_in_the_table_calibrates_all(system):
    calibration = "calibration: calibrated (FD_incep 11.80, published 11.80: +0.0% of +-10%)"
    alone = evaluation_table(rows_frame(system("A", note=f"{COMMON}; {NOT_CALIBRATED}")))
    assert any(NOT_CALIBRATED[1:] in note for note in alone.notes)
    teacher = system("TRELLIS", note=f"{COMMON}; {calibration}")
    table = evaluation_table(rows_frame([*system("A", note=f"{COMMON}; {NOT_CALIBRATED}"), *teacher]))
    assert table.footnotes == (f"TRELLIS: {calibration}",)
    assert not any(NOT_CALIBRATED[1:] in text for text in (*table.notes, *table.footnotes))
