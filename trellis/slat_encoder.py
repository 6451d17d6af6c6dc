"""Features of the voxels -> structured latent.

Source: TRELLIS trellis/models/structured_latent_vae/encoder.py; state-dict keys are the same. N voxels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .slat_base import SlatTransformer, zero_linear
from .sparse import SparseTensor
from .structure_vae import posterior_noise


class SLatEncoder(SlatTransformer):
    """Voxel features [N, in_channels] -> latent [N, latent_channels]. See `SlatTransformer` for the arguments."""

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        model_channels: int,
        latent_channels: int,
        num_blocks: int,
        num_heads: int | None = None,
        num_head_channels: int = 64,
        mlp_ratio: float = 4,
        attn_mode: str = "swin",
        window_size: int = 8,
        pe_mode: str = "ape",
        use_fp16: bool = False,
        use_checkpoint: bool = False,
        qk_rms_norm: bool = False,
    ):
        super().__init__(
            in_channels,
            model_channels,
            num_blocks,
            num_heads=num_heads,
            num_head_channels=num_head_channels,
            mlp_ratio=mlp_ratio,
            attn_mode=attn_mode,
            window_size=window_size,
            pe_mode=pe_mode,
            use_fp16=use_fp16,
            use_checkpoint=use_checkpoint,
            qk_rms_norm=qk_rms_norm,
        )
        self.resolution = resolution
        self.latent_channels = latent_channels
        self.out_layer = zero_linear(model_channels, 2 * latent_channels)

    def forward(
        self,
        x: SparseTensor,
        sample_posterior: bool = False,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> SparseTensor:
        """Encode voxels.

        Args:
            sample_posterior: Draw from the posterior instead of taking its mean.
            generator: Source of the posterior noise.
            noise: The posterior noise itself, [N, latent_channels]; takes the place of `generator`.
        Raises:
            UsageError: sample_posterior with neither a generator nor noise.
        """
        mean, logvar = self.posterior(x)
        if not sample_posterior:
            return x.replace(mean)
        return x.replace(mean + torch.exp(0.5 * logvar) * posterior_noise(mean, generator, noise))

    def posterior(self, x: SparseTensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each [N, latent_channels]."""
        mean, logvar = self.out_layer(self.normed_torso(x).feats).chunk(2, dim=1)
        return mean, logvar
