"""What a glTF header may announce: checked before anything of that size is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import AssetError
from ..base.limits import excess

_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}


def check_counts(header: Mapping[str, Any]) -> None:
    """Raises AssetError where an accessor announces too many values, or nodes hang in a circle or too deep."""
    for accessor in header.get("accessors", []):
        counts = accessor.get("count", 0), accessor.get("sparse", {}).get("count", 0)
        most = max(counts) * _COMPONENTS.get(accessor.get("type"), 1)
        _refuse(excess("values", most, "one of its accessors"))
    children = [node.get("children", []) for node in header.get("nodes", [])]
    below = {child for some in children for child in some}
    level, depth = [node for node in range(len(children)) if node not in below], 0
    reached = len(level)
    while level:
        _refuse(excess("nesting", depth, "its scene graph"))
        level, depth = [child for node in level for child in children[node]], depth + 1
        reached += len(level)
        if reached > len(children):
            raise AssetError("a node of its scene graph has two parents, which glTF forbids: export it again")
    if reached < len(children):
        raise AssetError("nodes of its scene graph hang in a circle: export it again")


def _refuse(reason: str) -> None:
    if reason:
        raise AssetError(reason)
