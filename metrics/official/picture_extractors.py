"""The picture extractors of published protocols: which file, which preparation, which network.

`load` needs the official weights. `random_extractor` runs the same network on seeded noise instead: its numbers
mean nothing, but they cost what the real ones cost and repeat to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...base.errors import UsageError
from . import resize
from .networks import clip_tower, fid_inception, from_hub, vision_transformer, without_classifier
from .weights import (
    RANDOM,
    WeightsFile,
    checked_digest,
    fill_randomly,
    load_weights,
    read_tensors,
    without_memory,
)

SHORT = 16  # hexadecimal digits of a digest in a version
TOWER = "visual."  # how names of a picture tower start in open_clip's files

Adapt = Callable[[nn.Module, Mapping[str, Tensor]], Mapping[str, Tensor]]


def as_they_are(network: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A file whose names and shapes are the network's."""
    return tensors


@dataclass(frozen=True)
class PictureSpec:
    """An extractor of pictures.

    Attributes:
        name: of the features, as results name them.
        version: raised when our code changes the numbers.
        weights: the official file.
        create: the network; it may be built on the meta device.
        resize: from uint8 pictures to what the network takes; its name is part of the extractor's version.
        dim: features.
        adapt: the network and the file's tensors -> the network's tensors.
        layout: of the weights in memory, by which convolutions choose their kernels.
    """

    name: str
    version: int
    weights: WeightsFile
    create: Callable[[], nn.Module]
    resize: Callable[[Tensor], Tensor]
    dim: int
    adapt: Adapt = as_they_are
    layout: torch.memory_format = torch.contiguous_format


AT_ONCE = {"cuda": 64}  # pictures


@dataclass(frozen=True)
class PictureExtractor:
    """uint8 pictures [N, 3, H, W] -> float32 features [N, dim]; an `Extractor`.

    On a CPU pictures go through the network one by one: matrix libraries round differently for different batches, and
    so features would depend on how callers group pictures and caches would not agree. On a GPU, where addresses of
    features name the device, they go in batches.
    """

    name: str
    version: str
    weights_sha256: str
    dim: int
    network: nn.Module
    resize: Callable[[Tensor], Tensor]

    @torch.inference_mode()
    def __call__(self, batch: NDArray) -> NDArray[np.float32]:
        """Raises UsageError when `batch` is not uint8 [N, 3, H, W]."""
        _check(batch)
        device = next(self.network.parameters()).device
        features = np.empty((len(batch), self.dim), np.float32)
        count = AT_ONCE.get(device.type, 1)
        with full_float32():
            for start in range(0, len(batch), count):
                rows = slice(start, start + count)
                prepared = [self.resize(torch.from_numpy(np.array(picture[None]))) for picture in batch[rows]]
                features[rows] = self.network(torch.cat(prepared).to(device)).cpu().numpy()
        return features


INCEPTION_WEIGHTS = WeightsFile(
    file="pt_inception-2015-12-05-6726825d.pth",
    source="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    licence="Apache-2.0",
    keys=472,  # and 94 counters of batch norm, in files that have them
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    bytes=95_628_359,
)
DINOV2_WEIGHTS = WeightsFile(
    file="dinov2_vitl14_pretrain.pth",
    source="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    licence="Apache-2.0",
    keys=343,
    sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    bytes=1_217_586_395,
)
DINOV2_REG_WEIGHTS = WeightsFile(
    file="dinov2_vitl14_reg4_pretrain.pth",
    source="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_reg4_pretrain.pth",
    licence="Apache-2.0",
    keys=344,
    # Not the publisher's statement; several independent public listings agree on it.
    sha256="36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51",
    bytes=1_217_607_321,
)
BIGG_WEIGHTS = WeightsFile(
    file="CLIP-ViT-bigG-14-laion2B-39B-b160k/open_clip_model.safetensors",
    source="hub:laion/CLIP-ViT-bigG-14-laion2B-39B-b160k/open_clip_model.safetensors",
    licence="MIT",
    keys=584,
    prefix=TOWER,
)
L14_WEIGHTS = WeightsFile(
    file="vit_large_patch14_clip_224.openai/open_clip_model.safetensors",
    source="hub:timm/vit_large_patch14_clip_224.openai/open_clip_model.safetensors",
    licence="MIT",
    keys=296,
    prefix=TOWER,
)

_DINOV2 = partial(vision_transformer, "vit_large_patch14_dinov2", resize.VIT_SIDE)
_DINOV2_REG = partial(vision_transformer, "vit_large_patch14_reg4_dinov2", resize.TRELLIS_SIDE)
_BIGG, _L14 = partial(clip_tower, "ViT-bigG-14"), partial(clip_tower, "ViT-L-14-quickgelu")  # as OpenAI trained the L
_INCEPTION = (INCEPTION_WEIGHTS, fid_inception)
# Convolutions of Inception with channels last: 1.3 times as fast on a CPU, features differ by 3e-7.
_SPECS = (
    PictureSpec("fd_incep", 3, *_INCEPTION, resize.pytorch_fid_299, 2048, without_classifier, torch.channels_last),
    # clean-fid runs a TorchScript export of the same weights; here only its preparation is taken over.
    PictureSpec("fd_incep_clean", 3, *_INCEPTION, resize.clean_fid_299, 2048, without_classifier, torch.channels_last),
    PictureSpec("fd_dinov2", 2, DINOV2_WEIGHTS, _DINOV2, resize.dgm_eval_224, 1024, from_hub),
    PictureSpec("fd_dinov2_reg518", 2, DINOV2_REG_WEIGHTS, _DINOV2_REG, resize.dinov2_518, 1024, from_hub),
    PictureSpec("clip_bigg", 2, BIGG_WEIGHTS, _BIGG, resize.clip_224, 1280),
    PictureSpec("clip_l14", 2, L14_WEIGHTS, _L14, resize.clip_224, 768),
)
SPECS = {spec.name: spec for spec in _SPECS}


def load(
    spec: PictureSpec, path: Path, *, sha256: str | None = None, device: str | torch.device = "cpu"
) -> PictureExtractor:
    """The extractor with the official weights.

    Args:
        spec: one of `SPECS`.
        path: the weights file.
        sha256: digest it must have where the spec knows none, e.g. recorded when it was fetched.
        device: where the network runs.

    Raises:
        MissingError: the file is absent, damaged, has another digest, or does not hold exactly the tensors expected.
    """
    digest = checked_digest(path, spec.weights.sha256 or sha256)
    network = without_memory(spec.create)
    load_weights(network, path, spec.adapt(network, read_tensors(path, spec.weights.prefix)))
    return _extractor(spec, digest, network.to(device))


def random_extractor(spec: PictureSpec, seed: int, *, device: str | torch.device = "cpu") -> PictureExtractor:
    """The extractor with seeded noise for weights, which its digest `random:<seed>` says.

    The weights do not depend on the number of threads or on the machine.
    """
    network = without_memory(spec.create)
    fill_randomly(network, spec.weights.file, seed)
    return _extractor(spec, f"{RANDOM}:{seed}", network.to(device))


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep CUDA from rounding float32 operands to TF32, which would move features by 1e-3, inside the block."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn  # torch's stubs do not know the switch
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def version_of(spec: PictureSpec, digest: str) -> str:
    """Version of the extractor whose weights have this digest (sha256, or random:<seed>), without building it."""
    shown = digest if digest.startswith(RANDOM) else digest[:SHORT]
    return f"{spec.name}-{spec.version}/{spec.resize.__name__}/float32/{shown}"


def _extractor(spec: PictureSpec, digest: str, network: nn.Module) -> PictureExtractor:
    network = network.to(memory_format=spec.layout)
    return PictureExtractor(spec.name, version_of(spec, digest), digest, spec.dim, network, spec.resize)


def _check(batch: NDArray) -> None:
    if batch.ndim != 4 or batch.shape[1] != 3 or batch.dtype != np.uint8:
        raise UsageError(
            f"Pictures of the wrong kind (got {batch.dtype} {list(batch.shape)}) - uint8 [N, 3, H, W] is needed - "
            "convert them to RGB."
        )
