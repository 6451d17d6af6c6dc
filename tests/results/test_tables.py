from __future__ import annotations

import math

import pytest

from mdtbench.base.errors import UsageError
from mdtbench.results import paper
from mdtbench.results.frames import assets_frame, rows_frame
from mdtbench.results.tables import Measured, table_2, table_3
from mdtbench.results.verdicts import verdicts


def measured(rows) -> Measured:
    frame = rows_frame(rows)
    return Measured.of(frame, tuple(verdicts(frame, assets_frame(()))))


def labels(table):
    return [(group, [line.cells[0].text for line in lines]) for group, lines in table.groups()]


def test_table_2_has_the_papers_order_then_controls(make):
    table = table_2(measured([*make.run(), make.row("aaa_plugin", value=99.0)]))
    assert labels(table) == [
        ("1 step", ["CM", "PCM", "sCM", "VM+VD", "aaa_plugin"]),
        ("2 steps", ["CM", "PCM", "sCM", "VM+VD"]),
        (
            "Controls",
            ["Floor (held-out reference)", "Reconstruction (VAE)", "Teacher"] + ["Undistilled", "Undistilled, CFG"] * 2,
        ),
    ]


def test_table_3_begins_with_the_undistilled_row(make):
    table = table_3(measured(make.run()))
    block = ["no VM, no VD (undistilled)", "VM", "VM+VD"]
    controls = ["Floor (held-out reference)", "Reconstruction (VAE)", "Teacher", *["Undistilled"] * 2]
    assert labels(table) == [("1 step", block), ("2 steps", block), ("Controls", controls)]


def test_columns_say_direction_unit_and_version(make):
    table = table_2(measured(make.run()))
    assert [column.heading for column in table.columns] == [
        "Method",
        "Steps",
        "NFE",
        "time (s/asset) ↓",
        "FD_tiny2d ↓",
        "ULIP_tiny (x100) ↑",
        "ok/n",
        "paper: FD_incep ↓",
        "paper: FD_dinov2 ↓",
        "paper: ULIP_I ↑",
    ]
    assert table.columns[4].version == 1
    assert any("not comparable" in note for note in table.notes)


def test_mean_sd_costs(make):
    table = table_2(measured(make.run()))
    cm = table.column("FD_tiny2d")[0]  # 50, 51, 52
    assert (cm.value, cm.sd, cm.n, cm.n_train, cm.sd_train) == (51.0, 1.0, 3, 1, None)
    assert cm.text == "51.00 ± 1.00"
    assert [cell.text for cell in table.column("nfe")][3:] == [
        "1",
        "2",
        "2",
        "2",
        "2",
        "-",
        "-",
        "44",
        *"1224",
    ]
    assert [cell.value for cell in table.column("latency_s")][3:5] == [0.25, 0.5]
    assert table.column("steps")[-5].text == "25"


def test_two_spreads_over_two_kinds_of_seeds(make):
    values = {0: (1.0, 3.0), 1: (10.0, 16.0)}  # means 2 and 13, variances 2 and 18
    rows = [make.row(value=v, train_seed=t, seed=s) for t, vs in values.items() for s, v in enumerate(vs)]
    cell = table_2(measured(rows)).column("FD_tiny2d")[0]
    assert (cell.value, cell.n, cell.n_train) == (7.5, 4, 2)
    assert cell.sd == pytest.approx(math.sqrt((2 + 18) / 2))
    assert cell.sd_train == pytest.approx(11 / math.sqrt(2))


def test_best_is_per_block_metric_and_direction(make):
    rows = make.run()
    for seed in range(3):
        rows += [make.row("plugin", "FD_tiny2d", 5.0 + seed, seed=seed)]
        rows += [make.row("plugin", "ULIP_tiny", 1.0 + seed, unit="x100", seed=seed)]
    table = table_2(measured(rows))

    def flagged(key):
        cells = zip(table.rows, table.column(key), strict=True)
        return [(line.steps, line.method) for line, c in cells if c.best]

    assert flagged("FD_tiny2d") == [(1, "plugin"), (2, "mdt")]
    assert flagged("ULIP_tiny") == [(1, "mdt"), (2, "mdt")]
    assert not any(cell.best for cell in table.column("paper:FD_incep"))


def marked(values, make):
    """Of methods, by their values of generation seeds: which are marked, and what the notes say of marks."""
    rows = [make.row(name, value=v, seed=s) for name, found in values.items() for s, v in enumerate(found)]
    table = table_2(measured(rows))
    notes = [note for note in table.notes if note.startswith("Marked")]
    return [line.method for line, cell in zip(table.rows, table.column("FD_tiny2d"), strict=True) if cell.best], notes


def test_all_that_cannot_be_told_from_the_best_are_marked(make):
    near = {"cm": (1.0, 2.0, 3.0, 4.0), "pcm": (1.2, 1.7, 3.1, 3.8), "scm": (9.1, 10.2, 10.9, 11.8)}
    methods, notes = marked(near, make)
    assert methods == ["cm", "pcm"]
    assert notes == ["Marked: all that the verdicts cannot tell from the best student of the block."]
    (found,) = verdicts(
        rows_frame([make.row(m, value=v, seed=s) for m, vs in near.items() for s, v in enumerate(vs)]), assets_frame(())
    )
    assert sorted(who[0] for who in found.standing.top) == methods  # as the sentence says


def test_nothing_is_marked_where_nothing_can_be_told(make):
    methods, notes = marked({"cm": (1.0,), "pcm": (2.0,)}, make)
    assert methods == []
    assert "Nothing in FD_tiny2d: one value per line gives no uncertainty." in notes[0]
    assert marked({"cm": (1.0, 2.0)}, make) == ([], [])  # alone in the race


def test_failures_are_shown_and_explained(make):
    rows = [
        make.row("cm", value=None, error="CUDA\nout of\x1b memory"),
        make.row("cm", "ULIP_tiny", None, error="CUDA\nout of\x1b memory"),
        make.row("pcm", value=3.0),
        make.row("pcm", value=None, seed=1),
        *(make.row("scm", value=4.0, n_ok=60, seed=seed) for seed in (0, 1)),
        make.row("scm", "ULIP_tiny", 30.0),
        *(make.row("mdt", value=5.0, seed=seed) for seed in (0, 1)),
    ]
    table = table_2(measured(rows))
    cm, pcm, scm, mdt = table.column("FD_tiny2d")
    assert (cm.text, cm.value, cm.notes) == ("failed", None, (1,))
    assert table.column("ULIP_tiny")[0].notes == (1,)  # the same reason is written once
    assert (pcm.text, pcm.n_failed, pcm.notes) == ("3.000", 1, (2,))
    assert table.footnotes == (
        "CM, 1 step: failed: CUDA out of memory",
        "PCM, 1 step: 1 of 2 seeds failed: loss is not finite",
    )
    assert scm.text == "4.000 ± 0.000 (60/64)"  # the other metric of that line has all 64
    assert [cell.text for cell in table.column("n")] == ["0/64", "0/64", "60/64", "64/64"]
    assert scm.best  # pcm is better, but one of its seeds failed
    assert not mdt.best
    assert table.column("ULIP_tiny")[1].text == "-"


def test_small_numbers_keep_digits(make):
    rows = [make.row("cm", value=194.56), make.row("floor", value=0.012345, steps=None)]
    rows += [make.row("pcm", value=150.0 + s / 1000, seed=s) for s in range(2)]
    assert [c.text for c in table_2(measured(rows)).column("FD_tiny2d")] == ["194.6", "150.0005 ± 0.0007", "0.012"]


def test_variants_are_lines_of_their_own_without_the_papers_numbers(make):
    table = table_2(measured([make.row("pcm"), make.row("pcm", variant="phases4")]))
    assert labels(table) == [("1 step", ["PCM", "PCM [phases4]"])]
    assert [cell.value for cell in table.column("paper:FD_incep")] == [19.53, None]


def test_other_samplers_stand_right_below_the_protocols(make):
    rows = [make.row(method, sampler="renoise", steps=2) for method in ("mdt", "cm")]
    rows += [make.row("mdt", value=3.0, sampler="euler", own_sampler=False, extra_sampler=True, steps=2)]
    rows += [make.row("mdt", variant="official", sampler="euler", steps=2)]
    rows += [make.row("mdt", sampler="renoise"), make.row("none", sampler="euler", train_seed=None)]
    table = table_2(measured(rows))
    assert labels(table)[:2] == [
        ("1 step", ["VM+VD"]),
        ("2 steps", ["CM", "VM+VD", "VM+VD, euler", "VM+VD [official]"]),
    ]
    shown = {(line.cells[0].text, line.steps): (line.sampler, line.cells[4].value) for line in table.rows}
    assert shown["VM+VD", 2] == ("renoise", 1.0)
    assert shown["VM+VD, euler", 2] == ("euler", 3.0)
    published = {(line.cells[0].text, line.steps): cell.value for line, cell in
                 zip(table.rows, table.column("paper:FD_dinov2"), strict=True)}  # fmt: skip
    assert published["VM+VD", 2] == 110.9
    assert published["VM+VD, euler", 2] is None
    own = "Samplers: renoise for VM+VD, CM; euler for VM+VD [official], Undistilled."
    assert own in table.notes
    assert any("no line where it computes" in note for note in table.notes)
    assert not any("no line where it computes" in note for note in table_2(measured(rows[:2])).notes)
    assert not any(note.startswith("Samplers") for note in table_2(measured(make.run())).notes)  # of version 1
    assert not any("method's own" in note for note in table.notes)


def test_a_protocol_may_ask_for_another_sampler_than_the_methods_own(make):
    rows = [make.row("cm", sampler="euler", own_sampler=False), make.row("vm", sampler="euler"), make.row("mdt")]
    rows.append(make.row("cm", value=2.0, sampler="renoise", extra_sampler=True))
    table = table_2(measured(rows))
    shown = {line.cells[0].text: line.cells[4].value for line in table.rows}
    assert shown == {"CM": 1.0, "CM, renoise": 2.0, "VM+VD": 1.0}
    assert "The protocol's sampler is not the method's own: euler for CM." in table.notes


def test_what_was_lost_is_a_failed_cell_whose_footnote_says_that_it_can_be_mended(make):
    lost = {"status": "lost", "error": "out of memory on GPU 0."}
    rows = [make.row("cm", value=None, **lost), make.row("cm", "latency_s", None, unit="s", **lost)]
    rows += [make.row("pcm"), make.row("pcm", value=None, seed=1), make.row("pcm", value=None, seed=2, **lost)]
    table = table_2(measured(rows))
    cm, pcm = table.column("FD_tiny2d")
    assert (cm.text, cm.value, cm.n_failed, cm.notes) == ("failed", None, 1, (1,))
    assert (pcm.text, pcm.n_failed, pcm.notes) == ("1.000", 2, (2, 3))
    assert table.column("latency_s")[0].notes == (1,)
    assert table.footnotes == (
        "CM, 1 step: lost: out of memory on GPU 0; the same command tries again",
        "PCM, 1 step: 1 of 3 seeds failed: loss is not finite",
        "PCM, 1 step: 1 of 3 seeds lost: out of memory on GPU 0; the same command tries again",
    )


def test_the_papers_numbers_stand_at_their_steps(make):
    table = table_2(measured(make.run()))
    shown = {
        (line.method, line.variant, line.steps): cell.value
        for line, cell in zip(table.rows, table.column("paper:FD_dinov2"), strict=True)
    }
    assert shown[("cm", "", 1)] == 194.5
    assert shown[("mdt", "", 1)] == 164.2
    assert shown[("mdt", "", 2)] == 110.9
    assert shown[("teacher", "", 25)] == 65.24
    assert shown[("none", "cfg", 1)] == 195.6
    assert shown[("cm", "", 2)] is None
    assert shown[("none", "", 1)] is None


def test_paper_tables_agree_where_they_overlap():
    ours = [row for table in paper.TABLES for row in table.rows if (row.method, row.steps) == ("mdt", 1)]
    assert len(ours) == 3
    assert {(row.fd_incep, row.fd_dinov2, row.ulip_i) for row in ours} == {(18.09, 164.2, 36.88)}
    assert [row.number("ULIP_I") for row in paper.TABLE_2.rows] == [34.62, 34.96, 35.04, 36.88]
    assert paper.published("floor", None) is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"split": "train"}, "more than one split"),
        ({"stage": "slat"}, "more than one stage"),
        ({"metric_version": 2}, "version of FD_tiny2d"),
        ({"higher_is_better": True}, "direction of FD_tiny2d"),
        ({"unit": "x100"}, "unit of FD_tiny2d"),
    ],
)
def test_what_cannot_be_in_one_table_is_refused(make, changes, what):
    with pytest.raises(UsageError, match=what):
        table_2(measured([make.row(), make.row("pcm", **changes)]))


def test_no_rows():
    with pytest.raises(UsageError, match="No rows"):
        table_2(measured([]))
