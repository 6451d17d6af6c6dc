"""A run as data frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame
    from pandas.io.formats.style import Styler

MARK = "font-weight: bold"


def load(folder: str | Path) -> Run:
    """A run by its folder: of `mdtbench run`, `evaluate` or `import`.

    Raises:
        MissingError: there is no finished run.
    """
    from mdtbench.base.errors import MissingError  # pyright: ignore[reportMissingImports]

    if not (Path(folder) / "rows.jsonl").is_file():
        raise MissingError(f"There is no finished run in {folder}. Make one with `mdtbench.run`, or name its folder.")
    return Run(Path(folder))


@dataclass(frozen=True)
class Run:
    """What a run's folder holds. Files are read when they are asked for, and checked."""

    folder: Path

    @cached_property
    def rows(self) -> DataFrame:
        """One line per measured value, failures too (`status`); docs/rows.md explains the columns."""
        from mdtbench.results import frames  # pyright: ignore[reportMissingImports]

        return frames.rows(self.folder)

    @cached_property
    def assets(self) -> DataFrame:
        """One line per asset, cell and metric: what averages are made of. Empty for runs without such values."""
        from mdtbench.results import frames  # pyright: ignore[reportMissingImports]

        return frames.assets(self.folder)

    @cached_property
    def curves(self) -> DataFrame:
        """One line per logged training step of each student: loss and the method's diagnostics."""
        from mdtbench.results import frames  # pyright: ignore[reportMissingImports]

        return frames.curves(self.folder)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Command, configuration, seeds, digests, versions, machine."""
        from mdtbench.results.manifest import read_manifest  # pyright: ignore[reportMissingImports]

        return dict(read_manifest(self.folder / "manifest.json"))

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables, for `table` and `frame`."""
        return tuple(self._tables)

    def frame(self, which: int | str, of: str = "value") -> DataFrame:
        """A table as numbers: a line per method and number of steps, a column per metric.

        Args:
            which: Its number, as in "Table 2", or its name.
            of: "value", "sd" (over generation seeds), "sd_train" (over training seeds), or "text": as printed.
        """
        return self._table(which).frame(of)

    def table(self, which: int | str) -> Styler:
        """A table as it is printed, for notebooks: what is marked is bold. `.data` is its frame."""
        table = self._table(which)
        text = table.frame("text")
        headings = {column.key: column.heading for column in table.columns}
        style = text.style.format(escape="html").set_caption(table.title)
        style = style.apply(_styles, axis=None, marks=table.frame("best"))
        return style.relabel_index([headings[key] for key in text.columns], axis="columns")

    @cached_property
    def _tables(self) -> dict[str, Any]:
        from mdtbench.results.report import read_run, tables  # pyright: ignore[reportMissingImports]

        return {table.name: table for table in tables(read_run(self.folder))}

    def _table(self, which: int | str) -> Any:
        from mdtbench.base.errors import unknown_name  # pyright: ignore[reportMissingImports]

        name = f"table_{which}" if isinstance(which, int) else which
        if name not in self._tables:
            raise unknown_name("table", name, self._tables)
        return self._tables[name]


def _styles(_: DataFrame, marks: DataFrame) -> DataFrame:
    """CSS where a mark is set; labels are text there and get none."""
    return marks.map(lambda mark: "" if isinstance(mark, str) or not mark else MARK)
