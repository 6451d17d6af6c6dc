"""The last table of a dry run: what the run will be able to show, by recorded variances, and what more costs."""

from __future__ import annotations

from pathlib import Path

import pytest
from plans import planned

from mdtbench.harness.driver.cost import costs, plan_summary
from mdtbench.results.recorded import Record, Recording, file_of, to_json
from mdtbench.results.variances import Components
from mdtbench.results.verdicts import ALPHA, number

PRESET = Path(__file__).parents[3] / "harness" / "presets" / "smoke.toml"


@pytest.fixture
def preset(tmp_path: Path) -> str:
    """A preset of one's own, with recorded variances of two columns of structures."""
    path = tmp_path / "mine.toml"
    path.write_text(PRESET.read_text(encoding="utf-8"), encoding="utf-8")
    common = {"stage": "structure", "steps": 1, "metric_version": version_of("FD_tiny2d"), "generation_seeds": 3}
    common |= {"training": 0.5, "unit": 2.0, "rest": 1.0, "trainings": 3, "assets": 24}
    records = (
        Record(metric="FD_tiny2d", over="generation seeds", **common),
        Record(metric="ULIP_tiny", over="assets", **common | {"metric_version": version_of("ULIP_tiny")}),
    )
    recording = Recording(run_id="r0", date="2026-11-30", world="other", methods=("cm", "vm"), records=records)
    file_of(str(path)).write_text(to_json(recording), encoding="utf-8")
    return str(path)


def version_of(metric: str) -> int:
    return next(one.version for one in planned().metrics if one.name == metric)


def section(preset: str, **options) -> list[str]:
    lines = plan_summary(planned(preset=preset, **options), 2, []).splitlines()
    [start] = [i for i, line in enumerate(lines) if line.startswith("smallest difference")]
    return lines[start:]


def test_planned_and_larger_runs_by_recorded_variances(preset: str):
    lines = section(preset, train_seeds=(0, 1, 2), limit=12)
    assert lines[0].endswith("of 2 methods at 1 step")
    known = Components(0.5, 2.0, 1.0)
    # 12 of the test assets; of a distance, recorded at 24, the noise is doubled, its units are the 3 generation seeds
    fd, ulip = (
        next(line.split() for line in lines if line.strip().startswith(name)) for name in ("FD_tiny2d,", "ULIP_tiny (")
    )
    assert ulip[-3:] == [number(known.smallest(*shape, 2, ALPHA)) for shape in ((3, 12), (3, 24), (9, 12))]
    sizes = (known.with_assets(0.5), (3, 3)), (known, (3, 3)), (known.with_assets(0.5), (9, 3))
    assert fd[-3:] == [number(one.smallest(*shape, 2, ALPHA)) for one, shape in sizes]
    assert "(x100)," in ulip


def test_columns_that_nothing_is_known_of_are_unknown(preset: str):
    lines = section(preset)
    [iou] = [line.split() for line in lines if line.strip().startswith("IoU_truth")]
    assert iou[-1] == "unknown"
    assert "  unknown: no recorded variances for this column" in lines
    assert any("mine.variances.json, of run r0 (2026-11-30; methods cm, vm)" in line for line in lines)
    assert any("other networks" in line for line in lines)
    assert any("One training seed is planned" in line for line in lines)
    file_of(preset).unlink()
    without = section(preset)
    assert not any("mine.variances" in line for line in without)
    assert any("`mdtbench report RUN --format power`" in line for line in without)


def test_what_more_costs(preset: str):
    plan, more = (planned(preset=preset, train_seeds=seeds) for seeds in ((0,), (0, 1, 2)))
    [minutes] = [line.split()[-3:] for line in section(preset) if line.strip().startswith("minutes")]
    (now,), (longer,) = costs(plan), costs(more)
    assert minutes == [f"{30 * hours:,.1f}" for hours in (now.total, 2 * now.total - now.training, longer.total)]


def test_without_two_methods_there_is_nothing_to_show():
    assert "smallest difference" not in plan_summary(planned(methods=("vm",)), 2, [])
