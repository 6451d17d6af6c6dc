"""Asset ids as paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdtbench.harness.inputs.paths import safe_path

LONG = "é" * 300
HOSTILE = [
    "..", "../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "", ".hidden", "c:\\x", "a\nb", "\0", "~", "/", LONG
]  # fmt: skip


@pytest.mark.parametrize("name", ["chair", "a/b/c", "lamp 2 (old).v3", "größe/ö", "x=1,y+2@home"])
def test_plain_ids_are_their_own_paths(name: str):
    assert safe_path(name) == Path(name)


def test_no_id_leaves_its_folder_or_meets_another(tmp_path: Path):
    alike = ["a/b", "x", "etc/passwd", "c__x", "_", LONG + "x", "\udc80"]
    paths = {name: safe_path(name) for name in [*HOSTILE, *alike]}
    assert len(set(paths.values())) == len(paths)
    for path in paths.values():
        assert path.name
        assert not path.is_absolute()
        assert not any(part.startswith(".") or len(part.encode()) > 200 for part in path.parts)
        assert (tmp_path / path).resolve().is_relative_to(tmp_path.resolve())
