"""docs/assets.md says what the readers do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from case_facts import right_facts

from mdtbench.assets.gltf_file import APPLIED, NOTED, WITHOUT_EFFECT
from mdtbench.assets.mesh_files import UP_AXIS, read_mesh
from mdtbench.assets.sniff import SPLATS

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "assets.md").read_text(encoding="utf-8")
OUTCOMES = {"applied": "read", "noted": "noted", "refused": "refused"}
RIGHT = right_facts()

sys.path.insert(0, str(TESTS / "second_renderer"))

from samples import SAMPLES, Builder  # noqa: E402


def rows():
    lines = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return [(feature, done, tried.strip("` |")) for _, feature, done, tried in lines[1:]]


@pytest.mark.parametrize(("feature", "done", "tried"), rows(), ids=lambda text: text[:40])
def test_what_the_table_says_is_done(tmp_path, feature, done, tried):
    if tried in RIGHT:  # which test_cases.py holds to what is read
        assert RIGHT[tried].outcome == OUTCOMES[done]
        return
    builder = Builder()
    SAMPLES[tried](builder)
    (tmp_path / "a.glb").write_bytes(builder.bytes())
    assert bool(read_mesh(tmp_path / "a.glb").notes) == (done == "noted")


def test_every_extension_and_every_format_is_on_the_page():
    assert not [name for name in (*APPLIED, *WITHOUT_EFFECT, *NOTED) if name not in PAGE]
    assert not [suffix for suffix in UP_AXIS if suffix.removeprefix(".").upper() not in PAGE.upper()]
    assert not [suffix for suffix in SPLATS if suffix not in PAGE]
