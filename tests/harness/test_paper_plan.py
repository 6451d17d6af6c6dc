"""Tables at full size: what the plan says, what it counts, and what it lacks on a machine."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import golden_io
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.harness import doctor
from mdtbench.harness.config import PRESETS
from mdtbench.harness.doctor import Finding
from mdtbench.harness.downloads import LIST, items_of, size_text
from mdtbench.harness.paper import (
    check_runnable,
    has_protocol,
    lacking,
    load_tables,
    needs,
    plan_tables,
    tables_summary,
)
from mdtbench.harness.paper.flops import SLAT_FLOW, STRUCTURE_FLOW, STRUCTURE_TOKENS, Flow, encoder_forward
from mdtbench.harness.paper.plan import TablesPlan, disk_bytes
from mdtbench.harness.protocol.model import load_protocol
from mdtbench.trellis import create
from mdtbench.trellis.sparse import SparseTensor, Voxels, downsample

DOCUMENT = Path(__file__).parents[2] / "docs" / "paper_preset.md"
MISSING_BARE = [
    "microsoft/TRELLIS-image-large",
    "Zanwei/mdt-dist",
    "dinov2_vitl14_reg4_pretrain.pth",
    "dinov2_vitl14_pretrain.pth",
    "pt_inception-2015-12-05-6726825d.pth",
    "SFXX/ulip",
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "timm/vit_large_patch14_clip_224.openai",
    "JeffreyXiang/TRELLIS-500K",
    "toys4k_blend_files",
    "Blender",
    "training latents",
    "a GPU",
]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with nothing on it; its home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("MDTBENCH_BLENDER", raising=False)
    monkeypatch.setattr("mdtbench.harness.paper.machine.cuda_devices", list)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(*methods: str, seeds: tuple[int, ...] = (), limit: int | None = None, changes: tuple[str, ...] = ()):
    return plan_tables(load_tables("paper", changes), methods, seeds, limit)


@pytest.fixture(scope="module")
def default() -> TablesPlan:
    return plan()


# ------------------------------------------------------------------------------------------------------------- counts


# The counter knows the products of the math kernel of attention, and not those of the processor's fused one.
@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def test_structure_network_has_the_operations_that_torch_counts():
    """Exactly, on a small network; and at full size as torch counted once on the meta device, which takes long."""
    sidecar, _ = golden_io.load("full_size_keys", "ss_flow_img_dit_L_16l8_fp16")
    args = sidecar["constructor"]
    small = {"use_fp16": False, "num_blocks": 3, "model_channels": 48, "cond_channels": 20, "resolution": 4}
    model = create(sidecar["class"], args | small | {"num_heads": 2})
    with counted() as counter:
        model(torch.zeros(1, 8, 4, 4, 4), torch.zeros(1), torch.zeros(1, 5, 20))
    flow = Flow(0, channels=48, condition_channels=20, blocks=3)
    assert flow.forward(4**3, condition_tokens=5) == counter.get_total_flops()
    assert (
        Flow(
            sidecar["num_parameters"],
            args["model_channels"],
            args["cond_channels"],
            args["num_blocks"],
            args["mlp_ratio"],
        )
        == STRUCTURE_FLOW
    )
    assert STRUCTURE_FLOW.forward(STRUCTURE_TOKENS) == 5_227_481_137_152


@pytest.mark.parametrize("io_blocks", [1, 2, 3])
def test_slat_network_has_the_operations_that_torch_counts(io_blocks: int):
    """Exactly, on a small network: the formula's numbers of layers, widths and rows are those of the code."""
    flow = Flow(0, channels=32, condition_channels=12, blocks=2, io_channels=(16,), io_blocks=io_blocks)
    model = create(
        "SLatFlowModel",
        {
            "resolution": 16,
            "in_channels": 8,
            "out_channels": 8,
            "model_channels": 32,
            "cond_channels": 12,
            "num_blocks": 2,
            "num_heads": 2,
            "patch_size": 2,
            "io_block_channels": [16],
            "num_io_res_blocks": io_blocks,
        },
    )
    cells = torch.cartesian_prod(*[torch.arange(16)] * 3)[::3]
    x = SparseTensor(torch.zeros(len(cells), 8), Voxels.of(torch.cat([torch.zeros_like(cells[:, :1]), cells], 1)))
    tokens = len(downsample(x).feats)
    with counted() as counter:
        model(x, torch.zeros(1), torch.zeros(1, 7, 12))
    assert len(cells) != tokens
    assert flow.forward(tokens, (len(cells),), condition_tokens=7) == counter.get_total_flops()


def test_slat_network_is_the_full_size_one():
    sidecar, _ = golden_io.load("full_size_keys", "slat_flow_img_dit_L_64l8p2_fp16")
    args = sidecar["constructor"]
    assert (
        Flow(
            sidecar["num_parameters"],
            args["model_channels"],
            args["cond_channels"],
            args["num_blocks"],
            args["mlp_ratio"],
            tuple(args["io_block_channels"]),
            args["num_io_res_blocks"],
        )
        == SLAT_FLOW
    )


def test_training_hours_are_those_of_a_pocket_calculator(default: TablesPlan):
    """5.227 TFLOP a pass (also the count of the specification), 6 passes of vm, 1.015 of the encoder."""
    (vm,) = [s for s in default.students if s.who.label == "vm:official" and s.stage == "ss"]
    a800, h100 = default.config.estimate.gpu
    hours = (6 * 5.2275 + 1.0156) * 256 * 6000 / (312 * 0.4) / 3600
    assert default.training_hours(a800, [vm]) == pytest.approx(hours, rel=1e-3)  # the figures above have four digits
    assert default.training_hours(h100, [vm]) == pytest.approx(hours * 312 / 989, rel=1e-3)
    assert encoder_forward() == pytest.approx(1.0156e12, rel=1e-3)


def test_most_of_the_training_is_the_grid(default: TablesPlan):
    """As the document says: more than four fifths, half of which one guidance strength would do without."""
    gpu = default.config.estimate.gpu[0]
    grid = [student for student in default.students if student.on_grid]
    assert default.training_hours(gpu, grid) > 0.8 * default.training_hours(gpu, default.students)
    assert len([s for s in plan(changes=("grid.cfg_strength=[5.0]",)).students if s.on_grid]) == len(grid) / 2


def test_generation_takes_the_published_seconds(default: TablesPlan):
    """25 steps 6.1 s, 1 step 0.68 s, 2 steps 0.94 s; 1 + 7 + 7 rows, three run seeds."""
    assert default.generation_hours() == pytest.approx(3 * 3218 * (6.1 + 7 * 0.68 + 7 * 0.94) / 3600)
    assert default.measuring_hours() == pytest.approx(45 * 3218 * 2 / 3600)


# --------------------------------------------------------------------------------------------------- rows and students


def test_rows_cells_and_students(default: TablesPlan):
    assert [(line.row.method, line.row.steps) for line in default.lines] == [
        ("teacher", 25),
        *[(m, s) for m in ("none", "cm", "pcm", "scm", "vm:official", "mdt:official", "mdt:released") for s in (1, 2)],
    ]
    assert (len(default.lines), len(default.cells), default.n) == (15, 15 * 3, 3218)
    assert default.left_out == ("vm:paper", "mdt:paper")
    # Three baselines with 3 rates and 2 guidance strengths, two methods with one setting each; two stages.
    assert len(default.students) == (3 * 3 * 2 + 2) * 2
    assert {s.lr for s in default.students if s.stage == "slat" and s.who.name == "cm"} == {1e-8, 1e-7, 1e-6}


def test_every_row_that_the_protocol_and_the_paper_ask_for_is_there(default: TablesPlan):
    assert {table for line in default.lines for table in line.tables} == {1, 2, 3}
    rows = {(line.name, line.row.steps) for line in default.lines}
    methods = {"none", "cm", "pcm", "scm", "vm", "mdt"}
    assert {(m, s) for m in methods for s in (1, 2)} | {("teacher", 25)} <= rows
    assert len(default.protocol.values.sampler.required_methods) <= len(methods) + 1


def test_methods_choose_rows_and_the_teacher_stays():
    released = plan("mdt:released")
    assert [line.row.method for line in released.lines] == ["teacher", "none", "none", "mdt:released", "mdt:released"]
    assert released.students == ()
    assert {line.row.method for line in plan("vm", "mdt:paper").lines} == {
        "teacher",
        "none",
        "vm:official",
        "mdt:paper",
    }
    with pytest.raises(UsageError, match="Did you mean 'mdt:paper'"):
        plan("mdt:papr")


def test_training_seeds_multiply_what_is_trained():
    one, two = plan("cm", "mdt:released"), plan("cm", "mdt:released", seeds=(0, 1))
    assert len(two.students) == len(one.students) + 2  # seed 0 is the grid's own
    assert len(two.cells) == len(one.cells) + 2 * 3  # the two rows of cm, three run seeds
    assert plan(limit=10).n == 10


def test_the_numbers_of_trellis_v1_are_followed():
    config, values = load_tables("paper"), load_protocol("trellis-v1").values
    training = values.training
    assert (config.train.batch, config.slat.batch) == (training.batch, training.batch)
    assert (config.train.steps, config.train.lr) == (training.ss.iterations, training.ss.lr)
    assert (config.slat.steps, config.slat.lr) == (training.slat.iterations, training.slat.lr)
    assert (config.train.ema, config.slat.ema) == (training.ema, training.ema)
    assert (config.grid.lr, config.grid.slat_lr) == (training.ss.baseline_lr_grid, training.slat.baseline_lr_grid)
    assert config.grid.cfg_strength == training.baseline_cfg_grid
    assert config.methods == {"pcm": {"phases": training.pcm_phases}}
    teacher = next(row for row in config.row if row.method == "teacher")
    rule = values.calibration
    assert (teacher.steps, teacher.tolerance.fd_relative, teacher.tolerance.ulip_absolute) == (  # type: ignore[union-attr]
        rule.steps,
        rule.fd_relative,
        rule.ulip_absolute,
    )


def test_official_students_follow_the_release(default: TablesPlan):
    """Guidance 40 and 100, dt 0.01, lambda 1, logit-normal times; the variant of the paper draws uniform ones."""
    mdt = next(s.who.distillation for s in default.students if s.who.name == "mdt")
    training = default.protocol.values.training
    assert (mdt.cfg_strength, mdt.vd_cfg_strength) == (training.cfg_vm, training.cfg_vd)  # type: ignore[attr-defined]
    assert (mdt.delta, mdt.lambda_vm, mdt.lambda_vd) == (training.dt, 1, 1)  # type: ignore[attr-defined]
    assert (mdt.times.mean, mdt.times.std) == (training.t_mean, training.t_std)  # type: ignore[attr-defined]
    paper = next(s.who.distillation for s in plan("mdt:paper").students)
    assert type(paper.times).__name__ == "Uniform"
    assert paper.cfg_strength == 5.0


def test_a_tolerance_goes_with_published_numbers():
    config = load_tables("paper")
    rows = [row.model_copy(update={"tolerance": None}) if row.method == "teacher" else row for row in config.row]
    with pytest.raises(UsageError, match="'teacher' at 25 steps has no tolerance"):
        plan_tables(config.model_copy(update={"row": tuple(rows)}))
    given = config.row[0].tolerance
    rows = [row.model_copy(update={"tolerance": given}) if row.steps == 2 else row for row in config.row]
    with pytest.raises(UsageError, match="'none' at 2 steps has a tolerance, and the paper has no such row"):
        plan_tables(config.model_copy(update={"row": tuple(rows)}))


def test_a_wrong_key_of_a_row_is_named(tmp_path: Path):
    text = (PRESETS / "paper.toml").read_text(encoding="utf-8")
    mine = tmp_path / "mine.toml"
    mine.write_text(text.replace("optional = true", "optionl = true", 1), encoding="utf-8")
    with pytest.raises(UsageError, match=r"'row\.15\.optionl'.*Did you mean 'row\.15\.optional'"):
        load_tables(str(mine))
    with pytest.raises(UsageError, match=r"'train\.step'"):
        load_tables("paper", ["train.step=1"])


def test_the_presence_of_a_table_decides():
    assert has_protocol("paper")
    assert not any(has_protocol(name) for name in ("tiny", "smoke", "oracle"))


# ------------------------------------------------------------------------------------------------------ disk, downloads


def test_disk_is_the_sum_of_what_is_written(default: TablesPlan):
    sizes = disk_bytes(default)
    assert sizes["students, weights and average"] == 20 * 8 * (555_543_560 + 600_432_520)
    assert sizes["assets of a cell, until it is measured"] == 3218 * 60e6
    assert sizes["assets of measured cells that stay"] == 45 * 16 * 60e6
    assert sizes["pictures of generated assets"] == pytest.approx(45 * 3218 * 8 * 0.25 * 0.6e6)
    every = disk_bytes(replace(default, config=load_tables("paper", ["places.keep_assets=5000"])))
    assert every["assets of measured cells that stay"] == 45 * 3218 * 60e6
    assert sizes["features"] == 46 * 3218 * 4 * (2048 + 1024) * 4  # the references' are one more
    assert sizes["pictures of test assets"] == pytest.approx(3218 * (4 * 0.25 + 1) * 0.6e6)


def test_downloads_are_those_of_the_list(default: TablesPlan):
    listed = tomllib.loads(LIST.read_text(encoding="utf-8"))["source"]
    files = [(s["kind"], f.get("bytes", f.get("about"))) for s in listed if "paper" in s["presets"] for f in s["files"]]
    fetched = [size for kind, size in files if kind != "by-hand"]
    total = size_text(sum(size or 0 for size in fetched))
    text = tables_summary(default, [])
    assert f"downloads: {len(fetched)} files, {total} and {fetched.count(None)} file(s) of unknown size" in text
    assert "by hand about 32.00 GB" in text


def test_the_expected_numbers_and_their_ranges_are_printed(default: TablesPlan):
    lines = tables_summary(default, []).splitlines()
    teacher = next(line for line in lines if line.lstrip().startswith("teacher"))
    for part in ("25x2", "44 + 44", "11.8 (10.62 to 12.98)", "65.24 (58.72 to 71.76)", "39.53 (38.53 to 40.53)"):
        assert part in teacher
    mdt = [line.split("  ") for line in lines if line.lstrip().startswith("mdt:official  1x2")]
    assert any("1, 2, 3" in part for part in mdt[0])


# ----------------------------------------------------------------------------------------------------- on this machine


def test_a_bare_machine_lacks_everything(bare: Path):
    findings = needs(load_tables("paper"))
    assert lacking(findings) == MISSING_BARE
    assert not list(bare.iterdir())  # looked, nothing made
    text = {finding.needed: finding.text for finding in findings}
    assert "17 of 17 missing, 3.30 GB" in text["microsoft/TRELLIS-image-large"]
    assert "mdtbench fetch --preset paper" in text["SFXX/ulip"]
    assert "lowshot-shapebias" in text["toys4k_blend_files"]
    assert str(bare / ".cache/mdtbench/weights/toys4k") in text["toys4k_blend_files"]
    assert "bpy==4.5" in text["Blender"]
    assert "dataset_toolkits" in text["training latents"]


def test_what_is_there_is_not_missing(bare: Path, monkeypatch: pytest.MonkeyPatch):
    folder = bare / ".cache/mdtbench/weights"
    for item in items_of("paper"):
        path = folder / item.target
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.truncate(item.bytes or 1)  # sparse: takes no disk
    latents = bare / "latents"
    latents.mkdir()
    (latents / "metadata.csv").touch()
    config = load_tables("paper", [f"places.latents=['{latents}']"])
    assert lacking(needs(config)) == ["Blender", "a GPU"]
    (folder / "dinov2_vitl14_pretrain.pth").write_bytes(b"half of it")
    assert "dinov2_vitl14_pretrain.pth" in lacking(needs(config))
    config = load_tables("paper", [f"places.latents=['{latents}', '{bare}/none']"])
    assert "training latents" in lacking(needs(config))
    monkeypatch.setattr("mdtbench.harness.paper.machine.cuda_devices", lambda: ["A800, 80 GB"])
    assert "a GPU" not in lacking(needs(config))


def test_nothing_runs_while_something_is_missing():
    absent, there = Finding("GPU", "missing", "a GPU"), Finding("Blender", "4.5")
    with pytest.raises(MissingError, match="1 of 2 things are missing: a GPU") as raised:
        check_runnable([absent, there])
    assert raised.value.exit_code == 4
    check_runnable([there, replace(absent, needed="")])


def test_the_dry_run_on_a_bare_machine(bare: Path, mdtbench: Callable):
    code, out, err = mdtbench("run", "--preset", "paper", "--dry-run")
    assert (code, err) == (0, "")
    for part in (
        "rows: 15, cells: 45",
        "students to train: 40",
        "was measured",
        "left out, name them with --methods: vm:paper, mdt:paper",
        "on this machine: 13 of 13 missing",
        "Nothing was computed: this is a plan.",
    ):
        assert part in out
    assert not list(bare.iterdir())


def test_a_run_on_a_bare_machine_ends_before_it_begins(bare: Path, mdtbench: Callable):
    code, out, err = mdtbench("run", "--preset", "paper", "--out", str(bare / "out"))
    assert code == 4
    assert "13 of 13 things are missing" in err
    assert err.count("\n") == 1
    assert "mdtbench fetch --preset paper" in out
    assert not list(bare.iterdir())


@pytest.mark.parametrize("option", ["--assets", "--steps", "--samplers", "--budget", "--export", "--stages"])
def test_options_of_other_runs_are_refused(mdtbench: Callable, option: str):
    value = {"--steps": "1", "--samplers": "euler", "--budget": "forwards", "--export": "glb"}.get(option, "structure")
    code, _, err = mdtbench("run", "--preset", "paper", "--dry-run", option, value)
    assert code == 2
    assert f"{option} has no meaning for the tables of preset 'paper'" in err


def test_doctor_looks_for_what_the_preset_needs(bare: Path, mdtbench: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "worlds", lambda folder: [Finding("tiny", "not looked at here")])
    sections = doctor.examined(bare, "paper")
    assert [finding.needed for finding in sections["Preset paper"]] == MISSING_BARE
    with pytest.raises(MissingError, match=r"13 thing\(s\) that runs need: microsoft/TRELLIS-image-large; "):
        doctor.check(sections)
    code, out, err = mdtbench("doctor", "--preset", "paper")
    assert code == 4
    assert "Preset paper" in out
    assert "13 thing(s) that runs need" in err
    doctor.check(doctor.examined(bare, "tiny"))
    doctor.check(doctor.examined(bare, "oracle"))
    with pytest.raises(UsageError, match="Did you mean 'paper'"):
        doctor.examined(bare, "papr")


# ------------------------------------------------------------------------------------------------------- the document


def test_the_document_has_the_numbers_that_the_tool_prints(default: TablesPlan):
    """Every line of its printed blocks."""
    blocks = DOCUMENT.read_text(encoding="utf-8").split("```text\n")[1:]
    quoted = [line for block in blocks for line in block.split("```")[0].splitlines() if line.strip()]
    assert len(quoted) > 40
    printed = tables_summary(default, []).splitlines()
    assert [line for line in quoted if line not in printed] == []
