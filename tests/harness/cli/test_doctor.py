"""`mdtbench doctor`: what is missing is named, what is damaged is found, and spconv's CPU kernels are refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import fake_libraries
import pytest
from packaging.requirements import Requirement

from mdtbench.base.errors import MissingError
from mdtbench.harness.cli import examining
from mdtbench.harness.cli.examining import EXTRAS, NEEDED, check, library, optional, worlds
from mdtbench.harness.engine.findings import Finding, findings_text

DISTRIBUTIONS = {"PIL": "pillow", "open_clip": "open-clip-torch"}
SPCONV = next(extra for extra in EXTRAS if extra.module == "spconv")


@pytest.mark.parametrize(("found", "cuda"), [(None, False), ("2.3.8", False), ("2.3.8", True), (None, True)])
def test_spconvs_cpu_kernels_are_always_refused_with_the_reason(found: str | None, cuda: bool):
    text = optional(SPCONV, found, cuda).text
    for part in ("CPU kernels are refused", "wrong numbers"):
        assert part in text
    assert ("there is no CUDA device: not used" in text) == (found is not None and not cuda)
    assert ("pip install" in text) == (found is None and cuda)


def test_what_attends_and_convolves_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    here = {finding.name: finding.text for finding in examining.kernels("cpu")}
    assert here == {
        "attention": "sdpa (libraries are for CUDA, and this is cpu)",
        "convolution": "ours (the default: its bits repeat)",
    }
    fake_libraries.on_cpu(monkeypatch)
    fake_libraries.install_varlen(monkeypatch)
    monkeypatch.setattr(examining, "CPU", "another")
    monkeypatch.setitem(sys.modules, "xformers", None)
    monkeypatch.setitem(sys.modules, "spconv", None)
    there = {finding.name: finding.text for finding in examining.kernels("cpu")}
    assert there["attention, float16"] == there["attention, bfloat16 with backward"] == "varlen (the default)"
    assert there["attention, float32"].startswith("sdpa (varlen refuses: RuntimeError: ")
    assert there["attention, if asked for"].startswith("sdpa (xformers refuses: ModuleNotFoundError: ")
    assert there["convolution, if asked for"].startswith("ours (spconv refuses: ModuleNotFoundError: ")


@pytest.mark.parametrize("there", [True, False])
def test_gsplat_without_a_compiler_is_said_to_fail(there: bool, monkeypatch: pytest.MonkeyPatch):
    """It imports, and builds its kernels at first use."""
    [gsplat] = [extra for extra in EXTRAS if extra.module == "gsplat"]
    monkeypatch.setattr(examining.shutil, "which", lambda name: f"/usr/bin/{name}" if there else None)
    told = "builds its kernels with nvcc at first use, which is not on the PATH"
    assert (told in optional(gsplat, "1.5.3", True).text) == (not there)
    assert told not in optional(gsplat, None, True).text


def test_what_cuda_alone_uses_is_never_needed():
    assert not any(optional(extra, found, cuda).needed for extra in EXTRAS for found in (None, "1") for cuda in (0, 1))


def test_every_dependency_is_looked_at():
    """Those of pyproject.toml, but for the libraries of command line and table, without which nothing starts."""
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    lines = text.split("\ndependencies = [\n")[1].split("\n]")[0].splitlines()
    names = {Requirement(line.split('"')[1]).name for line in lines}
    assert names - {"typer", "rich"} == {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in NEEDED}


def test_a_library_that_is_missing_is_needed():
    found = library("surely_no_module", "testing")
    assert found.needed == "library surely_no_module"
    assert "No module named" in found.text
    assert not library("numpy", "arrays").needed


def test_a_changed_weight_file_is_found(tiny_folder: Path, tmp_path: Path):
    shutil.copytree(tiny_folder, tmp_path / "good")
    shutil.copytree(tiny_folder, tmp_path / "bad")
    weights = tmp_path / "bad" / "ckpts" / "ss_flow.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    bad, good = worlds(tmp_path)
    assert (bad.name, bad.needed) == ("bad", "world bad")
    assert "ss_flow.safetensors" in bad.text
    assert (good.name, good.needed) == ("good", "")
    assert "all digests match" in good.text
    assert worlds(tmp_path / "none")[0].needed


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path):
    assert not examining.disk(tmp_path / "not" / "there" / "yet").needed
    assert not list(tmp_path.iterdir())  # looked, not made
    blocker = tmp_path / "file"
    blocker.touch()
    assert "cannot be written" in examining.disk(blocker / "cache").text


def test_only_what_is_needed_ends_in_an_error():
    check({"a": [Finding("x", "not installed")]})
    with pytest.raises(MissingError, match=r"2 things that runs need: library y; world z\.") as raised:
        check({"a": [Finding("y", "gone", "library y")], "b": [Finding("z", "damaged", "world z")]})
    assert raised.value.exit_code == 4
    assert "\n" not in str(raised.value)


def test_the_text_has_a_line_for_everything(tmp_path: Path):
    sections = examining.examined(tmp_path)
    text = findings_text(sections)
    for name in (
        "Python",
        "torch",
        "cores",
        "threads",
        "memory",
        "cache",
        "CUDA",
        "spconv",
        "embreex",
        "numba",
        "tiny",
    ):
        assert name in text
    assert [finding.needed for findings in sections.values() for finding in findings if finding.needed] == []
