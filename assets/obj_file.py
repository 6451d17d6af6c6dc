"""OBJ files and their material libraries.

Text is read as programs write it and not only as the format has it: any white space, any line end, any case of
keywords, faces and vertices of mixed kinds. What one face or vertex lacks costs no other its colour.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..base.errors import AssetError
from ..geometry.mesh import CLAMP, PLAIN, Sampler
from ..geometry.polygons import triangulate
from .file_colours import UNCOLOURED, Surface, corners, finite, plain, unit_rgba
from .images import open_image, pixels

# Options before the name of an image, and how many values each has.
_OPTIONS = {"blendu": 1, "blendv": 1, "bm": 1, "boost": 1, "cc": 1, "clamp": 1, "imfchan": 1, "mm": 2, "texres": 1}
_OPTIONS |= {"o": 3, "s": 3, "t": 3, "type": 1}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
# Corners of faces as programs mostly write them, and how many numbers each has.
_FORMS = {re.compile(rf"(?:{one}(?: |$))+"): one.count("/") + 1 for one in (r"-?\d+/-?\d+", r"-?\d+/-?\d+/-?\d+")}
_UNDRAWN = {
    **dict.fromkeys(("l", "p"), "its lines or points are not drawn"),
    **dict.fromkeys(("curv", "curv2", "surf"), "its curves or free-form surfaces are not drawn"),
}
# Colours of ZBrush, in comments: 8 hexadecimal digits for each vertex.
_PAINT = "#mrgb"


class Files(Protocol):
    """Where the files are that an OBJ file names."""

    def find(self, name: str) -> Path | None: ...

    def get(self, name: str) -> bytes: ...


class ObjPart(NamedTuple):
    """Triangles of one material. vertices: [V, 3]. faces: [F, 3]."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    surface: Surface


@dataclass(frozen=True)
class _Image:
    """map_Kd with its options. scale, offset: of coordinates, v up."""

    name: str
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    sampler: Sampler = PLAIN


@dataclass(frozen=True)
class _Material:
    colour: tuple[float, ...] | None = None
    image: _Image | None = None

    @property
    def tinted(self) -> bool:
        """Whether it has a colour beside its image, which exporters leave there, and which is not applied."""
        return self.image is not None and self.colour is not None and self.colour != (1, 1, 1)


@dataclass
class _Text:
    """Lines of an OBJ file by their keyword. `faces` come with their material and the counts before them."""

    vertices: list[str] = field(default_factory=list)
    coordinates: list[str] = field(default_factory=list)
    faces: list[tuple[list[str], str | None, int, int]] = field(default_factory=list)
    libraries: list[str] = field(default_factory=list)
    paint: list[str] = field(default_factory=list)


def read_obj(text: str, files: Files, note: Callable[[str], None]) -> Iterator[ObjPart]:
    """The triangles of a file, material by material.

    Raises:
        AssetError: its numbers, its materials or its textures cannot be used.
    """
    lines = _lines(text, note)
    vertices, colours = _vertices(lines, note)
    materials = _materials(lines.libraries, files, note)
    refs, sizes = [ref for face in lines.faces for ref in face[0]], np.array([len(f[0]) for f in lines.faces], np.int64)
    corner, place = _references(lines, refs, sizes)
    uv = _numbers(lines.coordinates, 2, "texture coordinates")
    outside = place >= len(uv)
    if outside.any():
        note(f"{outside.sum()} corners of faces name texture coordinates that are not there")
        place = np.where(outside, -1, place)
    triangles, polygon = triangulate(vertices, corner, sizes)
    names = _names(lines, materials, note)
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    group = np.array([order[name] for name in names], np.int64)[polygon]
    look = _Look(vertices, colours, uv, corner[triangles], place[triangles], note)
    for name, i in order.items():
        yield from look.parts(group == i, materials.get(name or ""), files)
    look.say()


@dataclass
class _Look:
    """Faces of a file with what decides their colour. place: [F, 3] texture coordinates of corners, -1 for none."""

    vertices: NDArray[np.float64]
    colours: NDArray[np.float64] | None
    uv: NDArray[np.float64]
    faces: NDArray[np.int64]
    place: NDArray[np.int64]
    note: Callable[[str], None]
    bare: int = 0  # faces whose material has an image and which have no coordinates
    shown: int = 0  # faces on which an image is

    def parts(self, mine: NDArray[np.bool_], material: _Material | None, files: Files) -> Iterator[ObjPart]:
        if material is not None and material.image is not None:
            on = mine & (self.place >= 0).all(1)
            self.bare += int((mine & ~on).sum())
            self.shown += int(on.sum())
            if on.any() and material.tinted:
                self.note("the colour Kd beside a texture is not applied: exporters leave one there")
            if on.any():
                yield self._part(on, lambda _used, _faces: self._textured(on, material.image, files))
            mine = mine & ~on
        if mine.any():
            yield self._part(mine, lambda used, faces: self._coloured(used, faces, material))

    def say(self) -> None:
        """Raises AssetError: no face with a texture has coordinates."""
        if self.bare and not self.shown:
            raise AssetError("it names a texture, but its faces have no texture coordinates: export it again")
        if self.bare:
            self.note(f"{self.bare} of {self.bare + self.shown} faces with a texture have no coordinates for it")

    def _part(self, mine: NDArray[np.bool_], surface: Callable[[NDArray, NDArray], Surface]) -> ObjPart:
        used, faces = np.unique(self.faces[mine], return_inverse=True)
        faces = faces.reshape(-1, 3)
        return ObjPart(self.vertices[used], faces, surface(used, faces))

    def _textured(self, mine: NDArray[np.bool_], image: _Image | None, files: Files) -> Surface:
        assert image is not None
        content = image_of(image.name, files)
        uv = self.uv[self.place[mine]] * image.scale + image.offset
        return Surface(np.ones((len(uv), 3, 4), np.float32), finite(uv), content, image.sampler)

    def _coloured(self, used: NDArray, faces: NDArray, material: _Material | None) -> Surface:
        if self.colours is not None:
            rgba = self.colours[used]
            # Beside a material, white says nothing.
            if material is None or not (rgba[~np.isnan(rgba)] == 1).all():
                return Surface(corners(np.where(np.isnan(rgba), [*[UNCOLOURED] * 3, 1], rgba), faces))
        return plain(faces, UNCOLOURED if material is None or material.colour is None else material.colour)


def image_of(name: str, files: Files) -> NDArray[np.uint8]:
    """Pixels of an image that a mesh file names. Raises AssetError."""
    try:
        return pixels(open_image(files.get(name)))
    except AssetError as error:
        raise AssetError(f"the image {name} cannot be used: {error}") from error


def _lines(text: str, note: Callable[[str], None]) -> _Text:
    found, material = _Text(), None
    for line in _normal(text).split("\n"):
        key, _, rest = line.partition(" ")
        key = key.lower()
        if key == "v":
            found.vertices.append(rest)
        elif key == "vt":
            found.coordinates.append(rest)
        elif key == "f":
            found.faces.append((_bare(rest).split(), material, len(found.vertices), len(found.coordinates)))
        elif key == "usemtl":
            material = rest
        elif key == "mtllib":
            found.libraries.append(rest)
        elif key == _PAINT:
            found.paint.append(rest)
        elif key in _UNDRAWN:
            note(_UNDRAWN[key])
    return found


def _normal(text: str) -> str:
    """One space between words, one line feed between lines; lines that go on are joined."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace("\\\n", " ")
    text = re.sub(r"  +", " ", re.sub(r"[^\S\n ]", " ", text))  # twice, as most spaces need nothing
    return text.replace(" \n", "\n").replace("\n ", "\n").strip(" ")


def _bare(line: str) -> str:
    """Without a comment; in lines of names a # can be part of the name."""
    return line.partition("#")[0]


def _numbers(lines: list[str], width: int, what: str) -> NDArray[np.float64]:
    """[N, width]: the first numbers of each line, 0 where there are fewer than two coordinates."""
    rows = _rows(lines, width)
    if what == "texture coordinates":
        rows = [[*row, "0"][:width] for row in rows]
    if any(len(row) < width for row in rows):
        raise AssetError(f"a line of {what} has fewer than {width} numbers: export it again")
    try:
        return np.array(rows, np.float64).reshape(-1, width)
    except ValueError as error:
        raise AssetError(f"a line of {what} has something other than decimal numbers ({error})") from error


def _rows(lines: list[str], stop: int, start: int = 0) -> list[list[str]]:
    """Some words of each line."""
    return [(line if "#" not in line else _bare(line)).split(" ", stop)[start:stop] for line in lines]


def _vertices(lines: _Text, note: Callable[[str], None]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Positions [V, 3] and colours [V, 4], NaN where a vertex has none; None where none has one."""
    vertices = _numbers(lines.vertices, 3, "vertices")
    rows = _rows(lines.vertices, 6, 3)
    there = np.array([len(row) == 3 for row in rows], bool)
    colours = np.full((len(rows), 4), np.nan)
    if there.any():
        given = _numbers([" ".join(row) for row in rows if len(row) == 3], 3, "colours")
        colours[there] = unit_rgba(given, note)
    elif lines.paint:
        digits = "".join(lines.paint)
        try:
            given = np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(-1, 4)[:, 1:]
        except ValueError as error:
            raise AssetError("its colours of ZBrush (#MRGB) are not hexadecimal: export it again") from error
        there[: len(given)] = True
        colours[there] = unit_rgba(given[: len(rows)], note)
    if not there.any():
        return vertices, None
    if not there.all():
        note(f"{(~there).sum()} of {len(there)} vertices have no colour and are shown grey")
    return vertices, colours


def _references(lines: _Text, refs: list[str], sizes: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Vertices and texture coordinates of corners, from 0; -1 for no coordinates."""
    text = " ".join(refs)
    form = next((columns for form, columns in _FORMS.items() if form.fullmatch(text)), 0)
    try:
        if form:  # all alike, and many
            corner, place = np.array(text.replace("/", " ").split(), np.int64).reshape(-1, form).T[:2]
        else:
            split = [ref.split("/") for ref in refs]
            corner = np.array([int(one[0]) for one in split], np.int64)
            place = np.array([int(one[1]) if len(one) > 1 and one[1] else 0 for one in split], np.int64)
    except (ValueError, OverflowError) as error:
        raise AssetError(f"a face is not made of whole numbers ({error}): export it again") from error
    if (corner == 0).any():
        raise AssetError("a face has the index 0, and OBJ counts from 1: export it again")
    before = np.array([face[2:] for face in lines.faces], np.int64).reshape(-1, 2)
    vertices, coordinates = np.repeat(before, sizes, axis=0).T
    corner = np.where(corner < 0, corner + vertices, corner - 1)
    return corner, np.where(place < 0, np.maximum(place + coordinates, -1), place - 1)


def _names(lines: _Text, materials: Mapping[str, _Material], note: Callable[[str], None]) -> list[str | None]:
    """Of each face its material, None where it has none.

    Raises:
        AssetError: a material is not in the libraries.
    """
    names = [face[1] for face in lines.faces]
    unknown = next((name for name in names if name is not None and name not in materials), None)
    if unknown is not None and lines.libraries:
        raise AssetError(f"its material {unknown} is not in its .mtl file: export both again")
    if unknown is not None:
        note("it has materials, but names no .mtl file: they are not shown")
    without = names.count(None)
    if not without or not materials:
        return names
    if without == len(names) and len(materials) == 1:
        note("its faces name no material: they are shown in the only one")
        return [*materials] * len(names)
    if without == len(names):
        raise AssetError("its faces name none of its materials: export it again")
    note(f"{without} of {len(names)} faces name no material and are shown grey")
    return names


# ------------------------------------------------------------------------------------------------- material libraries


def _materials(libraries: list[str], files: Files, note: Callable[[str], None]) -> dict[str, _Material]:
    """By name, of all libraries that the lines name: a line is one name with spaces, or several names."""
    found: dict[str, _Material] = {}
    for line in dict.fromkeys(libraries):
        names = [line] if files.find(_unquoted(line)) else line.split(" ")
        if not all(files.find(_unquoted(name)) for name in names):
            names = [line]  # the message has it whole
        for name in names:
            text = files.get(_unquoted(name)).decode("utf-8", errors="replace")
            found = {**_library(text, note), **found}
    return found


def _library(text: str, note: Callable[[str], None]) -> dict[str, _Material]:
    found: dict[str, _Material] = {}
    name = None
    for line in _normal(text).split("\n"):
        key, _, rest = line.partition(" ")
        key = key.lower()
        if key == "newmtl":
            name = rest
            found.setdefault(name, _Material())
        elif name is None:
            continue
        elif key == "kd":
            found[name] = replace(found[name], colour=_colour(_bare(rest)))
        elif key == "map_kd" and rest:
            found[name] = replace(found[name], image=_image(rest, note))
        else:
            _note_others(key, rest, note)
    return found


def _note_others(key: str, rest: str, note: Callable[[str], None]) -> None:
    """What a material says of emission and opacity, which are not shown."""
    values = [float(word) for word in _bare(rest).split() if _NUMBER.fullmatch(word)]
    if key == "ke" and any(values):
        note("emission of its materials (Ke) is not shown")
    elif key in ("map_ke", "map_ka", "map_d"):
        note(f"the map {key} of its materials is not shown")
    elif (key == "d" and values and values[-1] < 1) or (key == "tr" and any(values)):
        note("its materials are partly transparent (d, Tr) and are shown opaque")


def _colour(text: str) -> tuple[float, ...]:
    words = text.split()
    if not 0 < len(words) <= 3 or not all(_NUMBER.fullmatch(word) for word in words):
        raise AssetError(f"a material has the colour 'Kd {text}', which is not read: give red, green and blue")
    values = np.clip([float(word) for word in words], 0, 1).tolist()
    return tuple(values * 3)[:3] if len(values) == 1 else tuple([*values, 0.0][:3])


def _image(text: str, note: Callable[[str], None]) -> _Image:
    """What `map_Kd -s 2 2 1 -clamp on wood.png` says."""
    words, found = text.split(" "), _Image("")
    while len(words) > 1 and words[0].startswith("-") and words[0][1:].lower() in _OPTIONS:
        option = words.pop(0)[1:].lower()
        count = _OPTIONS[option]
        if option in "ost":
            count = next((i for i, word in enumerate(words[:3]) if not _NUMBER.fullmatch(word)), count)
        values, words = words[:count], words[count:]
        if option in ("s", "o"):
            rest = 1.0 if option == "s" else 0.0
            pair = (float(values[0]) if values else rest, float(values[1]) if len(values) > 1 else rest)
            found = replace(found, scale=pair) if option == "s" else replace(found, offset=pair)
        elif option == "clamp" and values == ["on"]:
            found = replace(found, sampler=Sampler((CLAMP, CLAMP)))
        elif option in ("mm", "t", "cc", "imfchan"):
            note(f"the option -{option} of a texture is not applied")
    return replace(found, name=_unquoted(" ".join(words)))


def _unquoted(name: str) -> str:
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name
