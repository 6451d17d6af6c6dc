"""The pictures' teacher: what is shipped, and `python -m mdtbench.harness.oracle.picture_teacher FILE`, which made it.

Flow matching on pictures of the law. About three minutes of one core.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from ...base.seeds import seed_of
from ..engine.files import save_tensors
from ..train.learner import Learner, Recipe
from .picture_network import PictureNet
from .pictures import CLASSES, DIM, draw

FILE = Path(__file__).with_name("pictures.safetensors")
STEPS, BATCH, LR = 8000, 256, 2e-3
TOLD = 1000  # steps between two lines on standard error


def shipped_teacher() -> PictureNet:
    """With the shipped weights, for evaluation alone."""
    network = PictureNet()
    network.load_state_dict(load_file(FILE))
    return network.eval().requires_grad_(False)


def trained_teacher(steps: int, batch: int = BATCH) -> PictureNet:
    """The average of the weights at the end of training."""
    generator = torch.Generator().manual_seed(seed_of("pictures' teacher"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("pictures' teacher, first weights"))
        network = PictureNet()
    learner = Learner(network, Recipe(steps, LR, warmup=steps // 40, ema=0.999))
    for index in range(steps):
        classes = torch.randint(CLASSES, (batch,), generator=generator)
        x_0, noise = draw(classes, generator), torch.randn(batch, DIM, generator=generator)
        t = torch.rand(batch, generator=generator)
        x_t = torch.lerp(x_0, noise, t[:, None])
        loss = (network(x_t, t, classes) - (noise - x_0)).square().mean()
        learner.step(loss)
        if index % TOLD == 0:
            sys.stderr.write(f"step {index} of {steps}: loss {loss.item():.4f}\n")
    learner.settle()
    return network


def main() -> None:
    torch.set_num_threads(1)  # so that the file is the same on machines of one kind
    save_tensors(Path(sys.argv[1]), trained_teacher(STEPS).state_dict())


if __name__ == "__main__":
    main()
