"""A run of tables: students, then cell by cell assets, values and rows, then what they say of the paper's.

OUT/assets/CELL/ID.glb, ID.ply, ID.json    assets, and an account of each
OUT/measured/CELL/                         the evaluation of a cell, all columns
OUT/rows.jsonl                             what `mdtbench report OUT` makes Tables 1, 2 and 3 of; after every cell
OUT/expected.json, failures.csv            each row beside its range; what could not be made or measured, and why
OUT/manifest.json                          what was run, by what; last
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...base.errors import RunError
from ...base.files import digest_of, write_json
from ...results.evaluation_tables import CALIBRATION, SEPARATOR
from ...results.rows import Row, write_rows
from ..device import settle
from ..progress import Reporter
from ..protocol.calibration import Calibration
from ..protocol.values import Stage
from ..provenance import provenance
from .backbone import Backbone, load_backbone
from .generate import Recipe, generate, prune
from .measure import (
    CONTROLS_MADE,
    CellResult,
    Setup,
    cell_key,
    cell_name,
    failed_rows,
    failures_csv,
    keep,
    kept_result,
    measure_cell,
)
from .networks import Networks, evaluated, students, teachers
from .plan import Cell, TablesPlan
from .ranges import Verdict, calibration_of, verdicts, verdicts_text
from .released import FOLDER as RELEASED_FOLDER
from .released import released_networks
from .students import train_students
from .subjects import open_tests

BACKBONE = "trellis-image-large"  # where downloads put it, below the weights
SHOWN = 20  # failures on the screen
SHORT = 12  # digits of a key in names

Trained = Mapping[tuple[str, Stage, int], Path]


@dataclass(frozen=True)
class Outcome:
    """What came out. failed: reason by cell of those without values."""

    rows: tuple[Row, ...]
    calibration: Calibration
    verdicts: tuple[Verdict, ...]
    failures: tuple[tuple[str, str, str], ...]
    failed: Mapping[str, str]

    def text(self, out: Path) -> str:
        """What is printed after the tables."""
        lines = [f"{cell} failed: {reason}" for cell, reason in self.failed.items()]
        if self.failures:
            lines.append(f"{len(self.failures)} failure(s) of single assets, all in failures.csv, such as:")
            lines += [f"  {cell}: {name}: {reason}" for cell, name, reason in self.failures[:SHOWN]]
        lines.append(f"Rows, assets, all columns of each cell (in measured/) and manifest: {out}")
        return verdicts_text(self.verdicts, self.calibration) + "\n".join(lines) + "\n"


@dataclass
class Results:
    """Rows of the cells so far."""

    setup: Setup
    out: Path
    rows: list[Row] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, cell: Cell, result: CellResult) -> None:
        known = {(row.method, row.seed) for row in self.rows if row.method in CONTROLS_MADE}
        fresh = [row for row in result.rows if (row.method, row.seed) not in known]
        self.rows += [row.model_copy(update={"run_id": self.setup.run_id}) for row in fresh]
        self.notes |= dict.fromkeys(result.notes)
        name = cell_name(cell)
        self.failures += [(name, *failure) for failure in result.failures]
        reason = next((row.error for row in result.rows if row.status == "failed"), None)
        self.failed |= {name: reason} if reason else {}
        write_rows(self.out / "rows.jsonl", self.rows)
        failures_csv(self.out / "failures.csv", self.failures)


def run_id(plan: TablesPlan) -> str:
    """Of all that was asked for; where things lie and estimates do not count."""
    config = plan.config.model_dump(mode="json", exclude={"places", "estimate"})
    cells = [[cell.line.row.method, cell.line.row.steps, cell.train_seed, cell.run_seed] for cell in plan.cells]
    return digest_of([config, plan.config.places.test, plan.protocol.sha256, cells, plan.n])[:SHORT]


def run_tables(plan: TablesPlan, out: Path, cache: Path, device: str, count: int, report: Reporter) -> Outcome:
    """Make and measure all cells; what is there from an earlier call is used.

    Args:
        device: where networks compute. count: of worker processes that draw pictures.
    Raises:
        MissingError: weights, test assets or training data are absent or damaged.
        UsageError: places that do not go together.
        RunError: a file cannot be written, or a worker was killed.
    """
    started = time.time()
    settle(device)
    weights = Path(plan.config.places.weights).expanduser()
    tests = open_tests(plan.config, plan.n, cache, report)
    backbone = load_backbone(weights / BACKBONE, device)
    trained = train_students(plan, backbone, out, device, report) if plan.students else {}
    setup = Setup(plan, tests, run_id(plan), cache, device, count, report)
    results = Results(setup, out)
    for cells in _groups(plan):
        try:
            networks = _networks(cells[0], backbone, weights, trained, plan)
        except RunError as error:
            for cell in cells:
                results.add(cell, CellResult(failed_rows(setup, cell, str(error))))
            continue
        for cell in cells:
            results.add(cell, _cell(setup, cell, backbone, networks, out))
    return _finished(results, backbone, {"started_s": started, "finished_s": time.time()})


def _groups(plan: TablesPlan) -> Iterator[list[Cell]]:
    """Cells of the same networks, so that these are read once."""
    groups: dict[tuple[str, int | None], list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault((cell.line.row.method, cell.train_seed), []).append(cell)
    yield from groups.values()


def _networks(cell: Cell, backbone: Backbone, weights: Path, trained: Trained, plan: TablesPlan) -> Networks:
    """Raises RunError when the students' training failed."""
    line = cell.line
    if line.released:
        return released_networks(backbone, weights / BACKBONE, weights / RELEASED_FOLDER)
    if line.who is None or cell.train_seed is None:
        return teachers(backbone)
    files = {stage: trained.get((line.who.label, stage, cell.train_seed)) for stage in ("ss", "slat")}
    if files["ss"] is None or files["slat"] is None:
        missing = ", ".join({"ss": "structure", "slat": "SLAT"}[stage] for stage, file in files.items() if file is None)
        raise RunError(f"training failed: no student of seed {cell.train_seed} ({missing})")
    sampling = plan.protocol.values.sampler
    return students(backbone, evaluated(files["ss"], sampling), evaluated(files["slat"], sampling))


def _cell(setup: Setup, cell: Cell, backbone: Backbone, networks: Networks, out: Path) -> CellResult:
    plan, subjects, name = setup.plan, setup.tests.subjects, cell_name(cell)
    values = setup.tests.protocol.values
    recipe = Recipe(backbone, networks, plan.sampler(cell.line), cell.line.row.steps, values, cell.run_seed)
    assets, folder = out / "assets" / name, out / "measured" / name
    key = cell_key(setup, [recipe.source(subject) for subject in subjects])
    if kept := kept_result(folder, key):
        return kept
    accounts = generate(recipe, subjects, setup.tests.condition, assets, setup.report, name)
    result = measure_cell(setup, cell, accounts, assets, folder)
    if all(row.status == "ok" for row in result.rows):
        keep(folder, key, result)
        limit = plan.config.places.keep_assets
        prune(assets, subjects[limit:] if limit is not None else ())
    return result


def _finished(results: Results, backbone: Backbone, times: Mapping[str, float]) -> Outcome:
    setup, out = results.setup, results.out
    plan, protocol = setup.plan, setup.tests.protocol
    calibration = calibration_of(plan, protocol, results.rows)
    rows = _noted(results.rows, [*results.notes, CALIBRATION + calibration.line.replace(SEPARATOR, " / ")])
    found = verdicts(plan, rows, calibration)
    write_rows(out / "rows.jsonl", rows)
    write_json(out / "expected.json", {"calibration": calibration.line, "rows": [v.record() for v in found]})
    write_json(out / "manifest.json", _manifest(setup, backbone) | {"calibration": calibration.line, **times})
    return Outcome(tuple(rows), calibration, tuple(found), tuple(results.failures), results.failed)


def _noted(rows: Sequence[Row], notes: Sequence[str]) -> list[Row]:
    """With what holds for all lines as the note of the teacher's, which comes first."""
    text = SEPARATOR.join(["of all lines", *notes])
    return [row.model_copy(update={"note": text}) if row.method == "teacher" else row for row in rows]


def _manifest(setup: Setup, backbone: Backbone) -> dict[str, Any]:
    plan, tests = setup.plan, setup.tests
    return {
        "run_id": setup.run_id,
        "config": plan.config.model_dump(mode="json"),
        "methods": {line.row.method: _parameters(line.who) for line in plan.lines},
        "train_seeds": sorted({cell.train_seed for cell in plan.cells if cell.train_seed is not None}),
        "protocol": {"name": tests.protocol.name, "sha256": tests.protocol.sha256},
        "test": {"source": tests.name, "ids": [subject.id for subject in tests.subjects]},
        "backbone_sha256": backbone.digest,
        "device": setup.device,
        **provenance(),
    }


def _parameters(who: Any) -> dict[str, Any]:
    return {} if who is None else {"version": who.version, "parameters": repr(who.method)}
