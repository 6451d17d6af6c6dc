"""A world that was stored: every network in its place, to the last bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_stage import pictures, shapes, small_pipeline, small_structure_pipeline, structures
from small_world import STEPS

from mdtbench.base.errors import MissingError
from mdtbench.base.files import read_json, write_json
from mdtbench.harness.inputs.cells import one_voxels
from mdtbench.harness.inputs.world import load_world, world_info
from mdtbench.render.appearance import N_FEATURES, coarse_coords
from mdtbench.trellis.pipeline import CONDITIONER, SamplerParams
from mdtbench.trellis.slat_pipeline import GAUSSIAN_DECODER, MESH_DECODER, NORMALISATION, SLAT_CONDITIONER


@pytest.fixture
def changed(small_folder: Path, tmp_path: Path) -> Callable[[Callable[[dict], object]], Path]:
    """The small world with another pipeline.json."""

    def change(how: Callable[[dict], object]) -> Path:
        folder = shutil.copytree(small_folder, tmp_path / "world")
        whole = read_json(folder / "pipeline.json")
        how(whole["args"])
        write_json(folder / "pipeline.json", whole)
        return folder

    return change


def test_the_second_stage_computes_the_same(small_folder: Path):
    made, found = small_pipeline(), load_world(small_folder).whole
    assert found.sampler == SamplerParams(STEPS, 1.0, (0.0, 1.0), 1.0)
    voxels = one_voxels(coarse_coords(structures([4])[0], 8))
    numbers = torch.Generator().manual_seed(0)
    features, latents = (torch.randn(4, size, generator=numbers) for size in (N_FEATURES, made.flow.in_channels))
    picture = torch.from_numpy(pictures(1)).permute(0, 3, 1, 2)
    cond, t = made.condition(picture), torch.tensor([0.3])
    assert torch.equal(found.condition(picture), cond)
    assert torch.equal(found.encode(features, voxels), made.encode(features, voxels))
    assert np.array_equal(found.gaussians(latents, voxels)[0].means, made.gaussians(latents, voxels)[0].means)
    assert np.array_equal(found.meshes(latents, voxels)[0].vertices, made.meshes(latents, voxels)[0].vertices)
    with torch.no_grad():
        v = [one.velocity(one.flow, cond, one.layout(voxels))(latents, t, 1.5) for one in (found, made)]
    assert torch.equal(*v)


def test_the_first_stage_computes_the_same(small_folder: Path):
    """But for the bias of its decoder, with which its structures are sparse."""
    made, found = small_structure_pipeline(), load_world(small_folder).structure
    picture = torch.from_numpy(pictures(2)).permute(0, 3, 1, 2)
    cond, t, latents = made.condition(picture), torch.tensor([0.3, 0.3]), shapes(2).latents
    assert torch.equal(found.condition(picture), cond)
    with torch.no_grad():
        v = [one.velocity(one.flow, cond, one.layout(2))(latents, t, 1.5) for one in (found, made)]
    assert torch.equal(*v)
    grids = torch.from_numpy(structures([5]))
    assert torch.equal(found.encode(grids), made.encode(grids))
    assert 0 < found.decode(latents).float().mean() < made.decode(latents).float().mean()


def test_one_conditioner_serves_both_stages_where_no_other_is_named(changed: Callable[..., Path]):
    """As in TRELLIS' own repositories."""
    world = load_world(changed(lambda args: args.pop(SLAT_CONDITIONER)))
    assert world.whole.conditioner is world.structure.conditioner


FAULTS: dict[str, tuple[Callable[[dict], object], str]] = {
    "normalisation": (lambda args: args[NORMALISATION].pop("std"), "no 'std'"),
    "decoder": (lambda args: args["models"].pop(MESH_DECODER), f"names no {MESH_DECODER}"),
    "swapped": (
        lambda args: args["models"].update({MESH_DECODER: args["models"][GAUSSIAN_DECODER]}),
        f"{MESH_DECODER} is a SLatGaussianDecoder - a SLatMeshDecoder is needed",
    ),
    "conditioner": (lambda args: args.pop(CONDITIONER), "image_cond_model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_incomplete_pipeline_is_named(changed: Callable[..., Path], fault: str):
    how, text = FAULTS[fault]
    folder = changed(how)
    with pytest.raises(MissingError, match=text):
        load_world(folder)


def test_a_sampler_that_does_not_say_how_is_named(changed: Callable[..., Path]):
    folder = changed(lambda args: args["slat_sampler"]["params"].pop("steps"))
    with pytest.raises(MissingError, match=r"slat_sampler: 'steps'"):
        world_info(folder)
