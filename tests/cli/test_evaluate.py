"""`mdtbench evaluate`: help and errors; the work itself is tested below the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdtbench.assets.mesh_export import write_glb


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    (tmp_path / "made").mkdir()
    for name in ("a", "b"):
        write_glb(tmp_path / "made" / f"{name}.glb", corners, faces, np.ones((4, 3), np.float32))
    return tmp_path / "made"


def test_help_names_every_option(mdtbench):
    shown = mdtbench("evaluate", "--help").out
    for option in (
        "--name",
        "--reference",
        "--protocol",
        "--set",
        "--conditions",
        "--seed",
        "--calibrates",
        "--latency",
        "--geometry-only",
        "--limit",
        "--weights",
    ):
        assert option in shown


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 4, "mdtbench fetch"),
        (("--name", "a/b"), 2, "no slashes"),
        (("--name", "truth"), 2, "that of a control"),
        (("--name", "x", "--set", "extractor=random"), 2, "Did you mean 'extractors'"),
        (("--name", "x", "--set", 'columns=["clip"]'), 2, "--set columns.0"),
        (("--name", "x", "--protocol", "trellis-v1+smok"), 2, "Did you mean 'smoke'"),
        (("--name", "x", "--reference", "nowhere"), 4, "There is no folder nowhere"),
        (("--name", "x", "--limit", "1"), 2, "--limit"),
        (("--name", "x", "--conditions", "nowhere"), 4, "There is no folder nowhere"),
        (("--name", "x", "--protocol", "trellis-v1+ulip2-cond"), 2, "give their folder with --conditions"),
        (("--name", "x", "--calibrates"), 2, "--steps is not given"),
    ],
)
def test_errors_have_their_code_and_say_what_to_do(mdtbench, folder, args, code, message):
    result = mdtbench("evaluate", folder, *args)
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err


def test_missing_weights_are_listed_at_once_and_nothing_is_written(mdtbench, folder, tmp_path):
    at = ("--weights", tmp_path / "weights", "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    result = mdtbench("evaluate", folder, "--name", "x", *at)
    assert result.code == 4
    for file in ("pt_inception-2015-12-05-6726825d.pth", "dinov2_vitl14_pretrain.pth", "open_clip_model.safetensors"):
        assert file in result.err
    assert "mdtbench fetch --preset paper" in result.err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()
