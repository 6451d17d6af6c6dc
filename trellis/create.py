"""From the name and arguments in a configuration to a network of the backbone."""

from __future__ import annotations

from torch import nn

from ..base.networks import NetworkTable
from ..base.registry import Registry
from .conditioner import ImageConditioner
from .slat_decoders import SLatGaussianDecoder, SLatMeshDecoder, SLatRadianceFieldDecoder
from .slat_encoder import SLatEncoder
from .slat_flow import SLatFlowModel
from .structure_flow import SparseStructureFlowModel
from .structure_vae import SparseStructureDecoder, SparseStructureEncoder

# Of plug-ins; a flow is a `structure_flow.StructureFlow`.
BACKBONES: Registry[type[nn.Module]] = Registry("network", group="mdtbench.networks")

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
    plugins=BACKBONES,
)

create = NETWORKS.create
