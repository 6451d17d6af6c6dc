"""Networks from names and arguments, and the layout of the full-size ones."""

from __future__ import annotations

import golden_io
import pytest
import torch

from mdtbench.base.errors import UsageError
from mdtbench.trellis import create

DECODER = {"out_channels": 1, "latent_channels": 2, "num_res_blocks": 1, "channels": [8, 4]}
FULL_SIZE = [name for name in golden_io.names("full_size_keys") if name.startswith(("ss_", "slat_"))]


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_layout(name):
    """Official checkpoints load key-complete; on the meta device, without memory."""
    sidecar, _ = golden_io.load("full_size_keys", name)
    with torch.device("meta"):
        model = create(sidecar["class"], sidecar["constructor"])
    assert golden_io.layout(model) == sidecar["state_dict"]
    assert len(sidecar["state_dict"]) == sidecar["num_keys"]
    assert sum(p.numel() for p in model.parameters()) == sidecar["num_parameters"]


def test_elastic_classes_are_the_plain_ones():
    plain, elastic = (
        create("SparseStructureDecoder", DECODER),
        create("ElasticSparseStructureDecoder", DECODER),
    )
    assert type(plain) is type(elastic)
    assert golden_io.state_sha256(plain) == golden_io.state_sha256(elastic)


def test_starting_weights_follow_from_the_seed_alone():
    state = torch.random.get_rng_state()
    first = golden_io.state_sha256(create("SparseStructureDecoder", DECODER, seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert golden_io.state_sha256(create("SparseStructureDecoder", DECODER, seed=1)) == first
    assert golden_io.state_sha256(create("SparseStructureDecoder", DECODER, seed=2)) != first


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'SparseStructureDecoder'"):
        create("SparseStructreDecoder", DECODER)


def test_unknown_and_missing_arguments_are_named():
    args = {key: value for key, value in DECODER.items() if key != "channels"} | {"chanels": [4]}
    with pytest.raises(UsageError, match=r"unknown chanels; missing channels\. Allowed: out_channels, .*use_fp16"):
        create("SparseStructureDecoder", args)
