"""All that `mdtbench run --preset paper` needs, in the official formats and small enough for tests.

Networks are miniatures with random weights that nobody trained. Those that do not lie in the world's folder are put in
the place of the official ones by `small_official`, or by the plug-in `official_plugin.py` in other processes.

    python tests/official_site.py FOLDER      makes one and prints the options that `mdtbench run` needs for it
"""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluations import small_networks
from inprocess import InProcess
from PIL import Image
from small_stage import GAUSSIANS, N_FEATURES, network
from torch import Tensor, nn

from mdtbench.assets.mesh_export import write_glb
from mdtbench.assets.trellis_latents import Choice
from mdtbench.geometry.mesh import Mesh
from mdtbench.harness.cli import evaluating, running
from mdtbench.harness.cli.app import main
from mdtbench.harness.inputs import world
from mdtbench.harness.protocol.model import PROTOCOLS
from mdtbench.methods import METHODS
from mdtbench.metrics import METRICS
from mdtbench.metrics.official import resize
from mdtbench.metrics.official.networks import from_hub, vision_transformer
from mdtbench.metrics.official.picture_extractors import PictureSpec
from mdtbench.metrics.official.weights import WeightsFile, fill_randomly
from mdtbench.trellis.pipeline import CONDITIONER, DECODER, FLOW, SAMPLER, SLAT_FLOW, SLAT_SAMPLER, write_pipeline
from mdtbench.trellis.slat_pipeline import GAUSSIAN_DECODER, MESH_DECODER, NORMALISATION, SlatPipeline
from mdtbench.trellis.sparse import Voxels
from mdtbench.trellis.students import SLAT_STUDENT, STRUCTURE_STUDENT
from mdtbench.trellis.weights import load_checkpoint, save_checkpoint

SMALL, OWN = (Path(__file__).parent / name for name in ("official_plugin.py", "own_plugin.py"))
COND = 16  # channels of the conditioner's tokens
HUB = "dinov2_vitl14_reg"
CONDITIONER_FILE = WeightsFile(file="dino.pth", source="", licence="", keys=0)
VISION = partial(vision_transformer, "vit_large_patch14_reg4_dinov2", 518, embed_dim=COND, depth=1, num_heads=2)
SMALL_HUB = PictureSpec("dino", 1, CONDITIONER_FILE, VISION, resize.dinov2_518, COND, from_hub)
IDS = ("cube", "flat", "shelves/wide", "tall")
SIZES = ((1, 1, 1), (2, 2, 1), (2, 1, 1), (1, 1, 2))
VOXELS = 12  # of a training latent
INSTANCES = [f"{i:064x}" for i in range(6)]
OCCUPIED = 0.9999  # quantile of a structure's logits above which a cell is occupied: 26 cells of 64^3
MEAN, STD = [0.5, -1.0, 0.0, 2.0, 0.0, 0.0, 1.0, 0.0], [2.0, 0.5, 1.0, 3.0, 1.0, 1.0, 1.0, 4.0]
SAMPLED = {"steps": 25, "cfg_strength": 5.0, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0}

_FLOW = {
    "in_channels": 8,
    "out_channels": 8,
    "cond_channels": COND,
    "num_blocks": 1,
    "num_heads": 2,
    "qk_rms_norm": True,
}
_VAE = {"channels": [8, 4], "latent_channels": 8, "num_res_blocks": 1, "num_res_blocks_middle": 1}
_SLAT = {"resolution": 64, "latent_channels": 8, "num_blocks": 1, "num_heads": 2}
# By key of pipeline.json: checkpoint, network, arguments. Sampling needs no encoder, so the official file names none.
NETWORKS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    FLOW: (
        "ckpts/ss_flow_img_dit_L_16l8_fp16",
        "SparseStructureFlowModel",
        {**_FLOW, "resolution": 16, "model_channels": 16, "patch_size": 8},
    ),
    DECODER: ("ckpts/ss_dec_conv3d_16l8_fp16", "SparseStructureDecoder", {**_VAE, "out_channels": 8}),
    "ss encoder": ("ckpts/ss_enc_conv3d_16l8_fp16", "SparseStructureEncoder", {**_VAE, "in_channels": 8}),
    SLAT_FLOW: (
        "ckpts/slat_flow_img_dit_L_64l8p2_fp16",
        "SLatFlowModel",
        {
            **_FLOW,
            "resolution": 64,
            "model_channels": 32,
            "patch_size": 2,
            "num_io_res_blocks": 1,
            "io_block_channels": [16],
        },
    ),
    "slat encoder": (
        "ckpts/slat_enc_swin8_B_64l8_fp16",
        "SLatEncoder",
        {**_SLAT, "in_channels": N_FEATURES + 1, "model_channels": 32},  # not the features that are made here
    ),
    GAUSSIAN_DECODER: (
        "ckpts/slat_dec_gs_swin8_B_64l8gs32_fp16",
        "SLatGaussianDecoder",
        {**_SLAT, "model_channels": 32, "representation_config": GAUSSIANS},
    ),
    MESH_DECODER: (
        "ckpts/slat_dec_mesh_swin8_B_64l8m256c_fp16",
        "SLatMeshDecoder",
        {**_SLAT, "model_channels": 256, "representation_config": {"use_color": True}},
    ),
}


@torch.no_grad()
def write_repository(folder: Path) -> None:
    """As TRELLIS-image-large; the conditioner is known by its name in DINOv2's hub and lies beside the folder."""
    for seed, (key, (stem, name, args)) in enumerate(NETWORKS.items()):
        made = network(name, args, seed)
        if key == DECODER:
            _make_sparse(made)
        if key == MESH_DECODER:  # signed distances below zero in all cells: the surface lies around them
            made.out_layer.weight.mul_(0.02)
            made.out_layer.bias[:8] = -0.5
        save_checkpoint(folder / stem, made, {"name": name, "args": args})
    named = {key: stem for key, (stem, _, _) in NETWORKS.items() if "encoder" not in key}
    extra = {CONDITIONER: HUB, NORMALISATION: {"mean": MEAN, "std": STD}}
    write_pipeline(folder, named, {SAMPLER: SAMPLED, SLAT_SAMPLER: SAMPLED}, **extra)
    torch.save(_hub_file(), folder.parent / CONDITIONER_FILE.file)


def _hub_file() -> dict[str, Tensor]:
    """As the hub names the tensors: timm's without registers' positions, and the class token has one."""
    vision = VISION()
    fill_randomly(vision, "dino", 0)
    made = dict(vision.state_dict())
    places = torch.cat([torch.full((1, 1, COND), 0.1), made["pos_embed"]], 1)
    return {**made, "pos_embed": places, "register_tokens": made.pop("reg_token"), "mask_token": torch.zeros(1, COND)}


def _make_sparse(decoder: nn.Module) -> None:
    """Few cells are occupied, wherever the latents say."""
    logits = decoder(torch.randn((2, 8, 16, 16, 16), generator=torch.Generator().manual_seed(0)))
    decoder.out_layer[-1].bias.sub_(np.quantile(logits.numpy(), OCCUPIED).item())


def write_latents(root: Path, names: Sequence[str] = INSTANCES) -> Path:
    """As encode_latent.py, encode_ss_latent.py, render_cond.py and build_metadata.py of TRELLIS do."""
    choice = Choice()
    flags = ("cond_rendered", f"ss_latent_{choice.structure_model}", f"latent_{choice.slat_model}")
    root.mkdir(parents=True)
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sha256", "aesthetic_score", "num_voxels", *flags))
        writer.writerows((name, 5.5, VOXELS, True, True, True) for name in names)
    for seed, name in enumerate(names):
        _write_instance(root, choice, name, np.random.default_rng(seed))
    return root


def _write_instance(root: Path, choice: Choice, name: str, random: np.random.Generator) -> None:
    folders = [root / "ss_latents" / choice.structure_model, root / "latents" / choice.slat_model]
    for folder in (*folders, root / "renders_cond" / name):
        folder.mkdir(parents=True, exist_ok=True)
    np.savez(folders[0] / f"{name}.npz", mean=random.standard_normal((8, 16, 16, 16), np.float32))
    cells = np.stack(np.unravel_index(np.sort(random.permutation(64**3)[:VOXELS]), (64, 64, 64)), axis=1)
    feats = random.standard_normal((VOXELS, 8), np.float32)
    np.savez(folders[1] / f"{name}.npz", feats=feats, coords=cells.astype("u1"))
    for view in range(2):
        pixels = np.zeros((24, 24, 4), np.uint8)
        pixels[4:20, 6:14] = (*random.integers(0, 256, 3), 255)
        Image.fromarray(pixels).save(root / "renders_cond" / name / f"{view:03d}.png")
    frames = [{"file_path": f"{view:03d}.png"} for view in range(2)]
    (root / "renders_cond" / name / "transforms.json").write_text(json.dumps({"frames": frames}))


def small_protocol(path: Path) -> Path:
    """trellis-v1 with small pictures, one run seed and few repeats of what is timed."""
    text = (PROTOCOLS / "trellis-v1.toml").read_text(encoding="utf-8")
    for old, new in {
        "values.run_seeds = [0, 1, 2]": "values.run_seeds = [0]",
        "values.resolution = 512": "values.resolution = 32",
        "values.warm_up = 10": "values.warm_up = 1",
        "values.repeats = 50": "values.repeats = 2",
        "values.subsets = 100": "values.subsets = 2",
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


def picture(seed: int) -> Image.Image:
    """A coloured disc on a transparent background."""
    y, x = np.mgrid[:96, :96] - 48
    inside = x**2 + (y * (1 + 0.2 * seed)) ** 2 < 36**2
    rgb = np.random.default_rng(seed).integers(0, 256, 3)
    rgba = np.concatenate([np.where(inside[..., None], rgb, 0), 255 * inside[..., None]], 2)
    return Image.fromarray(rgba.astype("u1"))


def _write_box(path: Path, size: Sequence[float]) -> None:
    corners = np.indices((2, 2, 2)).reshape(3, 8).T
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_glb(path, corners * np.array(size, float), faces, corners.astype(np.float32))


@dataclass(frozen=True)
class Site:
    """Folders of a site."""

    root: Path

    @property
    def world(self) -> Path:
        return self.root / "weights" / "trellis-image-large"

    @property
    def settings(self) -> dict[str, str]:
        """Keys of `--set` that point here, training reduced to three small steps."""
        places = {"downloads": "list.toml", "weights": "weights", "test": "meshes", "conditions": "shown"}
        found = {f"places.{key}": str(self.root / value) for key, value in places.items()}
        for table in ("train", "slat"):
            found |= {f"{table}.steps": "3", f"{table}.batch": "2", f"{table}.parts": "2"}
            found |= {f"{table}.precision": "float32", f"{table}.lr": "1e-3", f"{table}.ema": "0.5"}
        found |= {"data.latents": json.dumps([str(self.root / "latents")]), "sweep.methods": "[]", "sweep.lr": "[]"}
        found |= {"sweep.slat_lr": "[]", "sweep.cfg_strength": "[]", "sweep.assets": "2"}
        return found | {"protocol.name": str(self.root / "small.toml"), "protocol.extractors": "random"}

    def changes(self, **others: str) -> list[str]:
        """As of --set. others: by key, with __ for the dot: train__steps="2"."""
        merged = self.settings | {key.replace("__", "."): value for key, value in others.items()}
        return [f"{key}={value}" for key, value in merged.items()]

    def words(self, **others: str) -> list[str]:
        """The options of a command."""
        return [word for change in self.changes(**others) for word in ("--set", change)]


def write_site(root: Path) -> Site:
    """With the teacher's own weights in the files of the released students."""
    site = Site(root)
    write_repository(site.world)
    for key, name in ((FLOW, STRUCTURE_STUDENT), (SLAT_FLOW, SLAT_STUDENT)):
        path = root / "weights" / "mdt-dist" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(load_checkpoint(site.world / NETWORKS[key][0]).state_dict(), path)
    for seed, (name, size) in enumerate(zip(IDS, SIZES, strict=True)):
        _write_box(root / "meshes" / f"{name}.glb", size)
        shown = root / "shown" / f"{name}.png"
        shown.parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(shown)
    write_latents(root / "latents")
    small_protocol(root / "small.toml")
    (root / "list.toml").write_text("source = []\n", encoding="utf-8")
    return site


def small_official(patch: pytest.MonkeyPatch) -> None:
    """Small networks in the place of those that lie beside the world's folder: extractors and conditioner."""
    small_networks(patch)
    patch.setitem(world.HUB_CONDITIONERS, HUB, SMALL_HUB)


def remember_meshes(patch: pytest.MonkeyPatch) -> None:
    """Decode equal latents once: extraction on a grid of 257^3 corners takes most of a run here."""
    known: dict[tuple[bytes, bytes], list[Mesh]] = {}
    extract = SlatPipeline.meshes

    def meshes(self: SlatPipeline, latents: Tensor, voxels: Voxels) -> list[Mesh]:
        key = latents.numpy().tobytes(), voxels.coords.numpy().tobytes()
        if key not in known:
            known[key] = extract(self, latents, voxels)
        return known[key]

    patch.setattr(SlatPipeline, "meshes", meshes)


@contextmanager
def registries() -> Iterator[None]:
    """What a plug-in registers in the block is forgotten after it."""
    with pytest.MonkeyPatch.context() as patch:
        for registry in (METHODS, METRICS):
            patch.setattr(registry, "_entries", dict(registry._entries))
        yield
    sys.modules.pop(OWN.stem, None)


@dataclass(frozen=True)
class Ended:
    """A command that has ended: exit code, standard output, standard error, jobs that were done by label."""

    code: int
    out: str
    err: str
    given: Counter[str]


class Stopping(InProcess):
    """Is interrupted before a job."""

    def __init__(self, after: int | None):
        super().__init__()
        self.left = after

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], label: str, total: int, limit: int = 0
    ) -> list[Any]:
        return super().map(lambda item: self._one(function, item), items, label, total, limit)

    def submit(self, function: Callable[[Any], Any], item: Any, label: str, holds: str = "") -> Future[Any]:
        return super().submit(lambda one: self._one(function, one), item, label, holds)

    def _one(self, function: Callable[[Any], Any], item: Any) -> Any:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        return function(item)


def call(*words: object, stop_after: int | None = None) -> Ended:
    """`mdtbench WORDS` in this process. stop_after: jobs until an interruption."""
    team, out, err, code = Stopping(stop_after), io.StringIO(), io.StringIO(), None

    @contextmanager
    def teams(
        count: int, device: str, reporter: Any, plugins: Sequence[str] = (), prepare: Any = None
    ) -> Iterator[tuple[Any, Any]]:
        team.reporter, team.plugins = reporter, tuple(plugins)
        yield team, team

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["mdtbench", *map(str, words)])
        patch.setattr(sys, "path", list(sys.path))  # plug-ins are put there
        for module in (running, evaluating):
            patch.setattr(module, "teams", teams)
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return Ended(int(code or 0), out.getvalue(), err.getvalue(), team.given)


if __name__ == "__main__":
    made = write_site(Path(sys.argv[1]).resolve())
    sys.stdout.write(shlex.join(["--preset", "paper", "--device", "cpu", "--plugin", str(SMALL), *made.words()]) + "\n")
