"""The law of the pictures: what is of it is decided exactly, nothing scores for being empty, a run ends in a table."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from mdtbench.base.files import file_sha256
from mdtbench.harness.oracle import load_oracle_config, plan_oracle, run_oracle
from mdtbench.harness.oracle.exam import answer
from mdtbench.harness.oracle.family import Exam
from mdtbench.harness.oracle.jobs import PairsJob
from mdtbench.harness.oracle.picture_family import COVERAGE, FD, MSE_TEACHER, VALID, Pictures
from mdtbench.harness.oracle.picture_teacher import FILE, trained_teacher
from mdtbench.harness.oracle.pictures import (
    CLASSES,
    DIM,
    GAIN_SD,
    PIXEL_SD,
    PLACES,
    SIDE,
    coverage,
    draw,
    gain_bound,
    modes,
    moments,
    places_of,
    residual_bound,
    scaled,
    unscaled,
)
from mdtbench.methods import METHODS, Method
from mdtbench.metrics.frechet import Moments, frechet_distance
from mdtbench.results.frames import rows_frame
from mdtbench.results.oracle_tables import oracle_tables
from tests.steps import method

SHA = "15fe3918aac5"  # of the shipped weights, first digits
EACH = torch.arange(CLASSES).repeat_interleave(PLACES)  # a class for every mode


def every_mode() -> Tensor:
    return scaled(modes().flatten(0, 1))


def law(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    classes = torch.arange(count) % CLASSES
    return draw(classes, torch.Generator().manual_seed(seed)), classes


def exam(count: int) -> Exam:
    pictures = Pictures.of()
    noise, classes = pictures.questions(count, torch.Generator().manual_seed(1))
    return Exam(pictures, noise, classes, pictures.ends(noise, classes))


def test_a_template_lies_at_each_of_its_places():
    assert places_of(every_mode(), EACH).tolist() == list(range(PLACES)) * CLASSES
    corner = modes()[2, 1].unflatten(0, (SIDE, SIDE))  # the angle, in the first rows and from the fourth column on
    assert corner[:3, 3:6].tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]
    assert corner.sum() == 5


def test_the_law_has_its_constants():
    """Golden values: another template, place or bound is another benchmark."""
    assert modes().sum((1, 2)).tolist() == [45.0, 72.0, 45.0, 45.0]
    assert float(modes().mean()) == pytest.approx(0.08984375)
    assert residual_bound() == pytest.approx(0.160928, rel=1e-5)
    assert gain_bound() == pytest.approx(0.591952, rel=1e-4)
    assert float(scaled(modes()).square().mean()) == pytest.approx(1.0, rel=1e-6)
    picture, _ = law(1)
    assert torch.allclose(unscaled(scaled(picture)), picture, atol=1e-6)


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        (lambda x: torch.zeros_like(x), "the mean of all data"),
        (lambda x: scaled(torch.zeros_like(x)), "empty"),
        (lambda x: scaled(0.3 * unscaled(x)), "too faint"),
        (lambda x: scaled(1.7 * unscaled(x)), "too bright"),
        (lambda x: scaled(-unscaled(x)), "dark in place of bright"),
        (lambda x: scaled(torch.maximum(unscaled(x), unscaled(x).roll(4, 0))), "two templates of one class"),
        (lambda x: scaled((unscaled(x) + unscaled(x).roll(1, 0)) / 2), "half of each of two"),
        (lambda x: scaled(unscaled(x).unflatten(1, (SIDE, SIDE)).roll((1, 1), (1, 2)).flatten(1)), "at no place"),
        (lambda x: x + 0.35, "brighter everywhere"),
        (lambda x: torch.full_like(x, torch.nan), "not finite"),
        (lambda x: torch.full_like(x, torch.inf), "infinite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_of_the_law_is_not_valid(spoilt: Callable[[Tensor], Tensor], why: str):
    del why
    made = spoilt(every_mode())
    assert (places_of(made, EACH) == -1).all()


def test_the_template_of_another_class_is_not_valid():
    for shift in range(1, CLASSES):
        assert (places_of(every_mode(), (EACH + shift) % CLASSES) == -1).all()


def test_pictures_of_the_law_are_valid_and_more_noise_is_not():
    made, classes = law(20000)
    assert (places_of(made, classes) >= 0).double().mean() > 0.9999  # one in 500,000 is not
    generator = torch.Generator().manual_seed(2)
    noisy = made + PIXEL_SD * torch.randn(made.shape, generator=generator) / float(modes().std(correction=0))
    kept = float(stats.chi2.cdf(residual_bound() / (2 * PIXEL_SD**2), DIM - 1))  # with twice the variance: 0.62
    assert (places_of(noisy, classes) >= 0).double().mean() == pytest.approx(kept, abs=0.015)  # four standard errors


def test_coverage_is_the_share_of_places_in_use():
    places = torch.arange(PLACES).repeat(CLASSES)
    assert coverage(places, EACH) == pytest.approx(1.0)
    assert coverage(torch.zeros_like(places), EACH) == pytest.approx(1 / PLACES)
    assert coverage(torch.where(places < 3, places, -1), EACH) == pytest.approx(3 / PLACES)  # of valid ones alone
    assert coverage(torch.where(EACH == 0, places, -1), EACH) == pytest.approx(1 / CLASSES)
    uneven = torch.tensor([0, 0, 0, 1])  # one class: exp of the entropy of 3/4 and 1/4
    assert coverage(uneven, torch.zeros(4, dtype=torch.int64)) == pytest.approx(1.7548 / PLACES / CLASSES, rel=1e-4)


def test_nothing_scores_for_being_empty():
    pictures, (made, classes) = Pictures.of(), law(256)
    for empty in (torch.zeros_like(made), scaled(torch.zeros_like(made))):
        [found] = pictures.scores(empty, classes, made)
        assert found[VALID] == found[COVERAGE] == 0.0
        assert found[FD] > 5
        assert found[MSE_TEACHER] > 0.5
    [best] = pictures.scores(made, classes, made)
    assert (best[VALID], best[MSE_TEACHER]) == (1.0, 0.0)


def test_the_exact_moments_are_those_of_many_pictures():
    made, _ = law(40000, seed=3)
    found = Moments.of(made.double().numpy())
    assert abs(found.mean - moments().mean).max() < 0.03  # five standard errors of a deviation of 1.2
    assert abs(found.covariance - moments().covariance).max() < 0.06
    assert frechet_distance(found, moments()) < 0.02
    assert float(unscaled(torch.from_numpy(moments().mean)).sum()) == pytest.approx(5.75)
    variance = 5.75 * (1 + GAIN_SD**2) / DIM - (modes().double().mean((0, 1)).square()).mean() + PIXEL_SD**2
    unit = float(modes().double().std(correction=0)) ** 2
    assert moments().covariance.trace() / DIM * unit == pytest.approx(float(variance), rel=1e-9)


def _control(name: str, **settings: Any) -> Method:
    return METHODS.get(name).value(cfg_strength=0.0, **settings)


def test_the_shipped_teacher_is_near_the_law_with_many_steps_and_far_with_one():
    assert file_sha256(FILE).startswith(SHA)
    paper = exam(256)
    one, many = (
        {r["metric"]: r["value"] for r in answer(paper, paper.velocity(None), who, steps, ())}
        for who, steps in ((_control("none"), 1), (_control("teacher", steps=25), 25))
    )
    assert one[VALID] == 0.0
    assert many[VALID] > 0.94  # observed 0.982 of 4096
    assert many[MSE_TEACHER] < 0.02 < 0.7 < one[MSE_TEACHER]


def test_samples_that_are_not_finite_are_a_failure():
    paper = exam(8)
    records = answer(paper, lambda x, t, cfg_strength: torch.full_like(x, torch.nan), method("vm"), 1, ())
    assert {record["metric"] for record in records} == {VALID, COVERAGE, FD, MSE_TEACHER}
    assert all(record["value"] is None and "8 of 8" in record["error"] for record in records)


def test_training_a_teacher_lowers_its_loss():
    trained, first = trained_teacher(40, batch=64), trained_teacher(1, batch=64)
    x_0, classes = law(512)
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(4))
    t = torch.full((512,), 0.5)
    with torch.no_grad():
        made = [network(torch.lerp(x_0, noise, 0.5), t, classes) for network in (first, trained)]
    before, after = (float((v - (noise - x_0)).square().mean()) for v in made)
    assert after < before - 0.03  # observed 0.055; of 40 steps the average of the weights has hardly heard


SMALL = ("train.steps=2", "train.batch=16", "evaluate.samples=64", "evaluate.steps=[1,2]", "oracle.seeds=[0,1]")
PAIRS = ("methods.kd.pairs=64", "methods.kd.epochs=2")


class Here:
    """Workers without processes."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], label: str, total: int) -> list[Any]:
        del label, total
        self.jobs += items
        return [function(item) for item in items]


def test_a_run_of_few_steps_ends_in_a_table(tmp_path: Path):
    plan = plan_oracle(load_oracle_config("modes", [*SMALL, *PAIRS]), ["vm", "mdt:lambda1", "kd"])
    outcome = run_oracle(plan, tmp_path, Here())  # type: ignore[arg-type]
    rows = outcome.rows
    assert {row.status for row in rows} == {"ok"}
    assert {row.method for row in rows} == {"vm", "mdt", "kd", "none", "teacher", "floor"}
    assert {row.stage for row in rows} == {"oracle/pictures"}
    valid = [row for row in rows if row.metric == VALID]
    assert all(row.higher_is_better for row in valid)
    assert next(row.value for row in valid if row.method == "floor") == 1.0
    assert (tmp_path / "figures" / "vm.png").exists()
    [table] = oracle_tables(rows_frame(rows))
    assert [column.key for column in table.columns][3:7] == [VALID, COVERAGE, FD, MSE_TEACHER]
    assert [column.key for column in table.columns][7:10] == ["valid:2:own", "valid:2:renoise", "valid:2:euler"]
    assert [column.higher_is_better for column in table.columns][3:7] == [True, True, False, False]
    vm = next(line for line in table.rows if line.method == "vm")
    assert vm.cells[6].n_train == 2
    assert vm.cells[6].text.count("±") == 1
    again = Here()
    assert [row.value for row in run_oracle(plan, tmp_path, again).rows] == [row.value for row in rows]  # type: ignore[arg-type]
    assert again.jobs == []


def test_pairs_are_made_once_for_all_training_seeds(tmp_path: Path):
    plan, here = plan_oracle(load_oracle_config("modes", [*SMALL, *PAIRS]), ["kd"]), Here()
    run_oracle(plan, tmp_path, here)  # type: ignore[arg-type]
    made = [job for job in here.jobs if isinstance(job, PairsJob)]
    assert sorted(index for job in made if job.pairs for index in job.batches) == [0, 1, 2, 3]  # of 16 pairs each
    assert [t.steps for t in plan.trainings] == [6, 6]  # two epochs of three batches; the fourth is held out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("my_method", "mine"),
        ("my_flow_map", "leaps"),
        ("my_critic", "sharper"),
        ("my_adversary", "rival"),
        ("my_pairs", "lines"),
    ],
)
def test_a_method_in_a_file_is_tried_first_here(file: str, label: str, tmp_path: Path):
    plugin = Path(__file__).parents[3] / "docs" / "examples" / f"{file}.py"
    sets = [
        word
        for change in (*SMALL, *(["methods.lines.pairs=64"] if label == "lines" else []))
        for word in ("--set", change)
    ]
    words = ["run", "--preset", "modes", *sets, "--plugin", str(plugin), "--methods", label, "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "mdtbench", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert label in done.stdout
    assert "failed" not in done.stdout
