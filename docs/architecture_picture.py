"""The picture in `architecture.md`, drawn from the imports of the code: `python docs/architecture_picture.py`.

Every arrow is an import of one folder ("room") by another; those that follow from other arrows are left out.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- picture: begin -->\n", "<!-- picture: end -->\n"
TOP = ("api", "base", "geometry", "flow", "methods", "metrics", "assets", "render", "trellis", "results", "harness")

Graph = Mapping[str, set[str]]


def modules() -> dict[str, Path]:
    """All modules of the package by dotted name below it."""
    files = (path for room in TOP for path in sorted((ROOT / room).rglob("*.py")))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def import_graph() -> Graph:
    """Which module imports which, inside functions as well."""
    known = modules()
    return {name: set(_imports(name, path, known)) for name, path in known.items()}


def room(module: str) -> str:
    """The folder of a module; the harness is a house of its own."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "harness" and len(parts) > 1 else parts[0]


def rooms(graph: Graph) -> Graph:
    """The graph of folders."""
    found: dict[str, set[str]] = {room(name): set() for name in graph}
    for name, targets in graph.items():
        found[room(name)] |= {room(target) for target in targets} - {room(name)}
    return found


def circle(graph: Graph) -> list[str]:
    """Nodes that import each other in a ring; empty if there is no ring."""
    done: set[str] = set()
    for start in graph:
        if ring := _ring(graph, start, [], done):
            return ring
    return []


def essential(graph: Graph) -> list[tuple[str, str]]:
    """The arrows that no longer way stands for."""
    far = {name: _reach(graph, name) for name in graph}
    return [
        (name, target)
        for name in sorted(graph)
        for target in sorted(graph[name])
        if not any(target in far[other] for other in graph[name] - {target})
    ]


def picture() -> str:
    """Mermaid source, which hosts of Markdown draw."""
    arrows = essential(rooms(import_graph()))
    names = sorted({name for arrow in arrows for name in arrow})
    nodes = [f'    {_node(name)}["{name.replace(".", "/")}"]' for name in names]
    edges = [f"    {_node(a)} --> {_node(b)}" for a, b in arrows]
    return "\n".join(["```mermaid", "graph TD", *nodes, *edges, "```\n"])


def drawn(text: str) -> str:
    """The page with the picture as it is now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + picture() + END + rest.partition(END)[2]


def _imports(name: str, path: Path, known: Iterable[str]) -> Iterator[str]:
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = package[: len(package) - node.level + 1]
        elif (node.module or "").startswith("mdtbench"):
            base = []
        else:
            continue
        parts = [*base, *(node.module or "").removeprefix("mdtbench").strip(".").split(".")]
        target = ".".join(part for part in parts if part)
        for alias in node.names:
            inner = f"{target}.{alias.name}".strip(".")
            if inner in known:
                yield inner
            elif target in known and target != name:
                yield target


def _ring(graph: Graph, name: str, path: list[str], done: set[str]) -> list[str]:
    if name in path:
        return [*path[path.index(name) :], name]
    if name in done:
        return []
    for target in sorted(graph[name]):
        if ring := _ring(graph, target, [*path, name], done):
            return ring
    done.add(name)
    return []


def _reach(graph: Graph, name: str) -> set[str]:
    found: set[str] = set()
    todo = [*graph[name]]
    while todo:
        if (one := todo.pop()) not in found:
            found.add(one)
            todo += graph[one]
    return found


def _node(name: str) -> str:
    return name.replace(".", "_")


if __name__ == "__main__":
    for what, graph in (("files", import_graph()), ("folders", rooms(import_graph()))):
        if found := circle(graph):
            sys.exit(f"A circle of {what}: {' -> '.join(found)}")
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
