"""Metrics of whole assets: appearance on the 3D Gaussians and on the mesh, agreement with the picture, the latents.

The paper scores appearance on rendered 3D Gaussians and ULIP on the mesh; so do these, with our tiny extractors.
"""

from __future__ import annotations

import numpy as np

from .contract import ASSET_METRICS, Comparison, Metric, Score, WholeAssets, mean_score
from .fd import distance


class GaussianFD(Metric[WholeAssets]):
    """Of `tiny_rgb` features on the four protocol views of the Gaussians, stacked; the truth's are of its mesh."""

    name, version, unit, higher_is_better = "FD_tiny_gs", 1, "", False
    controls = ("reconstruction",)

    def score(self, shapes: WholeAssets, against: Comparison[WholeAssets]) -> Score:
        return Score(distance(shapes.gaussian_features, against.truth.gaussian_features))


class MeshFD(Metric[WholeAssets]):
    """The same on the views of the mesh."""

    name, version, unit, higher_is_better = "FD_tiny_mesh", 1, "", False
    controls = ("reconstruction", "floor")

    def score(self, shapes: WholeAssets, against: Comparison[WholeAssets]) -> Score:
        return Score(distance(shapes.mesh_features, against.truth.mesh_features))


class MeshUlip(Metric[WholeAssets]):
    """100 x cosine between the conditioning picture and coloured points of the mesh; a failed asset scores 0."""

    name, version, unit, higher_is_better = "ULIP_tiny_mesh", 1, "x100", True
    controls = ("reconstruction", "truth", "shuffled")

    def score(self, shapes: WholeAssets, against: Comparison[WholeAssets]) -> Score:
        cosine = (shapes.embedding * against.image_embedding).sum(1)
        return mean_score(100 * np.where(shapes.ok, cosine, 0.0))


class SlatMSE(Metric[WholeAssets]):
    """Mean squared distance of SLAT latents to the teacher's from the same noise; latents have unit variance.

    Only where all assets have the teacher's voxels: elsewhere there are no pairs of latents. An asset without voxels,
    whose structure is the teacher's empty one, has nothing to be compared.
    """

    name, version, unit, higher_is_better = "MSE_slat", 1, "", False

    def score(self, shapes: WholeAssets, against: Comparison[WholeAssets]) -> Score | None:
        teacher, filled = against.teacher, shapes.counts > 0
        if teacher is None or not np.array_equal(shapes.counts, teacher.counts) or not filled.any():
            return None
        if not np.array_equal(shapes.coords, teacher.coords):
            return None
        gap = np.square(shapes.latents.astype(np.float64) - teacher.latents).mean(1)
        starts = (np.cumsum(shapes.counts) - shapes.counts)[filled]
        per_asset = np.zeros(len(filled))
        per_asset[filled] = np.add.reduceat(gap, starts) / shapes.counts[filled]
        return mean_score(per_asset, filled)


ASSET_METRICS.register("FD_tiny_gs", version=1, source="Heusel et al., arXiv:1706.08500, with our features")(
    GaussianFD()
)
ASSET_METRICS.register("FD_tiny_mesh", version=1, source="Heusel et al., arXiv:1706.08500, with our features")(MeshFD())
ASSET_METRICS.register("ULIP_tiny_mesh", version=1, source="after ULIP-2, arXiv:2305.08275, with our encoders")(
    MeshUlip()
)
ASSET_METRICS.register("MSE_slat", version=1, source="ours")(SlatMSE())
