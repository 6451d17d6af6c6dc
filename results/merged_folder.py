"""Several runs as the folder of one, for reports that read a run's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from ..base.files import write_json
from .asset_values import read_asset_values, write_asset_values
from .exported import EXPORT, EXPORTS
from .frames import to_rows
from .manifest import read_manifest
from .merge import read_runs
from .rows import write_rows
from .students import write_students
from .sweep import write_sweeps


@contextmanager
def merged_folder(folders: Sequence[Path]) -> Iterator[Path]:
    """A folder with the rows, students, training logs and values of assets of all runs, there while it is needed.

    Files of whole assets are those of all runs, of equal lines those of the first. The manifest holds all of theirs.

    Raises:
        MissingError: a run has no rows, or a file of it is damaged.
        UsageError: the runs cannot be in one table.
    """
    results = read_runs(folders)
    with TemporaryDirectory(prefix="mdtbench-") as root:
        into = Path(root) / " + ".join(folder.resolve().name for folder in folders)
        into.mkdir()
        write_rows(into / "rows.jsonl", to_rows(results.rows))
        write_students(into, results.students)
        if results.sweeps:
            write_sweeps(into, results.sweeps)
        write_asset_values(into, chain.from_iterable(read_asset_values(folder) for folder in folders))
        _link(into, folders)
        files = [folder / "manifest.json" for folder in folders if (folder / "manifest.json").is_file()]
        manifests = {file.parent.resolve().name: read_manifest(file) for file in files}
        write_json(into / "manifest.json", {"notes": results.notes, "runs": manifests})
        yield into


def _link(into: Path, folders: Sequence[Path]) -> None:
    """Names of students' folders are digests of all that made them, so equal names are equal students."""
    (into / "students").mkdir()
    for student in chain.from_iterable(sorted(folder.glob("students/*")) for folder in folders):
        link = into / "students" / student.name
        if not link.exists():
            link.symlink_to(student.resolve(), target_is_directory=True)
    exports = [str((folder / EXPORT).resolve()) for folder in folders if (folder / EXPORT).is_dir()]
    if exports:
        write_json(into / EXPORTS, exports)
