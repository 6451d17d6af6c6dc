"""`mdtbench run`: settings, students, cells, rows. Every result is a file that a second call finds.

OUT/students/, students.jsonl    trained networks, their logs and costs
OUT/store/                       what cells made, and what was seen and measured of it, by digests of all inputs
OUT/rows.jsonl, assets.jsonl     measured values, and those of single assets
OUT/sweep.json, expected.json    settings that were tried; lines beside the paper's, where the protocol is calibrated
OUT/grid.png, failures.csv       pictures; assets that could not be used or made
OUT/export/                      files of whole assets, for the pages of the report
OUT/manifest.json                what was run, by what; with its times last
OUT/tensorboard, wandb, mlflow   where trackers are asked for
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...base.errors import MissingError, UsageError
from ...base.files import read_json, write_json
from ...base.text import counted
from ...metrics.official.weights import RANDOM
from ...results.asset_values import write_asset_values
from ...results.evaluation_tables import RANDOM_MARK
from ...results.frames import assets_frame, rows_frame, to_rows
from ...results.merge import flat
from ...results.report import RunResults
from ...results.rows import Row, write_rows
from ...results.students import StudentRecord, write_students
from ...results.sums import SUMS, damaged, write_sums
from ...results.sweep import SWEEP_FILE, write_sweeps
from ...trellis.kernels import use_kernels
from ..engine.device import is_cpu, settle
from ..engine.engine import Engine
from ..engine.jobs import until_there
from ..engine.provenance import provenance
from ..engine.tracking import Board, tracking
from ..inputs.subjects import open_tests, shows_of
from ..measure.extractors import extractors_of
from ..measure.rows import joined, stamp
from ..plan.plan import Cell, Plan
from ..protocol.values import Stage
from ..settings.kernels import in_use, kernels_of
from ..settings.methods import Entrant
from ..train.loop import Failure
from .export import Exports, export
from .export_folder import FAILURES, write_failures
from .grid import write_grid
from .lock import driving
from .measuring import Measuring, everything, extractor_names, other_assets, usable
from .ranges import Expected, expected_of
from .students import Weights, records, stage_seconds, train_students, trainings
from .sweep import Swept, sweep

MANIFEST, STORE, EXPECTED, GRID = "manifest.json", "store", "expected.json", "grid.png"
SHOWN = 4  # failures of a kind on the screen
COLUMNS = 10  # assets in the picture grid
LONGEST = 60  # letters of a value in a message
NO_MATTER = ("config.pretrain", "config.estimate", "config.places.weights", "config.places.downloads")


@dataclass(frozen=True)
class Options:
    """What changes no result.

    Attributes:
        exports: files to write of whole assets. track: trackers to write to.
        ranks: processes that train one student.
        overwrite: whether a finished run of another configuration in the folder may be replaced.
    """

    out: Path
    cache: Path
    exports: Exports = field(default_factory=Exports)
    track: tuple[str, ...] = ()
    ranks: int = 1
    overwrite: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run produced.

    Attributes:
        failures: (asset, reason) of test assets that could not be used.
        failed_students: by folder.
        notes: (asset, what was not taken from its file as the file says) of test assets.
    """

    results: RunResults
    failures: tuple[tuple[str, str], ...]
    failed_students: Mapping[str, Failure]
    expected: Expected | None = None
    asset_failures: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    def text(self, out: Path) -> str:
        """The last lines of a run: how many assets count, which do not and why, where everything is."""
        rows = self.results.rows
        measured = rows[rows["seed"].notna() & (rows["status"] == "ok") & rows["wall_s"].isna()]
        worst = measured.assign(share=measured["n_ok"] / measured["n_total"]).sort_values("share", kind="stable")
        counts = worst[["n_ok", "n_total"]].head(1).itertuples(index=False)
        lines = [f"{ok}/{total} assets measured (in the line that lost most)." for ok, total in counts]
        lines += listed("asset", "could not be used", [f"{asset}: {reason}" for asset, reason in self.failures])
        told = [f"{asset}: {note}" for asset, note in self.notes]
        lines += listed("test asset", "with notes", told, "assets.jsonl")
        made = [f"{line}: {asset}: {reason}" for line, asset, reason in self.asset_failures]
        lines += listed("generated asset", "failed", made)
        failed = self.failed_students.items()
        why = [f"{folder} {'lost' if one.lost else 'failed'}: {one.reason}" for folder, one in failed]
        lines += listed("student", "failed or lost", why, f"mdtbench show {out}")
        lines.append(f"Rows, picture grid and manifest: {out}")
        head = self.expected.text() if self.expected else ""
        return head + "\n".join(lines) + "\n"


def listed(what: str, fate: str, reasons: Sequence[str], where: str = "failures.csv") -> list[str]:
    """How many there are and what became of them, the first few, and where the others are."""
    if not reasons:
        return []
    rest = [f"  ... and {len(reasons) - SHOWN} more: {where}"] if len(reasons) > SHOWN else []
    return [f"{counted(len(reasons), what)} {fate}:", *(f"  {one}" for one in reasons[:SHOWN]), *rest]


def check_folder(plan: Plan, out: Path, *, overwrite: bool) -> None:
    """Raises UsageError when the folder holds a finished run of another configuration; names the differences."""
    found = _finished(out)
    if overwrite or found is None or found.get("key") == plan.key:
        return
    differences = _differences(found, manifest(plan))
    raise UsageError(
        f"{out} holds a finished run of another setup ({'; '.join(differences[:6]) or 'other code or assets'}). "
        "Give another --out, or --overwrite to replace it."
    )


def _finished(out: Path) -> dict[str, Any] | None:
    path = out / MANIFEST
    if not path.is_file():
        return None
    try:
        found = read_json(path)
    except MissingError:  # cut short by a crash of the machine
        return None
    return found if isinstance(found, dict) and "finished_s" in found else None


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    sections = ("config", "methods", "train_seeds", "test", "world_sha256", "protocol", "device")
    before, now = (flat({name: one.get(name) for name in sections}) for one in (there, here))
    keys = dict.fromkeys([*before, *now])
    return [
        f"{key}: {_cut(before.get(key, 'none'))} there, {_cut(now.get(key, 'none'))} here"
        for key in keys
        if before.get(key) != now.get(key) and not key.startswith(NO_MATTER)
    ]


def _cut(value: object) -> str:
    """For a message of one line."""
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def run(plan: Plan, options: Options, engine: Engine) -> Outcome:
    """Do a plan in a folder; what is there is used.

    Raises:
        UsageError: another driver, or a finished run of another configuration, is in the folder.
        MissingError: fewer than two test assets can be used, or files are absent or damaged.
    """
    check_folder(plan, options.out, overwrite=options.overwrite)

    def attempt() -> Outcome:
        with tracking(options.track, options.out, plan.run_id) as board:
            return _run(plan, options, engine, board)

    with driving(options.out):
        return until_there(attempt, engine.team.reporter.note)


def _run(plan: Plan, options: Options, engine: Engine, board: Board) -> Outcome:
    out, cache, store, started = options.out, options.cache, options.out / STORE, time.time()
    make_again(out, engine.team.reporter.note)
    write_json(out / MANIFEST, manifest(plan) | provenance() | {"started_s": started})
    board.settings(manifest(plan))
    torch.set_num_threads(1)  # as the workers: what is measured here must round the same way everywhere
    use_kernels(kernels_of(plan.config.gpu))
    if not is_cpu(plan.device):
        settle(plan.device)
    section = plan.config.places
    root = Path(section.weights).expanduser()
    weights = Weights(out, root, plan.world.folder, plan.protocol.values.sampler.weights == "ema")
    measuring = _opened(plan, cache, store, engine, weights)
    unusable = [("test", *failure) for failure in (*measuring.tests.failures, *measuring.tests.dropped)]
    write_failures(out / FAILURES, unusable, "where")
    plan, swept, failures = _decided(plan, options, store, engine, weights, board)
    measuring = Measuring(
        plan, store, cache, measuring.tests, measuring.others, measuring.everything, measuring.extractors, weights
    )
    board.follow(trainings(plan, plan.students, out))
    failures |= train_students(
        plan, [s for s in plan.students if s.folder not in failures], out, engine, "distil", options.ranks
    )
    trained = records(plan, out, failures)
    write_students(out, trained)
    _check_any(plan, failures)
    cells = list(plan.cells)
    common = {"run_id": plan.run_id, "split": "test", "config_sha": plan.key, **stamp(plan.device)}
    found = joined(measuring.measure(engine, cells, failures, common))
    sound = [cell for cell in cells if not any(student.folder in failures for student in cell.students)]
    good = [cell for cell in sound if measuring.scores(cell).done]
    _pictures(measuring, good, options, engine)
    outcome = _written(plan, options, measuring, found.rows, found.assets, trained, swept, failures, started)
    board.picture("grid", out / GRID)
    board.rows(to_rows(outcome.results.rows))
    return outcome


def _check_any(plan: Plan, failures: Mapping[str, Failure]) -> None:
    """Raises UsageError when plug-ins' mistakes left no student: the teacher's lines alone are not worth the time."""
    found = [failures.get(student.folder) for student in plan.students]
    if found and all(failure and failure.mistake for failure in found):
        first = next(failure.reason for failure in found if failure)
        raise UsageError(f"No student is left, all {len(found)} failed by their method's code: {first}. Correct it.")


def make_again(out: Path, tell: Callable[[str], None]) -> None:
    """Remove what an earlier call finished and what is damaged now; all else of it is written anew in any case."""
    try:
        for name, reason in list(damaged(out)):  # all are judged before any goes
            tell(f"{out / name} is damaged: {reason}. It is made again.")
            student = Path(name).parts[:2]
            path = out / Path(*student, "student.safetensors") if student[0] == "students" else out / name
            path.unlink(missing_ok=True)
    except MissingError as error:
        tell(str(error))
    (out / SUMS).unlink(missing_ok=True)  # until all files are those of this call


def _opened(plan: Plan, cache: Path, store: Path, engine: Engine, weights: Weights) -> Measuring:
    """The test assets, and what they are looked at with."""
    config = plan.config
    ids = [asset.id for asset in plan.test.assets()[: plan.limit]] if config.places.conditions else []
    shows = shows_of(config.places, plan.test, plan.world.file, ids)
    tests = open_tests(
        plan.test, shows, plan.world.file, plan.protocol, cache, engine,
        limit=plan.limit, occupancy=plan.needs_occupancy,
    )  # fmt: skip
    folder = Path(config.places.weights).expanduser()
    extractors = extractors_of(extractor_names(plan.metrics), config.protocol, plan.world, folder, plan.device)
    measuring = Measuring(plan, store, cache, tests, None, {}, extractors, weights)
    tests = usable(measuring, engine) if len(tests.subjects) > 1 else tests
    if len(tests.subjects) < 2:
        reason = next((why for _, why in (*tests.failures, *tests.dropped)), "there are no more")
        raise MissingError(
            f"{len(tests.subjects)} of {counted(tests.total, 'test asset')} can be used; at least 2 are needed. "
            f"First reason: {reason}."
        )
    others = other_assets(plan, len(tests.subjects), cache, engine)
    return Measuring(plan, store, cache, tests, others, everything(plan, cache, engine), extractors, weights)


def _decided(
    plan: Plan, options: Options, store: Path, engine: Engine, weights: Weights, board: Board
) -> tuple[Plan, Swept, dict[str, Failure]]:
    """The plan with all that is found before the trainings; failures of students that need not be tried."""
    if plan.config.train.budget == "seconds":
        plan = plan.timed(stage_seconds(plan, options.out, engine))
    tried = [trial.student for stage in plan.stages for trial in plan.trials(stage)]
    board.follow(trainings(plan, tried, options.out))
    swept = sweep(plan, options.out, options.cache, store, weights, engine, options.ranks)
    if not swept.records:
        (options.out / SWEEP_FILE).unlink(missing_ok=True)  # of an earlier call with other settings
        return plan, swept, {}
    write_sweeps(options.out, swept.records)
    plan = plan.settled(swept.chosen)
    hopeless = {student.folder: swept.hopeless.get((student.stage, student.who.label)) for student in plan.trained}
    return plan, swept, {**swept.failures, **{folder: failure for folder, failure in hopeless.items() if failure}}


def _pictures(measuring: Measuring, cells: Sequence[Cell], options: Options, engine: Engine) -> None:
    """The picture grid, and files of assets."""
    write_grid(options.out / GRID, measuring, cells, COLUMNS)
    whole = [cell for cell in cells if cell.slat]
    if options.exports.of_all:
        export(measuring, whole, engine, options.out, options.exports)


def _written(
    plan: Plan,
    options: Options,
    measuring: Measuring,
    rows: Sequence[Row],
    assets: Sequence[Any],
    trained: Sequence[StudentRecord],
    swept: Swept,
    failures: Mapping[str, Failure],
    started: float,
) -> Outcome:
    out, tests = options.out, measuring.tests
    expected = expected_of(plan, rows)
    rows = expected.noted(rows, _of_all_lines(measuring)) if expected else rows
    asset_failures = tuple((_maker(one), one.asset, one.error) for one in assets if one.error)
    unusable = (*tests.failures, *tests.dropped)
    write_failures(out / FAILURES, [*(("test", *failure) for failure in unusable), *asset_failures], "where")
    write_asset_values(out, assets)  # first: no rows stand beside the values of an earlier call
    write_rows(out / "rows.jsonl", rows)
    (out / EXPECTED).unlink(missing_ok=True)  # of an earlier call with another protocol
    if expected:
        write_json(out / EXPECTED, expected.record())
    times = {"started_s": started, "finished_s": time.time()}
    write_json(out / MANIFEST, manifest(plan) | provenance() | {"test_ids": list(tests.ids)} | times)
    write_sums(out)
    results = RunResults(rows_frame(rows), trained, swept.records, assets=assets_frame(assets))
    notes = {one.asset: one.note for one in assets if one.note}
    return Outcome(results, unusable, failures, expected, asset_failures, tuple(notes.items()))


def _of_all_lines(measuring: Measuring) -> list[str]:
    """What a reader must know of all lines that are beside the paper's."""
    tests, section = measuring.of("assets"), measuring.plan.config.protocol
    told = [f"all lines: {counted(len(tests.subjects), 'asset')} of '{tests.name}', drawn by {tests.drawn_by}"]
    if section.extractors == RANDOM:
        told.append(f"{RANDOM_MARK}: extractors with random weights, whose numbers mean nothing")
    return told


def _maker(value: Any) -> str:
    return f"{value.method}{':' * bool(value.variant)}{value.variant} {value.steps} ({value.stage}, seed {value.seed})"


def manifest(plan: Plan) -> dict[str, Any]:
    """What was run; how it was done comes beside it."""
    entrants = {line.label: line.who for line in plan.lines}
    return {
        "run_id": plan.run_id,
        "key": plan.key,
        "preset": plan.preset,
        "command": list(plan.command),
        "config": plan.config.model_dump(mode="json"),
        "protocol": {"name": plan.protocol.name, "sha256": plan.protocol.sha256},
        "methods": {
            label: {"version": who["structure"].version, "parameters": _spelled(who), "code": who["structure"].code}
            for label, who in entrants.items()
        },
        "train_seeds": list(plan.train_seeds),
        "seeds": list(plan.run_seeds),
        "test": {"source": plan.test.name, "sha256": plan.test.digest(), "limit": plan.limit},
        "world_sha256": plan.world.digest,
        "device": plan.device,
        "kernels": {what: str(one) for what, one in in_use(plan.device, kernels_of(plan.config.gpu)).items()},
    }


def _spelled(who: Mapping[Stage, Entrant]) -> str:
    """A method's parameters, of each stage where they differ."""
    texts = {stage: repr(one.method) for stage, one in who.items()}
    different = len(set(texts.values())) > 1
    return "; ".join(f"{stage}: {text}" for stage, text in texts.items()) if different else texts["structure"]
