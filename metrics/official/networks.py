"""Networks of pictures, from timm, open_clip and pytorch-fid, and DINOv2's files for them.

No library is asked for weights: those come from files whose digests are known (`weights`). Shapes: B pictures, T
tokens (class, registers, patches row by row), C width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .resize import imagenet_normalised

if TYPE_CHECKING:  # timm is slow to import
    from timm.models import VisionTransformer


def vision_transformer(name: str, size: int | tuple[int, int], **changes: Any) -> VisionTransformer:
    """timm's network without its classifier: normalised pictures [B, 3, H, W] -> class token [B, C].

    Args:
        name: of timm's list.
        size: H and W; for others the network has no positions.
        changes: arguments of timm's class.
    """
    import timm

    made = timm.create_model(name, pretrained=False, num_classes=0, img_size=size, **changes)
    return cast("VisionTransformer", made)


def clip_tower(name: str) -> nn.Module:
    """The picture tower of a model of open_clip: normalised pictures [B, 3, 224, 224] -> embeddings, of any length.

    The text tower is made and dropped, so make it without memory.
    """
    import open_clip

    return open_clip.CLIP(**cast("dict[str, Any]", open_clip.get_model_config(name))).visual


def fid_inception() -> nn.Module:
    """Inception v3 as the Fréchet Inception distance uses it: pictures [B, 3, 299, 299] in [-1, 1] -> [B, 2048].

    Its weights come from TensorFlow: average pools leave the padding out of the mean, and the last block has a max
    pool. pytorch-fid's own function would download them.
    """
    from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
    from torchvision.models import inception as plain

    blocks = [plain.BasicConv2d, FIDInceptionA, plain.InceptionB, FIDInceptionC, plain.InceptionD, FIDInceptionE_1]
    blocks.append(plain.InceptionAux)  # expected, but not made
    network = plain.Inception3(aux_logits=False, inception_blocks=blocks, init_weights=False)
    network.Mixed_7c = FIDInceptionE_2(2048)
    network.fc = nn.Identity()  # type: ignore[assignment]
    return network


def without_classifier(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inception's file for `network`."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}


def from_hub(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file of the DINOv2 hub for timm's `network`: its names, and positions for its grid.

    Unknown and absent tensors stay so. The token for masked patches is left out, which no feature depends on.
    """
    made = {name: tensor for name, tensor in tensors.items() if name not in ("mask_token", "register_tokens")}
    if not {"pos_embed", "cls_token"} <= made.keys():
        return made
    registers = "register_tokens" in tensors
    grid = cast("VisionTransformer", network).patch_embed.grid_size
    places = hub_positions(made["pos_embed"].float(), grid, registers)
    if not registers:
        return {**made, "pos_embed": places}
    # With registers timm stores positions of patches alone.
    first = made["cls_token"] + places[:, :1]
    return {**made, "reg_token": tensors["register_tokens"], "cls_token": first, "pos_embed": places[:, 1:]}


def hub_positions(stored: Tensor, grid: tuple[int, int], registers: bool) -> Tensor:
    """Positions [1, 1 + G * G, C] of the class token and of a square grid, for a grid of other rows and columns.

    The hub's rule (dinov2/hub/backbones.py), which timm's resampling is not: the weights' published features were
    computed with it. Without registers 0.1 is added to the new grid before the ratio is taken, and nothing is
    antialiased; with registers it is the other way round.
    """
    side = round((stored.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return stored
    patches = stored[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    if registers:
        resampled = functional.interpolate(patches, size=grid, mode="bicubic", antialias=True)
    else:
        ratio = tuple((length + 0.1) / side for length in grid)
        resampled = functional.interpolate(patches, scale_factor=ratio, mode="bicubic")
    return torch.cat([stored[:, :1], resampled.flatten(2).transpose(1, 2)], 1)


def prenorm_tokens(network: VisionTransformer, pictures: Tensor) -> Tensor:
    """All tokens before the last norm (`x_prenorm` of DINOv2): [B, T, C]. pictures: normalised [B, 3, H, W]."""
    last = network.forward_intermediates(
        pictures, indices=1, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
    )
    ((patches, before),) = cast("list[tuple[Tensor, Tensor]]", last)
    return torch.cat([before, patches], 1)


def trellis_condition(network: VisionTransformer, pictures: Tensor) -> Tensor:
    """What TRELLIS' flow networks attend to.

    All tokens before the last norm, then layer-normalised without parameters, eps 1e-5
    (microsoft/TRELLIS, trellis/pipelines/trellis_image_to_3d.py).

    Args:
        network: DINOv2 with registers.
        pictures: [B, 3, 518, 518] uint8, already cropped, scaled and put on black.
    Returns:
        [B, 1374, 1024].
    """
    tokens = prenorm_tokens(network, imagenet_normalised(pictures))
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-5)
