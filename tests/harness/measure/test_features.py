"""What extractors see, and what was seen of all shards: in memory or on disk the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from inprocess import in_process
from numpy.typing import NDArray
from small_world import opened, small_plan

from mdtbench.base.errors import RunError
from mdtbench.harness.engine.jobs import Place
from mdtbench.harness.engine.store import Address
from mdtbench.harness.measure import features as features_module
from mdtbench.harness.measure.extractors import loaded
from mdtbench.harness.measure.features import FeaturesJob, gathered
from mdtbench.harness.measure.spool import Spool, Spooled
from mdtbench.metrics import NotMeasured
from mdtbench.metrics.streams import flat, moments


def test_features_are_the_extractors_of_one_asset_after_the_other(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Failures keep their reasons; they are seen black."""
    plan = small_plan(small_folder, cache=tmp_path)
    measuring = opened(plan, tmp_path)
    cell = plan.structure_cells[0]
    [job] = measuring.structures(cell)
    occupancy = np.zeros((4, 16, 16, 16), bool)
    occupancy[[0, 2, 3], 4:9, 4:9, 4:9] = True
    job.places[0].put({"occupancy": occupancy, "ok": np.array([True, True, False, True])})
    [looks] = measuring.side(cell).shards(("voxels",))
    seen = FeaturesJob(tmp_path, looks, "voxels", measuring.extractors["tiny2d"])
    in_process()[0].do([seen])
    found, data = seen.places[0].get(), looks.place("voxels").get()
    see = loaded(measuring.extractors["tiny2d"])
    assert found["features"].shape[:2] == (4, 4)
    for row in range(4):
        assert np.array_equal(found["features"][row], see(data["data"][row]))
    assert found["ok"].tolist() == [True, False, False, True]
    assert np.array_equal(found["errors"], data["errors"])
    assert np.array_equal(found["features"][1], see(np.zeros_like(data["data"][1])))
    assert not np.array_equal(found["features"][1], found["features"][0])
    monkeypatch.setattr(features_module, "is_cpu", lambda device: False)
    at_once = seen.result()  # as on a GPU
    np.testing.assert_allclose(at_once["features"], found["features"], rtol=1e-4, atol=1e-5)
    assert all(np.array_equal(at_once[name], found[name]) for name in ("ok", "errors"))


# ---------------------------------------------------------------------------------------------------- of all shards


Kept = Callable[[str, NDArray, NDArray], Place]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    def put(name: str, data: NDArray, ok: NDArray) -> Place:
        place = Place(tmp_path, Address("looks", {"name": name}))
        place.put({"data": data, "ok": ok, "errors": np.where(ok, "", "torn")})
        return place

    return put


@pytest.mark.parametrize("limit", [1, 2**24], ids=["on disk", "in memory"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("row", [(5,), (3, 4, 4)], ids=["features", "pictures"])
def test_shards_are_put_together_in_order(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, dtype: type, row: tuple[int, ...]
):
    monkeypatch.setattr(features_module, "IN_MEMORY", limit)
    random = np.random.default_rng(0)
    parts = [random.integers(0, 256, (n, 2, *row)).astype(dtype) for n in (3, 3, 1)]
    oks = [np.array([True, False, True]), np.ones(3, bool), np.zeros(1, bool)]
    places = [kept(str(i), part, ok) for i, (part, ok) in enumerate(zip(parts, oks, strict=True))]
    found, ok = gathered(places, "data", tmp_path)
    whole = np.concatenate(parts)
    assert isinstance(found, Spooled) == (limit == 1)
    assert ok.tolist() == np.concatenate(oks).tolist()
    assert (found.shape, len(found)) == (whole.shape, 7)
    for chosen in (slice(None), slice(2, 5), np.array([6, 0, 0, 3]), slice(4, 4), 5):
        part = found[chosen]
        assert part.dtype == dtype
        assert np.array_equal(part, whole[chosen])


def test_things_of_several_sizes_are_not_compared(kept: Kept, tmp_path: Path):
    """As pictures that a user gives may be."""
    places = [kept(str(side), np.zeros((1, 1, 3, side, side)), np.ones(1, bool)) for side in (4, 5)]
    with pytest.raises(NotMeasured, match=r"several sizes .*\(1, 3, 4, 4\), \(1, 3, 5, 5\)"):
        gathered(places, "data", tmp_path)


def spooled(folder: Path, values: NDArray) -> Spooled:
    spool = Spool(folder)
    return spool.at(np.concatenate([spool.add(part) for part in np.array_split(values, 3)]))


def test_a_spool_is_read_like_an_array(tmp_path: Path):
    values = np.random.default_rng(0).normal(size=(7, 2, 5)).astype(np.float32)
    found = spooled(tmp_path, values)
    assert np.array_equal(found.rolled()[:], np.roll(values, -1, axis=0))
    assert np.array_equal(found[:, 1], values[:, 1])
    assert np.array_equal(flat(found)[:], values.reshape(-1, 5))
    assert np.array_equal(np.asarray([found[i] for i in range(7)]), values)
    mine, other = moments(flat(found)), moments(values.reshape(-1, 5))
    assert np.array_equal(mine.mean, other.mean)
    assert np.array_equal(mine.scatter, other.scatter)
    assert os.listdir(tmp_path) == []  # nothing is left behind


def test_a_spool_lies_elsewhere_where_its_folder_cannot_be_written(tmp_path: Path):
    assert np.array_equal(spooled(tmp_path / "none", np.ones((3, 1, 2)))[:], np.ones((3, 1, 2)))


def test_a_full_disk_is_an_error_that_says_what_to_do(tmp_path: Path):
    spool = Spool(tmp_path)

    class Full:
        def seek(self, *_: int) -> None: ...

        def write(self, data: memoryview) -> int:
            return data.nbytes - 1

    spool._file = Full()  # type: ignore[assignment]
    with pytest.raises(RunError, match=r"disk full.*--cache"):
        spool.add(np.zeros((1, 1, 4), np.float32))
