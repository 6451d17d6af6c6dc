"""What a dry run says: lines, students and cells, hours, disk and downloads."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import golden_io
import pytest
import torch
from plans import planned
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mdtbench.harness.driver.cost import costs, disk_bytes, n_tests, n_whole, plan_summary
from mdtbench.harness.inputs.downloads import LIST, size_text
from mdtbench.harness.plan.flops import SLAT_FLOW, STRUCTURE_FLOW, STRUCTURE_TOKENS, Flow, encoder_forward
from mdtbench.harness.plan.plan import Plan
from mdtbench.trellis import create
from mdtbench.trellis.sparse import SparseTensor, Voxels, downsample

DOCUMENT = Path(__file__).parents[3] / "docs" / "paper_preset.md"
N = 3218  # assets of Toys4k in trellis-v1


@pytest.fixture(scope="module")
def paper() -> Plan:
    return planned(preset="paper", methods=())


def lines_of(plan: Plan, workers: int = 2) -> list[str]:
    return plan_summary(plan, workers, []).splitlines()


def row(lines: list[str], *start: str) -> list[str]:
    """The one line of a table that starts so, as words."""
    [found] = [words for line in lines if (words := line.split())[: len(start)] == list(start)]
    return found


# -------------------------------------------------------------------------------------------------------- one forward


# The counter knows the products of the math kernel of attention, and not those of the processor's fused one.
@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def test_structure_network_has_the_operations_that_torch_counts():
    """Exactly, on a small network; and at full size as torch counted once on the meta device, which takes long."""
    sidecar, _ = golden_io.load("full_size_keys", "ss_flow_img_dit_L_16l8_fp16")
    small = {"use_fp16": False, "num_blocks": 3, "model_channels": 48, "cond_channels": 20, "resolution": 4}
    model = create(sidecar["class"], sidecar["constructor"] | small | {"num_heads": 2})
    with counted() as counter:
        model(torch.zeros(1, 8, 4, 4, 4), torch.zeros(1), torch.zeros(1, 5, 20))
    flow = Flow(0, channels=48, condition_channels=20, blocks=3)
    assert flow.forward(4**3, condition_tokens=5) == counter.get_total_flops()
    assert STRUCTURE_FLOW.forward(STRUCTURE_TOKENS) == 5_227_481_137_152


@pytest.mark.parametrize("io_blocks", [1, 2, 3])
def test_slat_network_has_the_operations_that_torch_counts(io_blocks: int):
    """Exactly, on a small network: the formula's numbers of layers, widths and rows are those of the code."""
    flow = Flow(0, channels=32, condition_channels=12, blocks=2, io_channels=(16,), io_blocks=io_blocks)
    size = {"resolution": 16, "in_channels": 8, "out_channels": 8, "model_channels": 32, "cond_channels": 12}
    blocks = {"num_blocks": 2, "num_heads": 2, "patch_size": 2, "num_io_res_blocks": io_blocks}
    model = create("SLatFlowModel", {**size, **blocks, "io_block_channels": [16]})
    cells = torch.cartesian_prod(*[torch.arange(16)] * 3)[::3]
    x = SparseTensor(torch.zeros(len(cells), 8), Voxels.of(torch.cat([torch.zeros_like(cells[:, :1]), cells], 1)))
    tokens = len(downsample(x).feats)
    with counted() as counter:
        model(x, torch.zeros(1), torch.zeros(1, 7, 12))
    assert len(cells) != tokens
    assert flow.forward(tokens, (len(cells),), condition_tokens=7) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "flow"),
    [("ss_flow_img_dit_L_16l8_fp16", STRUCTURE_FLOW), ("slat_flow_img_dit_L_64l8p2_fp16", SLAT_FLOW)],
)
def test_the_networks_that_are_counted_are_the_full_size_ones(name: str, flow: Flow):
    sidecar, _ = golden_io.load("full_size_keys", name)
    args = sidecar["constructor"]
    sizes = (
        sidecar["num_parameters"],
        *(args[k] for k in ("model_channels", "cond_channels", "num_blocks", "mlp_ratio")),
    )
    assert Flow(*sizes, tuple(args.get("io_block_channels", ())), args.get("num_io_res_blocks", 2)) == flow


# --------------------------------------------------------------------------------------------------------------- hours


def test_hours_of_training_are_those_of_a_pocket_calculator():
    """5.227 TFLOP a pass of structures (also the count of the specification), 6 passes of vm, 1.015 of the encoder."""
    a800, h100 = costs(planned(preset="paper", methods=("vm",)))
    tflop = (6 * 5.2275 + 1.0156) * 256 * 6000 + (6 * 6.957 + 1.0156) * 256 * 4000
    hours = tflop / (312 * 0.4) / 3600
    assert a800.training == pytest.approx(hours, rel=1e-3)  # the figures above have four digits
    assert h100.training == pytest.approx(hours * 312 / 989, rel=1e-3)
    assert encoder_forward() == pytest.approx(1.0156e12, rel=1e-3)


def test_most_of_the_training_is_the_sweep(paper: Plan):
    """As the document says: more than two thirds, three tenths of which one guidance strength would do without."""
    alone = planned("sweep.lr=[]", "sweep.slat_lr=[]", "sweep.cfg_strength=[]", preset="paper", methods=("vm", "mdt"))
    assert costs(alone)[0].training < 0.3 * costs(paper)[0].training
    half = planned("sweep.cfg_strength=[5.0]", preset="paper", methods=())
    swept = [costs(plan)[0].training - costs(alone)[0].training for plan in (paper, half)]
    assert swept[1] == pytest.approx(swept[0] * (1 + 3 / 4) / (1 + 6 / 4), rel=1e-9)


def test_hours_are_told_without_what_makes_them_fewer(paper: Plan):
    """Every setting for a quarter of the steps and one for all, in place of six for all; 7 passes of scm and not 8."""
    text = " ".join(plan_summary(paper, 2, []).split())
    short, whole = (costs(one)[0].training for one in (paper, planned("sweep.halving=1", preset="paper", methods=())))
    assert f"training without halving (every setting for all steps, not for 1/4): {whole:,.0f} h A800" in text
    alone = planned("sweep.lr=[]", "sweep.slat_lr=[]", "sweep.cfg_strength=[]", preset="paper", methods=("vm", "mdt"))
    fixed = costs(alone)[0].training
    assert (whole - fixed) == pytest.approx((short - fixed) * 6 / 2.5, rel=1e-9)
    assert "training with the exact derivative of scm in place of scm:fd: 2,382 h A800, 752 h H100 SXM" in text
    assert "without halving" not in plan_summary(planned("sweep.halving=1", preset="paper", methods=()), 2, [])


def test_hours_of_cells_are_those_of_a_pocket_calculator(paper: Plan):
    """1 + 8 + 8 lines and three seeds on 3218 assets. Passes: guided 25 steps take 44, one step 2, two steps 4."""
    a800, _ = costs(paper)
    passes = 44 + 7 * (2 + 4) + 1 + 2  # `none` is unguided
    sweep = 2 * 18 * 64 * 2  # one guided step of every setting on 64 assets: 18 per stage
    tflop = 5.2275 * (3 * N * passes + sweep / 2) + 6.957 * (3 * N * passes + sweep / 2)
    assert a800.generation == pytest.approx(tflop / (312 * 0.4) / 3600, rel=1e-3)
    assert a800.measuring == pytest.approx((3 * 17 * N * 2 + 36 * 64 * 0.083) / 3600)
    assert a800.conditions == pytest.approx(N * 20 / 3600)
    assert a800.total == pytest.approx(a800.training + a800.generation + a800.measuring + a800.conditions)


def test_minutes_of_a_world_with_measured_seconds():
    """Passes times their seconds; no encoder is counted where it is small. Two processes take half as long."""
    plan = planned(methods=("vm",), limit=5)
    [cost] = costs(plan)
    training = 6 * 16 * 20 * 0.0026 + 6 * 4 * 4 * 0.014
    passes = 3 * (1 + 2 + 1 + 2 + 2 + 4 + 50)  # vm, none, none:cfg at 1 and 2 steps, the teacher
    assert (n_tests(plan), n_whole(plan)) == (5, 4)
    assert cost.training == pytest.approx(training / 3600)
    assert cost.generation == pytest.approx(passes * (5 * 0.0026 + 4 * 0.014) / 3600)
    assert cost.measuring == pytest.approx(21 * (5 * 0.083 + 4 * 0.5) / 3600)
    assert costs(planned("estimate.machine=[]")) == []
    tiny = planned(preset="tiny", methods=())
    for workers in (1, 2):
        lines = lines_of(tiny, workers)
        assert f"minutes with {workers} process{'es' * (workers != 1)} (estimated)" in lines
        assert row(lines, "together")[-1] == f"{60 * costs(tiny)[0].total / workers:.1f}"


# ------------------------------------------------------------------------------------------------------------- the text


@pytest.mark.parametrize(
    ("preset", "parts"),
    [
        (
            "smoke",
            ["test assets: 32 of toys-test", "lines: 15", "students to train: 10", "cells: 45 of structures on 32 "],
        ),
        ("tiny", ["55 of whole assets on 64 assets, of generation seeds [0] also with one stage left to the teacher"]),
        (
            "paper",
            ["world trellis-image-large", "lines: 17", "students to train: 46", "51 of whole assets on 3218 assets"],
        ),
    ],
)
def test_the_counts_of_shipped_presets(preset: str, parts: list[str]):
    plan = planned(preset=preset, methods=())
    text = plan_summary(plan, 2, [])
    for part in [*parts, f"protocol {plan.protocol.name} ({plan.protocol.sha256[:12]})"]:
        assert part in text
    columns = text.partition("columns: ")[2].partition("\n\n")[0]
    assert columns.split() == ", ".join(metric.name for metric in plan.metrics).split()


def test_training_seeds_multiply_what_is_trained():
    one, two = (planned(preset="paper", methods=("cm", "mdt:released"), train_seeds=seeds) for seeds in ((), (0, 1)))
    counts = [row(lines_of(plan), "students", "to")[-1] for plan in (one, two)]
    assert counts == ["14", "16"]  # 6 settings and the best one, in each stage
    assert [len(plan.cells) for plan in (one, two)] == [2 * 3 * 9, 2 * 3 * 11]  # the two lines of cm, both levels


def test_students_are_shown_with_what_is_tried(paper: Plan):
    lines = lines_of(paper)
    assert row(lines, "cm", "structure")[2:-3] == [
        "1500,",
        "6000",
        "x",
        "256",
        *["4e-08,", "4e-07,", "4e-06", "5,", "40"],
    ]
    assert row(lines, "cm", "slat")[6:9] == ["1e-08,", "1e-07,", "1e-06"]
    assert row(lines, "mdt:official", "structure")[5:-2] == ["4e-08", "40", "and", "100", "1"]
    assert row(lines, "cm", "structure")[-3] == "7"
    text = " ".join(" ".join(lines).split())
    assert "sweep of structure: 18 students, judged by MSE_teacher on 64 validation assets" in text
    assert "sweep of slat: 18 students, judged by MSE_slat on 64" in text
    timed = plan_summary(planned("train.budget=seconds"), 2, [])
    assert "steps are set when the run has timed them" in timed


def test_the_expected_numbers_and_their_ranges_are_printed(paper: Plan):
    lines = lines_of(paper)
    teacher = " ".join(row(lines, "teacher"))
    assert teacher == "teacher 25x2 44 + 44 1 11.8 (10.62 to 12.98) 65.24 (58.72 to 71.76) 39.53 (38.53 to 40.53)"
    assert row(lines, "mdt:official", "1x2")[2:8] == ["2", "+", "2", "1,", "2,", "3"]
    assert row(lines, "cm", "2x2")[2:] == ["4", "+", "4", "-", "-", "-", "-"]
    assert "  left out, name them with --methods: vm:paper, mdt:paper" in lines
    assert "in table" not in plan_summary(planned(), 2, [])


def test_text_stays_within_the_width_of_a_screen(paper: Plan):
    """Prose is wrapped; only tables may be wider."""
    for plan in (paper, planned()):
        for line in lines_of(plan):
            assert len(line) <= 118 or "licence" in line


def test_disk_is_the_sum_of_what_is_written(paper: Plan):
    sizes = disk_bytes(paper)
    assert sizes["students, average and raw weights"] == 23 * 8 * (555_543_560 + 600_432_520)
    assert sizes["checkpoint of a training"] == 5 * 4 * 600_432_520
    assert sizes["pictures of test assets"] == pytest.approx(N * (4 * 0.25 + 1) * 0.6e6)
    assert sizes["latents of cells"] == 51 * N * 4 * (8 * 16**3 + 20000 * (8 + 3))
    assert sizes["features"] == 52 * N * 4 * 4 * (2048 + 1024)  # the references' are one more
    assert sizes["training latents and their pictures"] == 10000 * (4 * (8 * 16**3 + 20000 * 11) + 24 * 0.6e6)
    assert row(lines_of(paper), "together,")[-2:] == size_text(round(sum(sizes.values()))).split()
    assert "disk (estimated)" not in lines_of(planned())  # of worlds that fit anywhere


def test_downloads_are_those_of_the_list(paper: Plan):
    listed = tomllib.loads(LIST.read_text(encoding="utf-8"))["source"]
    files = [(s["kind"], f.get("bytes", f.get("about"))) for s in listed if "paper" in s["presets"] for f in s["files"]]
    fetched = [size for kind, size in files if kind != "by-hand"]
    total = size_text(sum(size or 0 for size in fetched))
    text = plan_summary(paper, 1, [])
    assert f"downloads: {len(fetched)} files, {total} and {fetched.count(None)} files of unknown size" in text
    assert "by hand about 32.00 GB" in text


def test_the_document_has_the_numbers_that_the_tool_prints(paper: Plan):
    """Every line of its printed blocks."""
    blocks = DOCUMENT.read_text(encoding="utf-8").split("```text\n")[1:]
    quoted = [line for block in blocks for line in block.split("```")[0].splitlines() if line.strip()]
    assert len(quoted) > 40
    printed = lines_of(paper)
    assert [line for line in quoted if line not in printed] == []
