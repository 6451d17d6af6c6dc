"""The published towers behind ULIP_I: ULIP-2's, and ULIP's, as FlashVDM uses them. Scores are in `agreement`.

Numbers in print range from 13 to 43 for one and the same model, because files, points, axes and pictures differ; so
each combination is a `Variant` with its own name. Shapes: N assets, P points.
"""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...base.errors import MissingError
from .networks import vision_transformer
from .picture_extractors import SHORT, PictureExtractor, PictureSpec, full_float32
from .pointbert import ULIP1, ULIP2_COLOURED, PointBertConfig, PointTower
from .points import Preparation, prepared
from .resize import VIT_SIDE, slip_224
from .weights import RANDOM, WeightsFile, checked_digest, fill_randomly, load_weights, without_memory

# First words of the names of tensors in ULIP's files. OpenCLIP's towers are in none of them.
SCALE = frozenset({"logit_scale"})
POINT_TOWER = frozenset({"point_encoder", "pc_projection"})
PICTURE_TOWER = frozenset({"visual", "image_projection"})
TEXT_TOWER = frozenset({"transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection"})

_HUB = "hub:datasets/SFXX/ulip"
_LICENCE = "not stated (code: BSD-3-Clause)"
_ULIP2_FILE = "ULIP-2-PointBERT-10k-xyzrgb-pc-vit_g-objaverse_shapenet-pretrained.pt"
ULIP2_WEIGHTS = WeightsFile(  # about 402 MB: weights and the optimizer's two moments
    file=_ULIP2_FILE, source=f"{_HUB}/ULIP-2/pretrained_models/{_ULIP2_FILE}", licence=_LICENCE, keys=227
)
_ULIP1_FILE = "pretrained_models_ckpt_zero-sho_classification_checkpoint_pointbert.pt"
ULIP1_WEIGHTS = WeightsFile(file=_ULIP1_FILE, source=f"{_HUB} (folder not known)", licence=_LICENCE, keys=161)
SLIP_WEIGHTS = WeightsFile(file=_ULIP1_FILE, source=ULIP1_WEIGHTS.source, licence=_LICENCE, keys=151)


@dataclass(frozen=True)
class PointSpec:
    """An extractor of points.

    Attributes:
        name: of the embeddings.
        version: raised when our code changes the numbers.
        weights: the official file.
        config: the network.
        preparation: from points on a mesh to what the network takes; part of the extractor's version.
        others: first words of the names of tensors in the file that belong to networks not used here.
    """

    name: str
    version: int
    weights: WeightsFile
    config: PointBertConfig
    preparation: Preparation
    others: frozenset[str] = SCALE


ULIP2_SPEC = PointSpec("ulip2", 1, ULIP2_WEIGHTS, ULIP2_COLOURED, Preparation(10_000))
ULIP2_ZUP_SPEC = PointSpec("ulip2_zup", 1, ULIP2_WEIGHTS, ULIP2_COLOURED, Preparation(10_000, y_up=False))
# Tencent-Hunyuan/FlashVDM, evaluation/ulip/ulip_score.py: points of the GLB as they are, without colour.
ULIP1_SPEC = PointSpec(
    "ulip1",
    1,
    ULIP1_WEIGHTS,
    ULIP1,
    Preparation(8192, unit_ball=False, grey=None),
    SCALE | PICTURE_TOWER | TEXT_TOWER,
)
POINT_SPECS = {spec.name: spec for spec in (ULIP2_SPEC, ULIP2_ZUP_SPEC, ULIP1_SPEC)}


@dataclass(frozen=True)
class Variant:
    """One way of computing ULIP_I.

    Attributes:
        name: of the column.
        points: name of the extractor of points, in `POINT_SPECS`.
        pictures: name of the extractor of pictures.
        views: which pictures a mesh is compared with.
        on_black: pictures are composited on black; otherwise their alpha is dropped.
    """

    name: str
    points: str
    pictures: str
    views: Literal["ground-truth views", "condition image", "generated views"]
    on_black: bool = True


_VARIANTS = (
    Variant("ulip2-4gt", "ulip2", "clip_bigg", "ground-truth views"),
    Variant("ulip2-cond", "ulip2", "clip_bigg", "condition image"),
    Variant("ulip2-4gen", "ulip2", "clip_bigg", "generated views"),
    Variant("ulip1-flashvdm", "ulip1", "ulip1_slip", "condition image", on_black=False),
    Variant("ulip2-zup", "ulip2_zup", "clip_bigg", "ground-truth views"),
)
VARIANTS = {variant.name: variant for variant in _VARIANTS}


@dataclass(frozen=True)
class PointExtractor:
    """Points [N, P, 6] (z-up xyz, rgb in [0, 1]) -> embeddings [N, dim], not normalised; an `Extractor`.

    Clouds go through the network one by one, so that an embedding does not depend on how callers group them.
    """

    name: str
    version: str
    weights_sha256: str
    dim: int
    network: PointTower
    preparation: Preparation

    @torch.inference_mode()
    def __call__(self, batch: NDArray) -> NDArray[np.float32]:
        """Raises UsageError and AssetError as `points.prepared`."""
        device = self.network.pc_projection.device
        embeddings = np.empty((len(batch), self.dim), np.float32)
        with full_float32():
            for row, cloud in zip(embeddings, batch, strict=True):
                points = torch.from_numpy(prepared(cloud, self.preparation)[None])
                row[:] = self.network(points.to(device))[0].cpu().numpy()
        return embeddings


def load(
    spec: PointSpec, path: Path, *, sha256: str | None = None, device: str | torch.device = "cpu"
) -> PointExtractor:
    """The extractor with the official weights.

    Args:
        spec: one of `POINT_SPECS`.
        path: the checkpoint.
        sha256: digest it must have where the spec knows none, e.g. recorded when it was fetched.
        device: where the network runs.

    Raises:
        MissingError: the file is absent, damaged, has another digest, or does not hold exactly the tensors expected.
    """
    digest = checked_digest(path, spec.weights.sha256 or sha256)
    network = without_memory(partial(PointTower, spec.config))
    _fill(network, path, spec.weights, spec.others)
    return _extractor(spec, digest, network.to(device))


def random_extractor(spec: PointSpec, seed: int, *, device: str | torch.device = "cpu") -> PointExtractor:
    """The extractor with seeded noise for weights, which its digest `random:<seed>` says. The same on every machine."""
    network = without_memory(partial(PointTower, spec.config))
    fill_randomly(network, spec.weights.file, seed)
    return _extractor(spec, f"{RANDOM}:{seed}", network.to(device))


class SlipTower(nn.Module):
    """The picture tower of ULIP-1 (SLIP, ViT-B/16): prepared pictures [B, 3, 224, 224] -> [B, 512], not normalised."""

    def __init__(self) -> None:
        super().__init__()
        visual = vision_transformer("vit_base_patch16_224", VIT_SIDE)
        self.image_projection = nn.Parameter(torch.empty(visual.embed_dim, ULIP1.embedding))
        self.visual = visual

    def forward(self, pictures: Tensor) -> Tensor:
        return self.visual(pictures) @ self.image_projection


SLIP_SPEC = PictureSpec("ulip1_slip", 2, SLIP_WEIGHTS, SlipTower, slip_224, ULIP1.embedding)


def load_slip(path: Path, *, sha256: str | None = None, device: str | torch.device = "cpu") -> PictureExtractor:
    """The picture tower that ULIP-1's checkpoint holds beside its point tower. Arguments and errors as `load`."""
    digest = checked_digest(path, sha256)
    network = without_memory(SlipTower)
    _fill(network, path, SLIP_WEIGHTS, SCALE | POINT_TOWER | TEXT_TOWER)
    version = f"{SLIP_SPEC.name}-{SLIP_SPEC.version}/{slip_224.__name__}/float32/{digest[:SHORT]}"
    return PictureExtractor(SLIP_SPEC.name, version, digest, SLIP_SPEC.dim, network.to(device), slip_224)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint of ULIP's training, or of a bare state dict, without the prefix `module.`.

    Besides tensors the training saved its arguments and numpy scalars (learning rate, best accuracy), which torch
    refuses by default. They are let through by name: their constructors hold data and run nothing, whereas
    `weights_only=False`, the usual way around, would run whatever a file asks for.

    Raises:
        MissingError: absent, damaged, or something else.
    """
    try:
        with torch.serialization.safe_globals(_harmless()):
            # A mapped file costs no memory for the optimizer's state; only zip archives can be mapped.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}.") from error
    except (pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:  # OSError: a zip archive cut short
        reason = str(error).partition("\n")[0]
        raise MissingError(f"{path} is not a complete checkpoint ({reason}). Fetch the file again.") from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise MissingError(f"{path} holds no state dict. Use one of ULIP's published checkpoints.")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _harmless() -> list:
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # before and since numpy 2
    return [*named, np.dtype, *dtypes, argparse.Namespace]


def _fill(network: nn.Module, path: Path, weights: WeightsFile, others: frozenset[str]) -> None:
    """Load the network's part of a checkpoint in which everything is either the network's or of `others`.

    ULIP's own code loads without this check, and so accepts a file of which it uses nothing.
    """
    tensors = read_checkpoint(path)
    expected, found = (Counter(key.partition(".")[0] for key in keys) for keys in (network.state_dict(), tensors))
    unknown = sum(count for root, count in found.items() if root not in expected and root not in others)
    if unknown or any(found[root] != count for root, count in expected.items()):
        raise MissingError(
            f"{path} is not {weights.file}: found {_counts(found, expected)} and {unknown} unknown tensors, expected "
            f"{_counts(expected, expected)} and none. Get it from {weights.source}."
        )
    load_weights(network, path, {key: value for key, value in tensors.items() if key.partition(".")[0] in expected})


def _counts(counter: Counter[str], roots: Counter[str]) -> str:
    return ", ".join(f"{counter[root]} {root}" for root in sorted(roots))


def version_of(spec: PointSpec, digest: str) -> str:
    """Version of the extractor whose weights have this digest (sha256, or random:<seed>), without building it."""
    shown = digest if digest.startswith(RANDOM) else digest[:SHORT]
    return f"{spec.name}-{spec.version}/{spec.preparation}/float32/{shown}"


def _extractor(spec: PointSpec, digest: str, network: PointTower) -> PointExtractor:
    version = version_of(spec, digest)
    return PointExtractor(spec.name, version, digest, spec.config.embedding, network, spec.preparation)
