"""What surrounds the second stage: cached appearances, the pipeline's files, the picture grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_stage import COND, NETWORKS, SAMPLER, pictures, small_pipeline, small_stage, structures
from whole_plans import asset_plan

from mdtbench.assets.toys import ToySource
from mdtbench.base.errors import MissingError
from mdtbench.base.files import read_json, write_json
from mdtbench.flow.samplers import Euler
from mdtbench.harness import asset_grid
from mdtbench.harness.appearance import Appearances, Looks, appearances
from mdtbench.harness.assemble import assemble, one_voxels
from mdtbench.harness.asset_jobs import save_assembled
from mdtbench.harness.picture_grid import SIDE
from mdtbench.harness.plan import AssetCell
from mdtbench.harness.prepare import Preparation, Prepared, prepare
from mdtbench.render.appearance import N_FEATURES, coarse_coords, voxel_features
from mdtbench.results.rows import BOTH
from mdtbench.trellis.pipeline import CONDITIONER, SLAT_FLOW, SLAT_SAMPLER, write_pipeline
from mdtbench.trellis.slat_pipeline import (
    GAUSSIAN_DECODER,
    MESH_DECODER,
    NORMALISATION,
    SLAT_CONDITIONER,
    SLAT_ENCODER,
    SlatPipeline,
    load_slat_pipeline,
)
from mdtbench.trellis.weights import save_checkpoint

LOOKS = Looks(resolution=8, picture_size=16, points=32)
KEYS = {
    "flow": SLAT_FLOW,
    "encoder": SLAT_ENCODER,
    "gaussian_decoder": GAUSSIAN_DECODER,
    "mesh_decoder": MESH_DECODER,
    "conditioner": SLAT_CONDITIONER,
}


@dataclass
class Inline:
    """Workers that are this process; counts what they are given."""

    given: int = 0

    def map(self, function: Callable, items: Sequence, label: str, total: int) -> list:
        del label, total
        self.given += len(items)
        return [function(item) for item in items]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def source() -> ToySource:
    return ToySource("test", 3)


@pytest.fixture(scope="module")
def prepared(source: ToySource, cache: Path) -> Prepared:
    return prepare(source, Preparation(resolution=16, image_size=16), cache, Inline())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def looked_at(source: ToySource, prepared: Prepared, cache: Path) -> Appearances:
    return appearances(source, prepared, LOOKS, cache, Inline())  # type: ignore[arg-type]


def test_every_asset_has_its_own_cells_features_and_looks(
    source: ToySource, prepared: Prepared, looked_at: Appearances
):
    assert looked_at.pictures.shape == (3, 4, 3, 16, 16)
    assert looked_at.points.shape == (3, 32, 6)
    assert len({picture.tobytes() for picture in looked_at.pictures}) == 3
    for row, asset in enumerate(source.assets()):
        assert asset.id == prepared.ids[row]
        mine = looked_at.cells(row)
        coords = coarse_coords(prepared.occupancy[row], 8)
        assert np.array_equal(looked_at.coords[mine], coords)
        assert np.array_equal(looked_at.features[mine], voxel_features(asset.load(), coords, 8))
    assert looked_at.counts.sum() == len(looked_at.coords) == len(looked_at.features)
    assert looked_at.features.shape[1] == N_FEATURES


def test_a_part_is_what_its_assets_are(looked_at: Appearances):
    part = looked_at.part(1, 3)
    for row in range(2):
        assert np.array_equal(part.features[part.cells(row)], looked_at.features[looked_at.cells(row + 1)])
        assert np.array_equal(part.coords[part.cells(row)], looked_at.coords[looked_at.cells(row + 1)])
        assert np.array_equal(part.pictures[row], looked_at.pictures[row + 1])
    assert looked_at.part(1, 1).coords.shape == (0, 3)


def test_appearances_are_made_once_for_each_way_to_look(
    source: ToySource, prepared: Prepared, looked_at: Appearances, cache: Path
):
    again, other = Inline(), Inline()
    found = appearances(source, prepared, LOOKS, cache, again)  # type: ignore[arg-type]
    assert again.given == 0
    assert all(np.array_equal(getattr(found, name), getattr(looked_at, name)) for name in ("points", "features"))
    more = Looks(8, 16, points=16)
    assert appearances(source, prepared, more, cache, other).points.shape == (3, 16, 6)  # type: ignore[arg-type]
    assert other.given == 1


def stored(folder: Path, pipeline: SlatPipeline) -> Path:
    for key, (name, args) in NETWORKS.items():
        save_checkpoint(folder / "ckpts" / key, getattr(pipeline, key), {"name": name, "args": args})
    models = {KEYS[key]: f"ckpts/{key}" for key in NETWORKS if key != "conditioner"}
    sampler = {
        "steps": SAMPLER.steps,
        "cfg_strength": SAMPLER.cfg_strength,
        "cfg_interval": list(SAMPLER.cfg_interval),
        "rescale_t": SAMPLER.rescale_t,
    }
    normalisation = {"mean": pipeline.mean.tolist(), "std": pipeline.std.tolist()}
    others = {CONDITIONER: "ckpts/none", SLAT_CONDITIONER: "ckpts/conditioner", NORMALISATION: normalisation}
    write_pipeline(folder, models, {SLAT_SAMPLER: sampler}, **others)
    return folder


def test_a_pipeline_that_was_stored_computes_the_same(tmp_path: Path):
    """Every network in its place, and the normalisation, to the last bit."""
    made = small_pipeline()
    found = load_slat_pipeline(stored(tmp_path, made))
    assert found.sampler == made.sampler
    voxels = one_voxels(coarse_coords(structures([4])[0], 8))
    numbers = torch.Generator().manual_seed(0)
    features, latents = (torch.randn(4, size, generator=numbers) for size in (N_FEATURES, made.flow.in_channels))
    picture = torch.from_numpy(pictures(1)).permute(0, 3, 1, 2)
    cond, t = made.condition(picture), torch.tensor([0.3])
    assert cond.shape == (1, 4, COND)
    assert torch.equal(found.condition(picture), cond)
    assert torch.equal(found.encode(features, voxels), made.encode(features, voxels))
    assert np.array_equal(found.gaussians(latents, voxels)[0].means, made.gaussians(latents, voxels)[0].means)
    assert np.array_equal(found.meshes(latents, voxels)[0].vertices, made.meshes(latents, voxels)[0].vertices)
    with torch.no_grad():
        v = [one.velocity(one.flow, cond, voxels)(latents, t, 1.5) for one in (found, made)]
    assert torch.equal(*v)


def test_one_conditioner_serves_both_stages_where_no_other_is_named(tmp_path: Path):
    """As in TRELLIS' own repositories."""
    stored(tmp_path, small_pipeline())
    whole = read_json(tmp_path / "pipeline.json")
    del whole["args"][SLAT_CONDITIONER]
    whole["args"][CONDITIONER] = "ckpts/conditioner"
    write_json(tmp_path / "pipeline.json", whole)
    assert load_slat_pipeline(tmp_path).conditioner.image_size == 16


@pytest.mark.parametrize("fault", ["normalisation", "decoder", "swapped"])
def test_an_incomplete_pipeline_is_named(tmp_path: Path, fault: str):
    stored(tmp_path, small_pipeline())
    whole = read_json(tmp_path / "pipeline.json")
    models = whole["args"]["models"]
    if fault == "normalisation":
        del whole["args"][NORMALISATION]["std"]
    elif fault == "decoder":
        del models[MESH_DECODER]
    else:
        models[MESH_DECODER], models[GAUSSIAN_DECODER] = models[GAUSSIAN_DECODER], models[MESH_DECODER]
    write_json(tmp_path / "pipeline.json", whole)
    text = {"normalisation": "std", "decoder": MESH_DECODER, "swapped": "SLatMeshDecoder, SLatGaussianDecoder"}
    with pytest.raises(MissingError, match=text[fault]):
        load_slat_pipeline(tmp_path)


def test_the_grid_has_a_row_per_method_and_a_place_for_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stage, ids = small_stage(), ("test-a", "test-b")
    monkeypatch.setattr(asset_grid, "load_cached", lambda folder, device: SimpleNamespace(whole=stage))
    made = assemble(stage, stage.pipeline.flow, Euler(1), structures([4, 0]), pictures(2), ids, 0)
    save_assembled(tmp_path / "cell.npz", made, np.array([1, 1]), np.array([0.1, 0.1]))
    plan = asset_plan("evaluate.apart=[0]", "evaluate.steps=[1]", methods=("vm",), train_seeds=(0, 1))
    assert plan.second is not None
    asked: list[AssetCell] = []
    rows: list[list[NDArray | None]] = []
    labels: list[str] = []

    def first_file(cell: AssetCell) -> Path:
        asked.append(cell)
        return tmp_path / "cell.npz"

    def noting(shown: list, row_labels: list, column_labels: list, path: Path) -> None:
        rows.extend(shown)
        labels.extend([*row_labels, *column_labels])
        path.write_bytes(b"")

    monkeypatch.setattr(asset_grid, "grid", noting)
    test = Prepared(ids, ("", ""), structures([4, 0]), pictures(2)[:, None], ())
    truth = [np.zeros((SIDE, SIDE, 3), np.uint8)] * 2
    cells = plan.second.cells
    asset_grid.write_asset_grid(tmp_path / "g.png", cells, test, pictures(2), truth, Path("w"), first_file)
    assert {(cell.stage, cell.seed) for cell in asked} == {(BOTH, 0)}
    assert [cell.who.label for cell in asked] == ["none", "none:cfg", "teacher", "vm"]
    assert [cell.trainings[0].seed for cell in asked if cell.trainings] == [0]
    assert labels == [
        "condition", "ground truth", "none, 1x2 step", "none:cfg, 1x2 step", "teacher, 25x2 steps", "vm, 1x2 step",
        "a", "b",
    ]  # fmt: skip
    for row in rows[2:]:
        picture, nothing = row
        assert picture is not None
        assert nothing is None
        assert picture.shape == (SIDE, SIDE, 3)
        assert picture.std() > 1
