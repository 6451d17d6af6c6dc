"""What a run needs of a machine, and that nothing begins while something is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from plans import planned

from mdtbench.base.errors import MissingError
from mdtbench.harness.driver.needs import check_runnable, lacking, needs
from mdtbench.harness.engine.findings import Finding
from mdtbench.harness.inputs.downloads import items_of
from mdtbench.harness.plan.plan import Plan

WEIGHTS = ".cache/mdtbench/weights"
DOWNLOADED = [
    "microsoft/TRELLIS-image-large",
    "Zanwei/mdt-dist",
    "dinov2_vitl14_reg4_pretrain.pth",
    "dinov2_vitl14_pretrain.pth",
    "pt_inception-2015-12-05-6726825d.pth",
    "SFXX/ulip",
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "JeffreyXiang/TRELLIS-500K",
    "toys4k_blend_files",
]
ALL = [*DOWNLOADED, "Blender", "training latents", "a GPU"]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with nothing on it; its home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("MDTBENCH_BLENDER", raising=False)
    monkeypatch.setattr("mdtbench.harness.driver.needs.cuda_devices", list)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paper(*changes: str, methods: tuple[str, ...] = ()) -> Plan:
    return planned(*changes, preset="paper", methods=methods)


def fetched(home: Path) -> Path:
    """All downloads, as files without content: their folder."""
    folder = home / WEIGHTS
    for item in items_of("paper"):
        path = folder / item.target
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.truncate(item.bytes or 1)  # sparse: takes no disk
    return folder


def test_a_bare_machine_lacks_everything(bare: Path):
    findings = needs(paper())
    assert lacking(findings) == ALL
    assert not list(bare.iterdir())  # looked, nothing made
    text = {finding.needed: finding.text for finding in findings}
    for name, part in (
        ("microsoft/TRELLIS-image-large", "17 of 17 missing, 3.30 GB"),
        ("SFXX/ulip", "mdtbench fetch --preset paper"),
        ("toys4k_blend_files", "lowshot-shapebias"),
        ("toys4k_blend_files", str(bare / WEIGHTS / "toys4k")),
        ("Blender", "bpy==4.5"),
        ("training latents", "dataset_toolkits"),
    ):
        assert part in text[name]


def test_a_shipped_world_needs_nothing():
    [world] = needs(planned())
    assert (world.name, world.needed) == ("world", "")
    assert lacking(needs(planned(preset="tiny"))) == []


def test_what_is_there_is_not_missing(bare: Path, monkeypatch: pytest.MonkeyPatch):
    folder = fetched(bare)
    (folder / "trellis-image-large" / "pipeline.json").unlink(missing_ok=True)  # a plan would read what is in it
    latents = bare / "latents"
    latents.mkdir()
    (latents / "metadata.csv").touch()
    plan = paper(f"data.latents=['{latents}']")
    assert lacking(needs(plan)) == ["microsoft/TRELLIS-image-large", "Blender", "a GPU"]
    (folder / "dinov2_vitl14_pretrain.pth").write_bytes(b"half of it")
    assert "dinov2_vitl14_pretrain.pth" in lacking(needs(plan))
    assert "training latents" in lacking(needs(paper(f"data.latents=['{latents}', '{bare}/none']")))
    monkeypatch.setattr("mdtbench.harness.driver.needs.cuda_devices", lambda: ["A800, 80 GB"])
    assert "a GPU" not in lacking(needs(plan))


@pytest.mark.parametrize(
    ("changes", "methods", "spared"),
    [
        ([], ("mdt:released",), {"training latents"}),
        ([], ("none",), {"training latents", "Zanwei/mdt-dist"}),
        ([], ("cm",), {"Zanwei/mdt-dist"}),
        (["protocol.extractors=random"], (), set(DOWNLOADED[3:7])),  # the conditioner stays
        (
            ["places.test=meshes", "places.conditions=shown"],
            (),
            {"toys4k_blend_files", "JeffreyXiang/TRELLIS-500K", "Blender"},
        ),
    ],
)
def test_what_a_run_lacks_is_what_its_lines_need(bare: Path, changes: list[str], methods: tuple[str, ...], spared: set):
    for name in ("meshes", "shown"):
        (bare / name).mkdir()
    assert set(lacking(needs(paper(*changes, methods=methods)))) == set(ALL) - spared


def test_more_columns_need_more_networks():
    more = set(lacking(needs(paper("protocol.columns=all")))) - set(ALL)
    assert more == {"timm/vit_large_patch14_clip_224.openai"}  # of the CLIP score


def test_a_named_folder_must_be_there(bare: Path):
    plan = paper("places.test=toys4k:elsewhere", "places.conditions=none")
    text = {one.name: one.text for one in needs(plan) if one.needed}
    assert "there is no folder elsewhere - set places.test" in text["test assets"]
    assert "there is no folder none - set places.conditions" in text["conditioning pictures"]


def test_the_cpu_has_to_be_named():
    """Networks of full size take days there."""
    plan = paper(methods=("none",))
    assert "a GPU" in lacking(needs(plan))
    assert "a GPU" not in lacking(needs(plan, "cpu"))
    assert "days" in next(one.text for one in needs(plan, "cpu") if one.name == "GPU")


def test_nothing_runs_while_something_is_missing():
    absent, there = Finding("GPU", "missing", "a GPU"), Finding("Blender", "4.5")
    with pytest.raises(MissingError, match="1 of 2 things are missing: a GPU") as raised:
        check_runnable([absent, there])
    assert raised.value.exit_code == 4
    check_runnable([there])


def test_the_dry_run_on_a_bare_machine(bare: Path, mdtbench: Callable):
    code, out, err = mdtbench("run", "--preset", "paper", "--dry-run")
    assert (code, err) == (0, "")
    for part in ("lines: 17", "students to train: 46", "Nothing was measured", "on this machine: 12 of 12 missing"):
        assert part in out
    assert not list(bare.iterdir())


def test_a_run_on_a_bare_machine_ends_before_it_begins(bare: Path, mdtbench: Callable):
    code, _, err = mdtbench("run", "--preset", "paper", "--out", str(bare / "out"))
    assert code == 4
    assert "mdtbench fetch --preset paper" in err
    assert not list(bare.iterdir())
