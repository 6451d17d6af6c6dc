"""From the name and arguments in a configuration to a network of the backbone."""

from __future__ import annotations

from ..base.networks import NetworkTable
from .conditioner import ImageConditioner
from .slat_decoders import SLatGaussianDecoder, SLatMeshDecoder, SLatRadianceFieldDecoder
from .slat_encoder import SLatEncoder
from .slat_flow import SLatFlowModel
from .structure_flow import SparseStructureFlowModel
from .structure_vae import SparseStructureDecoder, SparseStructureEncoder

# "Elastic" networks of the official configurations trade memory for time in training; their weights are the same.
NETWORKS = NetworkTable(
    {
        "SparseStructureFlowModel": SparseStructureFlowModel,
        "SLatFlowModel": SLatFlowModel,
        "SparseStructureEncoder": SparseStructureEncoder,
        "SparseStructureDecoder": SparseStructureDecoder,
        "SLatEncoder": SLatEncoder,
        "SLatGaussianDecoder": SLatGaussianDecoder,
        "SLatMeshDecoder": SLatMeshDecoder,
        "SLatRadianceFieldDecoder": SLatRadianceFieldDecoder,
        "ImageConditioner": ImageConditioner,
    },
    ignored_prefix="Elastic",
)

create = NETWORKS.create
