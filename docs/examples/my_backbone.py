"""A backbone of your own: a convolutional flow network in place of the transformer, and a world that has it.

python my_backbone.py my_world                     # trains the teacher: a copy of the tiny world with this flow
mdtbench run --plugin my_backbone.py --set world=my_world
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from mdtbench.assets.toys import ToySource
from mdtbench.flow.layout import DenseLayout
from mdtbench.flow.path import conditional_velocity, diffuse
from mdtbench.harness.engine.progress import reporter
from mdtbench.harness.inputs.prepare import Preparation, prepare_asset
from mdtbench.harness.inputs.world import World, load_world, world_folder, write_world_file
from mdtbench.harness.pretrain.fit import fit, numpy_generator, torch_generator
from mdtbench.harness.pretrain.structure import pictures_of
from mdtbench.harness.train.learner import Learner, Recipe
from mdtbench.trellis.adapter import T_SCALE
from mdtbench.trellis.create import BACKBONES, create
from mdtbench.trellis.structure_flow import StructureFlow
from mdtbench.trellis.weights import save_checkpoint

FLOW = "ckpts/ss_flow"  # where pipeline.json of the tiny world looks for it
NO_CONDITION = 0.1  # share of the samples that learn the velocity without condition, for guidance


@BACKBONES.register("ConvFlow", version=1, source="example of the documentation")
class ConvFlow(StructureFlow):
    """Residual 3D convolutions; time and the mean condition token shift and scale the channels.

    The arguments are what the checkpoint's .json holds. `in_channels` and `resolution` are those of the VAE's latents.
    """

    def __init__(self, in_channels: int, resolution: int, cond_channels: int, width: int = 32, blocks: int = 4):
        super().__init__()
        self.in_channels, self.resolution = in_channels, resolution
        signals = 2 * width * blocks  # a scale and a shift per channel and block
        self.signal = nn.Sequential(nn.Linear(1 + cond_channels, width), nn.SiLU(), nn.Linear(width, signals))
        self.end_time: nn.Linear | None = None
        self.first = nn.Conv3d(in_channels, width, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(blocks))
        self.convolutions = nn.ModuleList(nn.Conv3d(width, width, 3, padding=1) for _ in range(blocks))
        self.last = nn.Conv3d(width, in_channels, 3, padding=1)

    def add_end_time(self) -> None:
        """For methods whose students are told where to jump: a part of this name that changes nothing at first."""
        self.end_time = nn.Linear(1, self.signal[-1].out_features)
        nn.init.zeros_(self.end_time.weight)
        nn.init.zeros_(self.end_time.bias)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, t_end: Tensor | None = None) -> Tensor:
        """x: [B, C, R, R, R]. t, t_end: [B] on the scale of 0 to 1000. cond: [B, T, D]. Returns the velocity, as x."""
        signal = self.signal(torch.cat([t[:, None] / T_SCALE, cond.mean(1)], dim=1))
        if self.end_time is not None:
            length = t if t_end is None else t - t_end
            signal = signal + self.end_time(length[:, None] / T_SCALE)
        h = self.first(x)
        parts = signal[..., None, None, None].chunk(2 * len(self.norms), dim=1)
        for norm, convolution, scale, shift in zip(self.norms, self.convolutions, parts[::2], parts[1::2], strict=True):
            h = h + convolution(torch.nn.functional.silu(norm(h) * (1 + scale) + shift))
        return self.last(h)


def main(
    out: Annotated[Path, typer.Argument(help="Folder of the new world.")],
    steps: int = 2000,
    toys: int = 1000,
    width: int = 32,
) -> None:
    """Copy the tiny world, train a ConvFlow as the teacher of its structure stage, put it in."""
    tiny = load_world(world_folder("tiny"))
    args = {"in_channels": tiny.structure.flow.in_channels, "resolution": tiny.structure.flow.resolution}
    args |= {"cond_channels": tiny.structure.condition(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape[-1]}
    args |= {"width": width}
    flow = create("ConvFlow", args)
    shutil.copytree(
        world_folder("tiny"), out, ignore=shutil.ignore_patterns("MODEL_CARD.md", "world.json"), dirs_exist_ok=True
    )
    train(flow, tiny, steps, toys, out / "teacher.safetensors")
    save_checkpoint(out / FLOW, flow, {"name": "ConvFlow", "args": args})
    sections = {name: getattr(tiny.file, name) for name in ("preparation", "observation", "looks")}
    write_world_file(out, out.name, sections, tiny.file.extractors)  # with the digests of the files that are there now


def train(flow: nn.Module, world: World, steps: int, toys: int, checkpoint: Path) -> None:
    """Flow matching on the world's own latents and condition tokens."""
    spec = Preparation(**world.file.preparation.model_dump())
    made = [prepare_asset(toy, spec) for toy in ToySource("train", toys).assets()]
    images = torch.stack([torch.from_numpy(pictures) for _, pictures in made]).numpy()
    latents = torch.cat([world.structure.encode(torch.from_numpy(occupancy)[None]) for occupancy, _ in made])

    def loss_of(index: int) -> Tensor:
        source, generator = numpy_generator("my batch", index), torch_generator("my noise", index)
        rows = source.integers(0, len(latents), 32)
        x_0, noise = latents[rows], torch.randn(32, *latents.shape[1:], generator=generator)
        cond = world.structure.condition(pictures_of(images, rows, source))
        cond = cond * (torch.rand(32, 1, 1, generator=generator) >= NO_CONDITION)
        t = torch.rand(32, generator=generator)
        v = flow(diffuse(x_0, noise, t, DenseLayout(tuple(x_0.shape))), T_SCALE * t, cond)
        return (v - conditional_velocity(x_0, noise)).square().mean()

    learner = Learner(flow, Recipe(steps, lr=1e-3, warmup=min(100, steps), ema=0.99))
    with reporter() as report:
        fit(learner, loss_of, checkpoint, report, "teacher")
    learner.settle()


if __name__ == "__main__":
    typer.run(main)
