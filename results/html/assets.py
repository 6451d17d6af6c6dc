"""Pages of single assets: a grid of all of them, and one page each with its pictures, meshes and values."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment

from ...base.files import write_text
from ...base.groups import grouped
from ..asset_values import AssetValue
from ..exported import CONDITION, TRUTH, Exported, read_exported
from ..places import Place
from ..rows import BOTH, EVALUATION, WHOLE_ASSETS
from .asset_tables import Layout, by_place, failure, maker_of, mean, spelled, value_tables
from .data import ReportData
from .environment import copy_package_files
from .gallery import COLUMNS, FAILED, NO_PICTURE, Gallery, GalleryRow, Tile, chosen_makers, notes_of
from .media import MEDIA, MediaFolder, Shown, page_name

PAGES: Final = "assets"  # folder of the pages
LIST_PAGE: Final = "assets.html"
GRID: Final = "grid.png"  # in the run's folder
WHOLE: Final = (*WHOLE_ASSETS, EVALUATION)  # stages
CHUNK: Final = 500  # assets per script of the list
LABELS: Final = {CONDITION: "Condition", TRUTH: "Ground truth"}


@dataclass(frozen=True)
class AssetIndex:
    """Where the pages are. pages, thumbnails: by asset id, relative to the report's folder.

    Attributes:
        pictures: by asset id and by folder of exports: of one method's.
        gallery: None where there are no pictures of single assets. grid: the run's own picture of structures then.
    """

    pages: Mapping[str, str]
    thumbnails: Mapping[str, str]
    pictures: Mapping[tuple[str, str], str] = field(default_factory=dict)
    gallery: Gallery | None = None
    grid: str = ""

    @property
    def count(self) -> int:
        return len(self.pages)

    def thumbnail(self, asset_id: str) -> str | None:
        """A small picture of the asset, None where there is none."""
        return self.thumbnails.get(asset_id)

    def picture(self, asset_id: str, maker: str) -> str | None:
        """What one method made of it, None where there is no picture."""
        return self.pictures.get((asset_id, maker))


@dataclass(frozen=True)
class Card:
    """A picture or mesh on an asset's page. maker: its folder of exports. reason: why there is none."""

    maker: str
    label: str
    steps: str
    shown: Shown
    reason: str = ""


@dataclass(frozen=True)
class Subject:
    """All that is known of an asset."""

    id: str
    page: str
    cards: tuple[Card, ...]
    thumbnail: str | None
    values: tuple[AssetValue, ...]
    unusable: str = ""

    @property
    def page_note(self) -> str:
        """Why there is nothing that a method made, where that is so; empty else."""
        shown = {card.maker for card in self.cards if card.shown.picture or card.shown.model or card.reason}
        if shown - {CONDITION, TRUTH} or not self.values:
            return ""
        if any(value.stage in WHOLE for value in self.values):
            return "The run wrote no pictures of what methods made of this asset."
        return "Of this asset structures alone were made; pictures are of whole assets."

    @property
    def why_blank(self) -> str:
        """In the list, where it has no picture."""
        if self.unusable:
            return "cannot be used"
        alone = self.values and not any(value.stage in WHOLE for value in self.values)
        return "structure alone: no picture" if alone else "no picture written"

    @property
    def has_models(self) -> bool:
        return any(card.shown.model for card in self.cards)


def write_asset_pages(data: ReportData, out: Path, env: Environment) -> AssetIndex:
    """Write assets.html, assets/, media/ and vendor/; the folders' earlier content is removed.

    Assets are those of the run's exports, of its values and of its failures; the rest of a page is as much as the
    run has: meshes, pictures, or values alone.

    Args:
        out: folder of the report.

    Raises:
        MissingError: a file of the run is damaged. UsageError: it is of another version.
        RunError: a file cannot be written.
    """
    for folder in (PAGES, MEDIA):
        shutil.rmtree(out / folder, ignore_errors=True)
    layout, subjects = Layout.of(data.rows), _subjects(data, out)
    _write_list(subjects, layout, out, env)
    _write_pages(subjects, layout, out, env)
    if any(subject.has_models for subject in subjects):
        copy_package_files("vendor", out)  # the viewer, with its licence
    thumbnails = {subject.id: subject.thumbnail for subject in subjects if subject.thumbnail}
    pictures = {
        (subject.id, card.maker): card.shown.picture
        for subject in subjects
        for card in subject.cards
        if card.shown.picture
    }
    pages = {subject.id: subject.page for subject in subjects}
    gallery, grid = _gallery(subjects, layout), data.folder / GRID
    placed = MediaFolder(out).placed(grid, f"{MEDIA}/{GRID}") if not gallery and grid.is_file() else ""
    return AssetIndex(pages, thumbnails, pictures, gallery, placed)


def _gallery(subjects: Sequence[Subject], layout: Layout) -> Gallery | None:
    """Of the first assets that somebody made."""
    places = {maker_of(place): place for place in layout.whole}
    tried = [one for one in subjects if any(card.maker in places for card in one.cards)]
    if not any(card.maker in places and card.shown.picture for one in tried for card in one.cards):
        return None
    shown = tried[:COLUMNS]
    cards = {(one.id, card.maker): card for one in shown for card in one.cards}
    there = {card.maker for one in tried for card in one.cards}
    rows = []
    for maker in (maker for maker in chosen_makers(places) if maker in there):
        place = places.get(maker)
        label = place.label if place else LABELS[maker]
        rows.append(GalleryRow(label, _steps(place), tuple(_tile(cards.get((one.id, maker))) for one in shown)))
    assets = tuple((one.id, one.page) for one in shown)
    return Gallery(assets, tuple(rows), notes_of(rows, assets))


def _steps(place: Place | None) -> str:
    if place is None or not place.sampling:
        return ""
    return f"{place.sampling} step{'s' * (place.sampling != '1')}"


def _tile(card: Card | None) -> Tile:
    if card and card.shown.picture:
        return Tile(card.shown.picture)
    return Tile(None, FAILED, card.reason) if card and card.reason else Tile(None, NO_PICTURE)


def _subjects(data: ReportData, out: Path) -> list[Subject]:
    exported, media, layout = read_exported(data.folder), MediaFolder(out), Layout.of(data.rows)
    values = grouped(data.asset_values, lambda value: value.asset)
    unusable = {failed.asset: failed.reason for failed in data.failures if failed.of_truth}
    subjects = []
    for asset_id in dict.fromkeys((*exported.files, *values, *unusable)):
        cards = tuple(_cards(asset_id, exported, media, layout))
        picture = next((card.shown for card in cards if card.shown.picture), Shown())
        subjects.append(
            Subject(
                asset_id,
                f"{PAGES}/{page_name(asset_id)}.html",
                cards,
                media.thumbnail(asset_id, picture),
                tuple(values.get(asset_id, ())),
                unusable.get(asset_id, ""),
            )
        )
    return subjects


def _cards(asset_id: str, exported: Exported, media: MediaFolder, layout: Layout) -> Iterable[Card]:
    """Condition, ground truth, then methods in the order of the run's tables."""
    found = exported.files.get(asset_id, {})
    whole = {maker_of(place): place for place in layout.whole}
    known = [maker for maker in (CONDITION, TRUTH, *whole) if maker in found]
    for maker in (*known, *(maker for maker in found if maker not in known)):
        place = whole.get(maker)
        reason = exported.reasons.get((maker, asset_id), "")
        if found[maker] or reason:
            label = place.label if place else LABELS.get(maker, maker)
            yield Card(maker, label, _steps(place), media.show(maker, asset_id, found[maker]), reason)


def _write_pages(subjects: Sequence[Subject], layout: Layout, out: Path, env: Environment) -> None:
    template = env.get_template("asset.html")
    for i, subject in enumerate(subjects):
        text = template.render(
            root="../",
            subject=subject,
            tables=value_tables(subject.values, layout),
            number=i + 1,
            count=len(subjects),
            before=subjects[i - 1] if i else None,
            after=subjects[i + 1] if i + 1 < len(subjects) else None,
        )
        write_text(out / subject.page, text)


def _write_list(subjects: Sequence[Subject], layout: Layout, out: Path, env: Environment) -> None:
    """The page of all assets. Its data lie in scripts of `CHUNK` assets, so that the first are shown at once."""
    places, metrics = _listed(subjects, layout)
    scripts = []
    for start in range(0, len(subjects), CHUNK):
        scripts.append(f"{MEDIA}/list-{start // CHUNK:03d}.js")
        entries = [_entry(subject, places, metrics) for subject in subjects[start : start + CHUNK]]
        text = json.dumps(entries, separators=(",", ":"), allow_nan=False)
        write_text(out / scripts[-1], f"mdtbenchAssets.push(...{text});\n")
    columns = [layout.columns[metric] for metric in metrics]
    settings = {
        "methods": [place.where for place in places],
        "metrics": [{"title": column.heading, "higher": column.higher_is_better} for column in columns],
    }
    text = env.get_template(LIST_PAGE).render(root="", count=len(subjects), settings=settings, scripts=scripts)
    write_text(out / LIST_PAGE, text)


def _listed(subjects: Iterable[Subject], layout: Layout) -> tuple[list[Place], list[str]]:
    """Places and metrics of the values that the list can sort by: of whole assets where there are any."""
    values = [value for subject in subjects for value in subject.values]
    stages = {value.stage for value in values}
    stage = next((stage for stage in layout.stages if stage in stages), BOTH)
    found = by_place(value for value in values if value.stage == stage)
    present = {metric for value in values if value.stage == stage for metric in value.values}
    return (
        [place for place in layout.stage_places(stage) if place.key in found],
        [metric for metric in layout.columns if metric in present],
    )


def _entry(subject: Subject, places: Sequence[Place], metrics: Sequence[str]) -> dict[str, Any]:
    """What the list knows of an asset; values: [methods][metrics], null where there is none."""
    found = by_place(subject.values)
    lost = [place.where for place in places if failure(found.get(place.key, ()))]
    return {
        "id": subject.id,
        "page": subject.page,
        "picture": subject.thumbnail,
        "blank": "" if subject.thumbnail else subject.why_blank,
        "failed": subject.unusable or ", ".join(lost),
        "values": [[_short(mean(found.get(place.key, ()), metric)) for metric in metrics] for place in places],
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(spelled(value))
