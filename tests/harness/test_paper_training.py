"""Training at full size's own pace, on networks of a few channels: shapes and files are the official ones."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_stage import GAUSSIANS, N_FEATURES
from torch import Tensor, nn

from mdtbench.assets.trellis_latents import Choice, open_latents
from mdtbench.base.errors import MissingError, RunError, UsageError
from mdtbench.base.files import file_sha256
from mdtbench.base.seeds import seed_of
from mdtbench.harness import train as train_module
from mdtbench.harness.paper import backbone as backbone_module
from mdtbench.harness.paper import load_tables, plan_tables
from mdtbench.harness.paper.backbone import Backbone, load_backbone
from mdtbench.harness.paper.data import (
    CHOICES,
    GIVE_UP_AFTER,
    Instances,
    SlatLatents,
    StructureLatents,
    Unreadable,
    held_out,
)
from mdtbench.harness.paper.networks import evaluated
from mdtbench.harness.paper.plan import TablesPlan
from mdtbench.harness.paper.students import train_students
from mdtbench.harness.slat_task import SlatTask
from mdtbench.harness.task import StructureTask, student_of
from mdtbench.metrics.official.vision_transformer import VisionShape, VisionTransformer
from mdtbench.metrics.official.weights import WeightsFile, fill_randomly
from mdtbench.trellis import create
from mdtbench.trellis.pipeline import write_pipeline
from mdtbench.trellis.weights import save_checkpoint

COND, VOXELS = 16, 12
SHAPE = VisionShape(width=COND, depth=1, heads=2, patch=14, grid=37, registers=4, layer_scale=True, mask_token=True)
COMMON = {"resolution": 64, "latent_channels": 8, "num_blocks": 1, "num_heads": 2}
FLOW = {
    "in_channels": 8,
    "out_channels": 8,
    "cond_channels": COND,
    "num_blocks": 1,
    "num_heads": 2,
    "qk_rms_norm": True,
}
NETWORKS = {
    "sparse_structure_flow_model": (
        "ckpts/ss_flow",
        "SparseStructureFlowModel",
        {**FLOW, "resolution": 16, "model_channels": 16, "patch_size": 8},
    ),
    "sparse_structure_decoder": (
        "ckpts/ss_dec",
        "SparseStructureDecoder",
        {"channels": [8], "latent_channels": 8, "num_res_blocks": 1, "num_res_blocks_middle": 1, "out_channels": 1},
    ),
    "sparse_structure_encoder": (
        "ckpts/ss_enc_conv3d_16l8_fp16",
        "SparseStructureEncoder",
        {"channels": [8], "latent_channels": 8, "num_res_blocks": 1, "num_res_blocks_middle": 1, "in_channels": 1},
    ),
    "slat_flow_model": (
        "ckpts/slat_flow",
        "SLatFlowModel",
        {
            **FLOW,
            "resolution": 64,
            "model_channels": 32,
            "patch_size": 2,
            "num_io_res_blocks": 1,
            "io_block_channels": [16],
        },
    ),
    "slat_encoder": (
        "ckpts/slat_enc_swin8_B_64l8_fp16",
        "SLatEncoder",
        {**COMMON, "in_channels": N_FEATURES, "model_channels": 32},
    ),
    "slat_decoder_gs": (
        "ckpts/slat_gs",
        "SLatGaussianDecoder",
        {**COMMON, "model_channels": 32, "representation_config": GAUSSIANS},
    ),
    "slat_decoder_mesh": (
        "ckpts/slat_mesh",
        "SLatMeshDecoder",
        {**COMMON, "model_channels": 256, "representation_config": {"use_color": True}},
    ),
}
MEAN, STD = [0.5, -1.0, 0.0, 2.0, 0.0, 0.0, 1.0, 0.0], [2.0, 0.5, 1.0, 3.0, 1.0, 1.0, 1.0, 4.0]
SAMPLER = {"steps": 3, "cfg_strength": 1.0, "cfg_interval": [0.0, 1.0], "rescale_t": 1.0}
CHANGES = (
    *(f"{stage}.{setting}" for stage in ("train", "slat") for setting in ("steps=3", "batch=2", "accumulate=1")),
    *(f"{stage}.{setting}" for stage in ("train", "slat") for setting in ('precision="float32"', "lr=1e-3", "ema=0.5")),
    'grid.methods=["cm"]',
    "grid.lr=[1e-3]",
    "grid.slat_lr=[1e-3]",
    "grid.cfg_strength=[1.0]",
    "grid.assets=2",
)


@dataclass
class Notes:
    """A reporter that remembers."""

    lines: list[str] = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.lines.append(text)

    def start(self, label: str, total: int, done: int = 0) -> int:
        self.lines.append(f"{label}: {done}/{total}")
        return len(self.lines) - 1

    def update(self, task: int, done: int, info: str = "") -> None:
        del info
        self.seen.append((task, done))


def noisy(network: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


def write_repository(folder: Path) -> Path:
    """As TRELLIS-image-large: no encoder in pipeline.json, the conditioner known by its name in DINOv2's hub."""
    for seed, (stem, name, args) in enumerate(NETWORKS.values()):
        save_checkpoint(folder / stem, noisy(create(name, args), seed), {"name": name, "args": args})
    named = {key: stem for key, (stem, _, _) in NETWORKS.items() if "encoder" not in key}
    normalisation = {"mean": MEAN, "std": STD}
    samplers = {"sparse_structure_sampler": SAMPLER, "slat_sampler": SAMPLER}
    write_pipeline(folder, named, samplers, image_cond_model="dinov2_vitl14_reg", slat_normalization=normalisation)
    network = VisionTransformer(SHAPE)
    fill_randomly(network, "dino", 0)
    torch.save(network.state_dict(), folder.parent / "dino.pth")
    return folder


def write_latents(root: Path, names: list[str]) -> Path:
    """As encode_latent.py, encode_ss_latent.py, render_cond.py and build_metadata.py of TRELLIS do."""
    choice = Choice()
    flags = ("cond_rendered", f"ss_latent_{choice.structure_model}", f"latent_{choice.slat_model}")
    root.mkdir(parents=True)
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sha256", "aesthetic_score", "num_voxels", *flags))
        writer.writerows((name, 5.5, VOXELS, True, True, True) for name in names)
    for seed, name in enumerate(names):
        write_instance(root, choice, name, np.random.default_rng(seed))
    return root


def write_instance(root: Path, choice: Choice, name: str, random: np.random.Generator) -> None:
    folders = [root / "ss_latents" / choice.structure_model, root / "latents" / choice.slat_model]
    for folder in (*folders, root / "renders_cond" / name):
        folder.mkdir(parents=True, exist_ok=True)
    np.savez(folders[0] / f"{name}.npz", mean=random.standard_normal((8, 16, 16, 16), np.float32))
    cells = np.stack(np.unravel_index(np.sort(random.permutation(64**3)[:VOXELS]), (64, 64, 64)), axis=1)
    np.savez(
        folders[1] / f"{name}.npz", feats=random.standard_normal((VOXELS, 8), np.float32), coords=cells.astype("u1")
    )
    for view in range(2):
        pixels = np.zeros((24, 24, 4), np.uint8)
        pixels[4:20, 6:14] = (*random.integers(0, 256, 3), 255)
        Image.fromarray(pixels).save(root / "renders_cond" / name / f"{view:03d}.png")
    frames = [{"file_path": f"{view:03d}.png"} for view in range(2)]
    (root / "renders_cond" / name / "transforms.json").write_text(json.dumps({"frames": frames}))


@pytest.fixture(scope="module")
def small_hub() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        weights = WeightsFile(file="dino.pth", source="", licence="", keys=0)
        patch.setitem(backbone_module.HUB_CONDITIONERS, "dinov2_vitl14_reg", (SHAPE, weights))
        yield


@pytest.fixture(scope="module")
def repository(small_hub: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("weights") / "trellis-image-large")


@pytest.fixture(scope="module")
def backbone(repository: Path) -> Backbone:
    return load_backbone(repository)


NAMES = [f"{i:064x}" for i in range(6)]


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_latents(tmp_path_factory.mktemp("data") / "latents", NAMES)


def plan(latents: Path, *changes: str, methods: tuple[str, ...] = ("cm",), seeds: tuple[int, ...] = (0,)) -> TablesPlan:
    config = load_tables("paper", [*CHANGES, f"places.latents={json.dumps([str(latents)])}", *changes])
    return plan_tables(config, methods, seeds)


def only(tables: TablesPlan, stage: str) -> TablesPlan:
    return replace(tables, students=tuple(student for student in tables.students if student.stage == stage))


# ----------------------------------------------------------------------------------------------------------- backbone


def test_the_official_layout_gives_both_stages_and_one_conditioner(backbone: Backbone):
    assert backbone.structure.conditioner is backbone.slat.conditioner
    pictures = torch.randint(0, 256, (3, 3, 518, 518), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tokens = backbone.structure.condition(pictures)
    assert tokens.shape == (3, 1374, COND)
    # layer-normalised without parameters, as what the flow networks were trained on
    torch.testing.assert_close(tokens.mean(2), torch.zeros(3, 1374), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.std(2, correction=0), torch.ones(3, 1374), atol=1e-3, rtol=0)
    assert backbone.slat.mean.tolist() == MEAN


def test_the_digest_is_of_networks_and_pipeline(repository: Path, backbone: Backbone, tmp_path: Path):
    copied = Path(shutil.copytree(repository.parent, tmp_path / "weights")) / repository.name
    assert load_backbone(copied).digest == backbone.digest
    stem, name, args = NETWORKS["slat_flow_model"]
    save_checkpoint(copied / stem, noisy(create(name, args), 99), {"name": name, "args": args})
    assert load_backbone(copied).digest != backbone.digest


def test_another_conditioner_than_the_known_one_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch):
    weights = WeightsFile(file="dino.pth", source="", licence="", keys=0, sha256="0" * 64)
    monkeypatch.setitem(backbone_module.HUB_CONDITIONERS, "dinov2_vitl14_reg", (SHAPE, weights))
    with pytest.raises(MissingError, match=r"dino.pth has sha256 .*, expected 0000"):
        load_backbone(repository)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"models": {}}, "names no sparse_structure_flow_model"), ({"slat_normalization": {}}, "has no models, ")],
)
def test_a_pipeline_without_what_is_needed(
    repository: Path, tmp_path: Path, change: Mapping[str, object], message: str
):
    content = json.loads((repository / "pipeline.json").read_text())
    (tmp_path / "pipeline.json").write_text(json.dumps({"args": content["args"] | change}))
    with pytest.raises(MissingError, match=message):
        load_backbone(tmp_path)


def test_students_of_half_precision_networks_learn_in_float32():
    _, name, args = NETWORKS["sparse_structure_flow_model"]
    teacher = create(name, {**args, "use_fp16": True})
    made = student_of(teacher)
    assert {p.dtype for p in teacher.parameters()} == {torch.float16, torch.float32}
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    pairs = zip(teacher.parameters(), made.parameters(), strict=True)
    assert all(torch.equal(one.float(), other) for one, other in pairs)


# --------------------------------------------------------------------------------------------------------------- data


def instances(root: Path, stage: str, names: list[str], **others) -> Instances:
    source = open_latents([root], CHOICES[stage])
    return Instances(source, names, source.structure_latent if stage == "ss" else source.slat, **others)


def test_structures_come_as_they_are_with_a_picture_of_theirs(latents: Path, backbone: Backbone):
    made = instances(latents, "ss", NAMES[:2])
    batch = StructureTask(backbone.structure, StructureLatents(made), 8).draw(0, 0)
    assert batch.x_0.shape == (8, 8, 16, 16, 16)
    known = {name: torch.from_numpy(made.latent(name)) for name in NAMES[:2]}
    drawn = [next(name for name, value in known.items() if torch.equal(row, value)) for row in batch.x_0]
    assert set(drawn) == set(NAMES[:2])
    views = {name: views_of(made, name) for name in NAMES[:2]}
    tokens = {name: backbone.structure.condition(views[name]) for name in views}
    # atol: rounding of matrix products of other sizes
    near = [
        min(float((cond - view).abs().max()) for view in tokens[name])
        for name, cond in zip(drawn, batch.cond, strict=True)
    ]
    assert max(near) < 1e-4


def views_of(made: Instances, name: str) -> Tensor:
    """Both views of an instance, cropped."""
    pictures: dict[bytes, np.ndarray] = {}
    for seed in range(8):
        picture = made.source.condition(name, np.random.default_rng(seed))
        pictures[picture.tobytes()] = picture
    assert len(pictures) == 2
    return torch.from_numpy(np.stack(list(pictures.values()))).permute(0, 3, 1, 2)


def test_structured_latents_are_normalised_by_the_pipeline(latents: Path, backbone: Backbone):
    made = instances(latents, "slat", NAMES)
    data = SlatLatents(made, backbone.slat.mean, backbone.slat.std)
    batch = SlatTask(backbone.slat, data, 4).draw(0, 0)
    raw = batch.x_0 * torch.tensor(STD) + torch.tensor(MEAN)
    voxels = batch.layout.voxels  # type: ignore[attr-defined]
    for sample in range(4):
        rows = voxels.sample == sample
        cells = voxels.coords[rows, 1:].numpy()
        owner = next(slat for slat in map(made.latent, NAMES) if np.array_equal(slat.coords, cells))
        np.testing.assert_allclose(raw[rows].numpy(), owner.feats, atol=1e-6)  # a division and a product in float32
    assert bool((voxels.coords[1:, 0] >= voxels.coords[:-1, 0]).all())


@pytest.mark.parametrize("stage", ["ss", "slat"])
def test_a_batch_is_a_function_of_seed_and_step_alone(stage: str, latents: Path, backbone: Backbone):
    made = instances(latents, stage, NAMES)
    if stage == "ss":
        task = StructureTask(backbone.structure, StructureLatents(made), 3)
    else:
        task = SlatTask(backbone.slat, SlatLatents(made, backbone.slat.mean, backbone.slat.std), 3)
    first, _, again = task.draw(0, 5), task.draw(0, 4), task.draw(0, 5)
    for name in ("x_0", "noise", "u", "cond"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    for other in (task.draw(0, 6), task.draw(1, 5)):
        assert not torch.equal(first.u, other.u)
        assert not torch.equal(first.x_0, other.x_0)


def test_a_broken_instance_is_counted_and_replaced_in_its_own_place(latents: Path, tmp_path: Path):
    whole, broken = instances(latents, "ss", NAMES), NAMES[2]

    def reader(name: str):
        if name == broken:
            return whole.source.structure_latent(f"no {name}")
        return whole.latent(name)

    unreadable = Unreadable(tmp_path / "unreadable.json")
    half = replace(whole, latent=reader, unreadable=unreadable)
    expected = whole.drawn(12, np.random.default_rng(0))
    found = half.drawn(12, np.random.default_rng(0))
    gone = whole.latent(broken)
    replaced = [np.array_equal(latent, gone) for latent, _ in expected]
    assert 0 < sum(replaced) < 6
    for was_broken, (one, shown), (other, also) in zip(replaced, expected, found, strict=True):
        assert np.array_equal(one, other) is not was_broken
        assert was_broken or np.array_equal(shown, also)
    assert list(unreadable.reasons) == [broken]
    assert "not among" in Unreadable(tmp_path / "unreadable.json").reasons[broken]
    twice = half.drawn(12, np.random.default_rng(0))
    assert all(np.array_equal(one, other) for (one, _), (other, _) in zip(found, twice, strict=True))


def test_nothing_but_broken_instances_ends_the_training(latents: Path):
    made = instances(latents, "ss", ["unknown"])
    with pytest.raises(RunError, match=f"^{GIVE_UP_AFTER} of 1 training instances in a row cannot be read .*unknown"):
        made.drawn(1, np.random.default_rng(0))


def test_held_out_instances_follow_from_their_ids():
    held, rest = held_out(NAMES, 2, 0)
    assert (len(held), len(rest)) == (2, 4)
    assert sorted(held + rest) == NAMES
    assert rest == [name for name in NAMES if name not in held]
    assert held_out(NAMES[::-1], 2, 0)[0] == held
    assert {tuple(held_out(NAMES, 2, seed)[0]) for seed in range(5)} != {tuple(held)}
    assert held_out([name for name in NAMES if name != rest[0]], 2, 0)[0] == held
    with pytest.raises(UsageError, match=r"holds out 6 instances, and places.latents has 6"):
        held_out(NAMES, 6, 0)


# ----------------------------------------------------------------------------------------------------------- students


@dataclass(frozen=True)
class Done:
    """A finished call."""

    plan: TablesPlan
    out: Path
    files: dict
    notes: Notes
    drawn: list[str]
    held: list[str]


@pytest.fixture(scope="module")
def done(backbone: Backbone, latents: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Two methods, one of them on the grid, in both stages."""
    tables, out, notes = plan(latents, methods=("cm", "vm:official")), tmp_path_factory.mktemp("run"), Notes()
    batches, names = Instances.drawn, Instances.read
    drawing, drawn = [False], []

    def watched_batch(self: Instances, count: int, source: np.random.Generator):
        drawing[0] = True
        found = batches(self, count, source)
        drawing[0] = False
        return found

    def watched_read(self: Instances, instance: str, source: np.random.Generator):
        if drawing[0]:
            drawn.append(instance)
        return names(self, instance, source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Instances, "drawn", watched_batch)
        patch.setattr(Instances, "read", watched_read)
        files = train_students(tables, backbone, out, "cpu", notes)
    return Done(tables, out, files, notes, drawn, held_out(NAMES, 2, 0)[0])


def test_students_of_both_methods_and_stages_have_learnt(done: Done, backbone: Backbone):
    labels = ("cm", "vm:official")
    assert set(done.files) == {(label, stage, 0) for label in labels for stage in ("ss", "slat")}
    teachers = {"ss": backbone.structure.flow, "slat": backbone.slat.flow}
    for (_, stage, _), path in done.files.items():
        assert path.name == "student.safetensors"
        averaged, raw = load_file(path), load_file(evaluated(path, done.plan.protocol.values.sampler))
        weights = dict(teachers[stage].named_parameters())
        moved = {name: (raw[name] - weights[name]).abs().max().item() for name in weights}
        assert max(moved.values()) > 1e-3  # three steps of AdamW at a rate of 1e-3, along a cosine
        # an average of 0.5 over three steps: an eighth of the teacher is left, so it lags behind the raw weights
        lag = {name: (averaged[name] - weights[name]).abs().max().item() for name in weights}
        assert 0 < sum(lag.values()) < sum(moved.values())
        log = [json.loads(line) for line in (path.parent / "log.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in log] == [0, 2]
        assert all(np.isfinite(entry["loss"]) for entry in log)
        account = json.loads((path.parent / "training.json").read_text())
        assert (account["lr"], account["steps"], account["skipped"]) == (1e-3, 3, 0)


def test_held_out_assets_are_never_trained_on(done: Done):
    assert len(done.drawn) == 4 * 3 * 2  # students, steps, samples
    assert set(done.drawn) == set(NAMES) - set(done.held)


def test_finished_students_are_found_again(done: Done, backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("mdtbench.harness.paper.students.train_together", refuse)
    grid = (done.out / "grid.jsonl").read_text()
    assert train_students(done.plan, backbone, done.out, "cpu", Notes()) == done.files
    assert (done.out / "grid.jsonl").read_text() == grid


def test_progress_counts_steps(done: Done):
    started = [line for line in done.notes.lines if line.startswith("train ")]
    assert "train vm:official ss, lr 0.001, guidance 40, seed 0: 0/3" in started
    assert [step for _, step in done.notes.seen] == [0, 1, 2, 3] * len(started)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stage", ["ss", "slat"])
def test_an_interrupted_training_goes_on_bit_for_bit(
    stage: str, done: Done, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tables = only(done.plan, stage)
    monkeypatch.setattr(train_module, "CHECKPOINT_EVERY_S", -1.0)
    original, seen = Instances.drawn, []

    def stopping(self, count: int, source: np.random.Generator):
        seen.append(count)
        if len(seen) == 3:
            raise Stopped
        return original(self, count, source)

    monkeypatch.setattr(Instances, "drawn", stopping)
    with pytest.raises(Stopped):
        train_students(tables, backbone, tmp_path, "cpu", Notes())
    notes = Notes()
    files = train_students(tables, backbone, tmp_path, "cpu", notes)
    assert "train cm ss, lr 0.001, guidance 1, seed 0: 2/3".replace("ss", stage) in notes.lines
    for key, path in files.items():
        for name in ("student.safetensors", "student-ema0.0.safetensors"):
            assert file_sha256(path.parent / name) == file_sha256(done.files[key].parent / name)


def test_the_grid_takes_the_saner_rate_for_all_seeds(backbone: Backbone, latents: Path, tmp_path: Path):
    tables = plan(latents, "grid.lr=[1e9, 1e-6]", seeds=(0, 1))
    files = train_students(only(tables, "ss"), backbone, tmp_path, "cpu", Notes())
    absurd, sane = (json.loads(line) for line in (tmp_path / "grid.jsonl").read_text().splitlines())
    assert (absurd["lr"], sane["lr"], sane["metric"]) == (1e9, 1e-6, "MSE_teacher")
    assert (absurd["chosen"], sane["chosen"]) == (False, True)
    assert sane["assets"] == 2
    assert absurd["error"] or absurd["score"] > 100 * sane["score"]
    assert set(files) == {("cm", "ss", 0), ("cm", "ss", 1)}
    rates = [json.loads((path.parent / "training.json").read_text())["lr"] for path in files.values()]
    assert rates == [1e-6, 1e-6]


def test_a_score_is_the_distance_to_the_teachers_own_result(done: Done, backbone: Backbone):
    """Recomputed from its definition for the chosen student of the grid."""
    path = done.files["cm", "ss", 0]
    line = next(json.loads(text) for text in (done.out / "grid.jsonl").read_text().splitlines() if '"ss"' in text)
    pipeline, values = backbone.structure, done.plan.protocol.values.sampler
    student = copy.deepcopy(pipeline.flow)
    student.load_state_dict(load_file(evaluated(path, values)))
    source = open_latents([Path(done.plan.config.places.latents[0])], CHOICES["ss"])
    distances = []
    for name in done.held:
        picture = source.condition(name, np.random.Generator(np.random.PCG64(seed_of("grid picture", name, 0))))
        cond = pipeline.condition(torch.from_numpy(picture[None]).permute(0, 3, 1, 2))
        noise = torch.randn(1, 8, 16, 16, 16, generator=torch.Generator().manual_seed(seed_of("grid noise", name, 0)))
        with torch.no_grad():
            x = noise
            times = [
                values.teacher.rescale_t * t / (1 + (values.teacher.rescale_t - 1) * t) for t in np.linspace(1, 0, 26)
            ]
            for t, t_next in pairwise(times):
                x = x - (t - t_next) * guided(pipeline.flow, x, t, cond, 5.0 if 0.5 <= t <= 1 else 0.0)
            distances.append(float(((noise - guided(student, noise, 1.0, cond, 5.0) - x) ** 2).mean()))
    assert line["score"] == pytest.approx(np.mean(distances), rel=1e-4)  # float32 over 25 steps, in another order


def guided(network: nn.Module, x: Tensor, t: float, cond: Tensor, strength: float) -> Tensor:
    time = torch.full((1,), 1000.0 * t, dtype=torch.float32)
    return (1 + strength) * network(x, time, cond) - strength * network(x, time, torch.zeros_like(cond))


def test_a_method_that_fails_is_left_out_and_told(backbone: Backbone, latents: Path, tmp_path: Path):
    tables, notes = plan(latents, "grid.lr=[1e-3]", methods=("cm", "vm:official")), Notes()

    def broken(self, step):
        raise ValueError("no such thing")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("cm.ConsistencyDistillation", "vm.VelocityMatching"):
            patch.setattr(f"mdtbench.methods.{name}.loss", broken)
        assert train_students(only(tables, "ss"), backbone, tmp_path, "cpu", notes) == {}
    told = "\n".join(notes.lines)
    assert "cm ss: no setting of the grid gave a student" in told
    assert "vm:official ss, lr 0.001, guidance 40, seed 0 failed: ValueError: no such thing (step 0" in told
    line = json.loads((tmp_path / "grid.jsonl").read_text())
    assert line["score"] is None
    assert "ValueError" in line["error"]


def test_a_broken_latent_is_told_and_listed(backbone: Backbone, tmp_path: Path):
    root = write_latents(tmp_path / "latents", NAMES)
    held, rest = held_out(NAMES, 2, 0)
    for name in (held[0], *rest[:2]):
        (root / "ss_latents" / Choice().structure_model / f"{name}.npz").write_bytes(b"no archive")
    notes = Notes()
    files = train_students(only(plan(root), "ss"), backbone, tmp_path / "run", "cpu", notes)
    assert list(files) == [("cm", "ss", 0)]
    listed = json.loads((tmp_path / "run" / "unreadable-ss.json").read_text())
    assert {held[0]} < set(listed) <= {held[0], *rest[:2]}
    assert any(f"ss: {len(listed)} instances could not be read" in line for line in notes.lines)
    assert json.loads((tmp_path / "run" / "grid.jsonl").read_text())["assets"] == 1


def test_without_latents_it_says_where_they_come_from(backbone: Backbone, latents: Path, tmp_path: Path):
    tables = plan(latents, "places.latents=[]")
    with pytest.raises(MissingError, match=r"places.latents names no folder"):
        train_students(tables, backbone, tmp_path, "cpu", Notes())
