"""The tiny feature extractors: two classifiers and the dual encoder of pictures and points."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...metrics.extractors import EXTRACTORS, AppearanceNetwork
from ..engine.progress import Reporter
from ..settings.config import FeaturePart
from ..train.learner import Learner, Recipe
from .data import Collection
from .fit import fit, numpy_generator
from .structure import Trained, pictures_of

COLOUR_WEIGHT = 20.0  # of the mean squared error of colours in [0, 1], against the cross-entropy of categories


def train_picture_classifier(
    train: Collection, held_out: Collection, stage: FeaturePart, path: Path, reporter: Reporter
) -> Trained:
    """`tiny2d`: category from one of the four pictures of a structure."""
    args = {"image_size": train.pictures.shape[-1], "dim": stage.dim, "categories": len(train.categories)}
    network = EXTRACTORS.create("PictureClassifier", args)

    def sample(data: Collection, rows: NDArray, views: NDArray) -> Tensor:
        return torch.from_numpy(data.pictures[rows, views])

    return _classifier(network, args, sample, train, held_out, stage, path, reporter)


def train_points_classifier(
    train: Collection, held_out: Collection, stage: FeaturePart, path: Path, reporter: Reporter
) -> Trained:
    """`tiny3d`: category from points on the structure's surface."""
    args = {"resolution": train.resolution, "dim": stage.dim, "categories": len(train.categories)}
    network = EXTRACTORS.create("PointsClassifier", args)

    def sample(data: Collection, rows: NDArray, views: NDArray) -> Tensor:
        del views
        return torch.from_numpy(data.points[rows])

    return _classifier(network, args, sample, train, held_out, stage, path, reporter)


def train_appearance(
    train: Collection, held_out: Collection, stage: FeaturePart, path: Path, reporter: Reporter
) -> Trained:
    """`tiny_rgb`: category and colours from one of the four coloured pictures of an object."""
    args = {"image_size": train.pictures.shape[-1], "dim": stage.dim, "categories": len(train.categories)}
    network = cast(AppearanceNetwork, EXTRACTORS.create("AppearanceNetwork", args))

    def sample(data: Collection, rows: NDArray, views: NDArray) -> Tensor:
        return torch.from_numpy(data.pictures[rows, views])

    def colours(pictures: Tensor) -> Tensor:
        told = network.colours(network.hidden(pictures))
        return COLOUR_WEIGHT * functional.mse_loss(told, network.cell_colours(pictures))

    return _classifier(network, args, sample, train, held_out, stage, path, reporter, beside=colours)


def _classifier(
    network, args, sample, train, held_out, stage: FeaturePart, path: Path, reporter, *, beside=None
) -> Trained:
    """beside: a further loss of a batch."""
    name = type(network).__name__
    learner = Learner(network, Recipe(stage.steps, stage.lr, warmup=50, ema=0.99, weight_decay=1e-2))
    labels = torch.from_numpy(train.labels)

    def loss_of(index: int) -> Tensor:
        generator = numpy_generator(name, index)
        rows = generator.integers(0, len(labels), stage.batch)
        batch = sample(train, rows, generator.integers(0, 4, stage.batch))
        loss = functional.cross_entropy(network(batch), labels[rows], label_smoothing=0.1)
        return loss if beside is None else loss + beside(batch)

    measured = fit(learner, loss_of, path, reporter, name)
    with torch.no_grad():
        everything = np.arange(len(held_out.labels))
        batch = sample(held_out, everything, everything % 4)
        hidden = torch.cat([network.hidden(part) for part in batch.split(64)])
        network.scale.copy_(hidden.std(0).clamp(min=1e-3))
        accuracy = (network.head(hidden).argmax(1).numpy() == held_out.labels).mean()
    return Trained(network, {"name": name, "args": args}, measured | {"held_out_accuracy": float(accuracy)})


def train_dual_encoder(
    train: Collection,
    held_out: Collection,
    stage: FeaturePart,
    path: Path,
    reporter: Reporter,
    *,
    colour: bool = False,
) -> Trained:
    """A conditioning picture and the points of its object must find each other in a batch (InfoNCE).

    `ULIP_tiny` of points on structures; `ULIP_tiny_mesh`, with colour, of points on the objects themselves.
    """
    args = {"image_size": train.images.shape[2], "dim": stage.dim, "colour": colour}
    network = EXTRACTORS.create("DualEncoder", args)
    learner = Learner(network, Recipe(stage.steps, stage.lr, warmup=50, ema=0.995, weight_decay=1e-2))

    def loss_of(index: int) -> Tensor:
        generator = numpy_generator("dual encoder", index)
        rows = generator.choice(len(train.images), stage.batch, replace=False)
        points = train.points[rows][:, generator.permutation(train.points.shape[1])[:512]]
        logits = network(pictures_of(train.images, rows, generator), torch.from_numpy(points))
        return 0.5 * (_matching(logits) + _matching(logits.T))

    measured = fit(learner, loss_of, path, reporter, "DualEncoder")
    return Trained(network, {"name": "DualEncoder", "args": args}, measured | _retrieval(network, held_out))


def _matching(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, torch.arange(len(logits)))


@torch.no_grad()
def _retrieval(network: nn.Module, held_out: Collection) -> dict[str, float]:
    """Share of held-out pictures whose nearest points (of all held-out objects) are their own, or of their category."""
    pictures = torch.from_numpy(held_out.images[:, 0]).permute(0, 3, 1, 2)
    nearest = network(pictures, torch.from_numpy(held_out.points)).argmax(1).numpy()
    own = nearest == np.arange(len(nearest))
    return {
        "held_out_retrieval": float(own.mean()),
        "held_out_category": float((held_out.labels[nearest] == held_out.labels).mean()),
    }
