"""Students of both stages on latents in TRELLIS' layout on disk, which are read when they are drawn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import official_site
import pytest
import torch
from inprocess import in_process
from official_site import INSTANCES, MEAN, STD, Site, write_latents
from torch import Tensor

from mdtbench.assets.trellis_latents import Choice
from mdtbench.base.errors import AssetError, MissingError, RunError, UsageError
from mdtbench.base.seeds import seed_of
from mdtbench.harness.driver.measuring import held_out
from mdtbench.harness.driver.planning import RunOptions, make_plan
from mdtbench.harness.driver.students import Weights, train_students
from mdtbench.harness.driver.sweep import sweep
from mdtbench.harness.inputs.subjects import HeldOut, conditioning_images
from mdtbench.harness.inputs.world import World, load_world
from mdtbench.harness.plan.plan import Plan
from mdtbench.harness.protocol.values import Stage
from mdtbench.harness.train import loop
from mdtbench.harness.train.batch import Batch
from mdtbench.harness.train.data import (
    CHOICES,
    GIVE_UP_AFTER,
    LatentData,
    LatentSet,
    Unreadable,
    split_held_out,
    stacked_structures,
)
from mdtbench.harness.train.parts import Part
from mdtbench.harness.train.task import StageTask

STAGES: tuple[Stage, ...] = ("structure", "slat")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        official_site.small_official(patch)
        yield official_site.write_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def world(site: Site) -> World:
    return load_world(site.world)


def latent_set(site: Site, stage: Stage, **changes: Any) -> LatentSet:
    return replace(LatentSet(stage, (site.root / "latents",), held_out=2, seed=0), **changes)


def opened(site: Site, world: World, stage: Stage, out: Path) -> LatentData:
    data = latent_set(site, stage).open(world, out)
    assert isinstance(data, LatentData)
    return data


def planned(site: Site, latents: Path | None = None, **others: str) -> Plan:
    """cm in both stages. others: keys of --set, with __ for the dot."""
    changes = site.changes(data__latents=json.dumps([str(latents or site.root / "latents")]), **others)
    return make_plan(RunOptions("paper", ("cm",), changes=tuple(changes), device="cpu"), site.root / "cache")


def of_stage(plan: Plan, stage: Stage) -> list[Any]:
    return [student for student in plan.trained if student.stage == stage]


# --------------------------------------------------------------------------------------------------------------- data


def test_structures_come_as_they_are_with_a_picture_of_theirs(site: Site, world: World, tmp_path: Path):
    data = opened(site, world, "structure", tmp_path)
    batch = StageTask("structure", world.structure, data, 8).draw(0, 0)
    assert batch.x_0.shape == (8, 8, 16, 16, 16)
    known = {name: torch.from_numpy(data.source.structure_latent(name)) for name in data.names}
    drawn = [next(name for name, value in known.items() if torch.equal(row, value)) for row in batch.x_0]
    assert len(set(drawn)) > 1
    tokens = {name: world.structure.condition(views_of(data, name)) for name in set(drawn)}
    near = [
        min(float((cond - view).abs().max()) for view in tokens[name])
        for name, cond in zip(drawn, batch.cond, strict=True)
    ]
    assert max(near) < 1e-4  # rounding of matrix products of other sizes


def views_of(data: LatentData, name: str) -> Tensor:
    """Both views of an instance, cropped, [2, 3, S, S]."""
    pictures: dict[bytes, np.ndarray] = {}
    for seed in range(8):
        picture = data.source.condition(name, np.random.default_rng(seed))
        pictures[picture.tobytes()] = picture
    assert len(pictures) == 2
    return torch.from_numpy(np.stack(list(pictures.values()))).permute(0, 3, 1, 2)


def test_structured_latents_are_normalised_by_the_pipeline(site: Site, world: World, tmp_path: Path):
    data = opened(site, world, "slat", tmp_path)
    batch = StageTask("slat", world.whole, data, 4).draw(0, 0)
    raw = batch.x_0 * torch.tensor(STD) + torch.tensor(MEAN)
    voxels: Any = batch.layout.voxels  # type: ignore[attr-defined]
    for sample in range(4):
        rows = voxels.sample == sample
        cells = voxels.coords[rows, 1:].numpy()
        owner = next(slat for slat in map(data.source.slat, data.names) if np.array_equal(slat.coords, cells))
        np.testing.assert_allclose(raw[rows].numpy(), owner.feats, atol=1e-6)  # a division and a product in float32
    assert bool((voxels.coords[1:, 0] >= voxels.coords[:-1, 0]).all())


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_is_a_function_of_seed_and_step_alone(stage: Stage, site: Site, world: World, tmp_path: Path):
    task = StageTask(stage, world.stage(stage), opened(site, world, stage, tmp_path), 3)
    first, _, again = task.draw(0, 5), task.draw(0, 4), task.draw(0, 5)
    for name in ("x_0", "noise", "u", "cond"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    for other in (task.draw(0, 6), task.draw(1, 5)):
        assert not torch.equal(first.u, other.u)
        assert not torch.equal(first.x_0, other.x_0)


def test_a_broken_instance_is_counted_and_replaced_in_its_own_place(site: Site, world: World, tmp_path: Path):
    whole, broken = opened(site, world, "structure", tmp_path), split_held_out(INSTANCES, 2, 0)[1][1]

    def reader(name: str) -> Any:
        if name == broken:
            raise AssetError("no archive")
        return whole.latent(name)

    half = replace(whole, latent=reader, unreadable=Unreadable(tmp_path / "unreadable.json"))
    expected, found, again = (data.drawn(12, np.random.default_rng(0)) for data in (whole, half, half))
    gone = torch.from_numpy(whole.latent(broken))
    was_broken = [torch.equal(latent, gone) for latent in expected.x_0]
    assert 0 < sum(was_broken) < 6
    for broke, *pairs in zip(was_broken, expected.x_0, found.x_0, expected.images, found.images, strict=True):
        assert torch.equal(pairs[0], pairs[1]) is not broke
        assert broke or torch.equal(pairs[2], pairs[3])
    assert Unreadable(tmp_path / "unreadable.json").reasons == {broken: "no archive"}
    assert torch.equal(found.x_0, again.x_0)


def test_nothing_but_broken_instances_ends_the_training(site: Site):
    source = latent_set(site, "structure").source
    data = LatentData(source, ["unknown"], source.structure_latent, stacked_structures)
    with pytest.raises(RunError, match=f"^{GIVE_UP_AFTER} of 1 training instances in a row cannot be read .*unknown"):
        data.drawn(1, np.random.default_rng(0))


def test_a_sample_whose_picture_is_gone_is_replaced_too(site: Site, world: World, tmp_path: Path):
    root = tmp_path / "latents"
    shutil.copytree(site.root / "latents", root)
    for name in INSTANCES[1:]:
        (root / "renders_cond" / name / "transforms.json").unlink()
    data = latent_set(site, "structure", held_out=0, folders=(root,)).open(world, tmp_path)
    only = torch.from_numpy(latent_set(site, "structure").source.structure_latent(INSTANCES[0]))
    assert all(torch.equal(row, only) for row in data.drawn(4, np.random.default_rng(1)).x_0)
    assert set(json.loads((tmp_path / "unreadable-structure.json").read_text())) <= set(INSTANCES[1:])


# ----------------------------------------------------------------------------------------------------------- held out


def test_held_out_instances_follow_from_their_ids():
    held, rest = split_held_out(INSTANCES, 2, 0)
    assert (len(held), len(rest)) == (2, 4)
    assert sorted(held + rest) == INSTANCES
    assert rest == [name for name in INSTANCES if name not in held]
    assert split_held_out(INSTANCES[::-1], 2, 0)[0] == held
    assert {tuple(split_held_out(INSTANCES, 2, seed)[0]) for seed in range(5)} != {tuple(held)}
    assert split_held_out([name for name in INSTANCES if name != rest[0]], 2, 0)[0] == held
    with pytest.raises(UsageError, match=r"holds out 6 instances, and data.latents has 6"):
        split_held_out(INSTANCES, 6, 0)


@pytest.mark.parametrize("stage", STAGES)
def test_they_are_never_drawn(stage: Stage, site: Site, world: World, tmp_path: Path):
    data, read = opened(site, world, stage, tmp_path), list[str]()

    def noted(name: str) -> Any:
        read.append(name)
        return data.latent(name)

    replace(data, latent=noted).drawn(64, np.random.default_rng(0))
    assert set(read) == set(split_held_out(INSTANCES, 2, 0)[1])


def test_the_digest_is_of_what_is_drawn(site: Site, tmp_path: Path):
    write_latents(tmp_path / "more", [*INSTANCES, "f" * 64])
    usual = latent_set(site, "structure")
    shutil.copytree(site.root / "latents", tmp_path / "moved")
    assert replace(usual, folders=(tmp_path / "moved",)).digest == usual.digest
    changed = [{"stage": "slat"}, {"held_out": 1}, {"seed": 3}, {"folders": (tmp_path / "more",)}]
    others = {replace(usual, **change).digest for change in changed}
    assert len({usual.digest, *others}) == 1 + len(changed)


def test_they_are_shown_one_of_their_pictures(site: Site, tmp_path: Path):
    """The same in every run, and there is no shape of them."""
    names = split_held_out(INSTANCES, 2, 0)[0]
    source = HeldOut((site.root / "latents",), CHOICES["slat"], tuple(names), 0)
    tests = held_out(planned(site), source, tmp_path / "cache", in_process()[0])
    assert tests.ids == tuple(sorted(names))
    assert [subject.identity.sha256 for subject in tests.subjects] == sorted(names)
    latents = latent_set(site, "slat").source
    for subject, picture in zip(tests.subjects, conditioning_images(tests.subjects), strict=True):
        random = np.random.Generator(np.random.PCG64(seed_of("grid picture", subject.id, 0)))
        assert np.array_equal(picture, latents.condition(subject.id, random))
        with pytest.raises(AssetError, match="no shape"):
            subject.asset.load()


# ----------------------------------------------------------------------------------------------------------- students


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_training_goes_on_bit_for_bit(
    stage: Stage, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = planned(site)
    engine, _ = in_process()
    train = partial(train_students, plan, of_stage(plan, stage), engine=engine, label="distil")
    assert train(out=tmp_path / "whole") == {}
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    original, seen = StageTask.draw, list[int]()

    def stopping(self: StageTask, seed: int, index: int, part: Part) -> Batch:
        seen.append(index)
        if len(seen) == 5:  # the third step's first part of two
            raise Stopped
        return original(self, seed, index, part)

    monkeypatch.setattr(StageTask, "draw", stopping)
    with pytest.raises(Stopped):
        train(out=tmp_path / "half")
    assert train(out=tmp_path / "half") == {}
    assert seen == [0, 0, 1, 1, 2, 2, 2]
    files = sorted((tmp_path / "whole").rglob("*.safetensors"))
    assert {file.name for file in files} == {"student.safetensors", "student-ema0.0.safetensors"}
    for file in files:
        assert (tmp_path / "half" / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes()


def test_half_precision_learns(site: Site, tmp_path: Path):
    """As the preset has it: float16 activations, a scaled loss, float32 weights."""
    plan = planned(site, train__precision="float16", slat__precision="float16")
    engine, _ = in_process()
    assert train_students(plan, plan.trained, tmp_path, engine, "distil") == {}
    for student in plan.trained:
        account = json.loads((tmp_path / student.folder / "training.json").read_text())
        assert (account["precision"], account["skipped"] < account["steps"]) == ("float16", True)


def test_broken_latents_are_listed(site: Site, tmp_path: Path):
    root, broken = write_latents(tmp_path / "latents"), split_held_out(INSTANCES, 2, 0)[1][:2]
    for name in broken:
        (root / "ss_latents" / Choice().structure_model / f"{name}.npz").write_bytes(b"no archive")
    plan, (engine, team) = planned(site, root, train__steps="6"), in_process()
    assert train_students(plan, of_stage(plan, "structure"), tmp_path, engine, "distil") == {}
    path = tmp_path / "unreadable-structure.json"
    listed = json.loads(path.read_text())
    assert set(listed) == set(broken)
    assert all("is not a readable npz file" in reason for reason in listed.values())
    assert team.reporter.notes == [f"2 training instances could not be read, see {path}"]


def test_processes_list_what_they_cannot_read_in_one_file(tmp_path: Path):
    one, other = (Unreadable(tmp_path / "unreadable.json") for _ in range(2))
    one.add("a", "gone")
    other.add("b", "broken")
    one.save()
    other.save()
    assert Unreadable(tmp_path / "unreadable.json").reasons == {"a": "gone", "b": "broken"}


def test_settings_are_judged_on_held_out_instances_that_have_a_picture(site: Site, tmp_path: Path):
    """Of three one has none, which then comes back; where none has one nothing is trained."""
    root, out, cache = write_latents(tmp_path / "latents"), tmp_path / "out", tmp_path / "cache"
    plan = planned(site, root, sweep__lr="[1e-3]", sweep__methods='["cm"]', sweep__assets="3", train__steps="1")
    weights = Weights(out, site.root, site.world, average=False)
    lists = [root / "renders_cond" / name / "transforms.json" for name in split_held_out(INSTANCES, 3, 0)[0]]
    texts = [path.read_text() for path in lists]

    def swept() -> int:
        return sweep(plan, out, cache, out / "store", weights, in_process()[0], ranks=1).records[0].assets

    for path in lists:
        path.unlink()
    with pytest.raises(MissingError, match="None of the 3 held-out instances has a picture"):
        swept()
    assert not (out / "students").exists()
    for path, text, count in zip(lists, texts, (1, 2, 3), strict=True):
        path.write_text(text)
        assert swept() == count


def test_without_latents_it_says_where_they_come_from(site: Site, world: World, tmp_path: Path):
    with pytest.raises(UsageError, match=r"No instance is left"):
        latent_set(site, "structure", folders=()).open(world, tmp_path)
    with pytest.raises(MissingError, match=r"metadata.csv.*dataset_toolkits"):
        latent_set(site, "structure", folders=(tmp_path,)).open(world, tmp_path)
