"""Sweep and pushes: a grid of one method's parameters on validation noise, and the size of VD's push over time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mdtbench.harness.oracle import load_oracle_config
from mdtbench.harness.oracle.jobs import exam, run_pairs
from mdtbench.harness.oracle.jobs import pairs_jobs as jobs_of
from mdtbench.harness.oracle.plan import TEST, VALIDATION, family
from mdtbench.harness.oracle.pushes import pushes
from mdtbench.harness.oracle.sweep import _jobs, _trainings, table
from mdtbench.methods.residual import ResidualRms

SMALL = ["train.steps=2", "train.batch=8", "evaluate.samples=32"]


def test_every_point_of_a_grid_is_a_student_of_every_training_seed():
    config = load_oracle_config("modes", SMALL)
    points = [{"lr": "1e-3", "lambda_vd": "0.1"}, {"lr": "1e-3", "lambda_vd": "1.0"}]
    found = [_trainings("mdt", point, config, SMALL) for point in points]
    assert [[t.seed for t in trainings] for trainings in found] == [[0, 1, 2]] * 2
    assert [trainings[0].entrant.method.lambda_vd for trainings in found] == [0.1, 1.0]  # type: ignore[attr-defined]
    assert len({t.folder for trainings in found for t in trainings}) == 6
    jobs = _jobs([t for trainings in found for t in trainings], config, Path("out"))
    assert [[t.seed for t in job.trainings] for job in jobs] == [[0, 0], [1, 1], [2, 2]]


def test_validation_noise_is_not_that_of_the_test(tmp_path: Path):
    config = load_oracle_config("modes", SMALL)
    for split in (TEST, VALIDATION):
        for job in jobs_of(config, [], tmp_path, split):
            run_pairs(job)
    test, validation = (exam(config, tmp_path, split) for split in (TEST, VALIDATION))
    assert not torch.equal(test.noise, validation.noise)
    assert not torch.equal(test.ends, validation.ends)


def test_a_table_has_means_and_spreads():
    records = [{"lr": "1", "seed": seed, "valid": value} for seed, value in enumerate([0.1, 0.3, None])]
    assert table(records[:2], ["lr"], ["valid"]).splitlines()[2] == "| 1 | 0.200 ± 0.141 |"
    assert table(records[:1], ["lr"], ["valid"]).splitlines()[2] == "| 1 | 0.100 |"
    assert table(records, ["lr"], ["valid"]).splitlines()[2] == "| 1 | failed |"


def test_the_bound_makes_every_push_as_long():
    """Of the student that has not begun: r' is t dphi/dt, so it falls with t; bounded, it hardly does."""
    config = load_oracle_config("modes", SMALL)
    network = family(config).student(0)
    for time in (0.1, 0.9):
        r, free, bounded = pushes(network, config, time)
        assert free == pytest.approx((1 - time) * r)
        assert 0 < bounded < 1 - time
        assert bounded == pytest.approx((1 - time) * r / (r + ResidualRms().constant), rel=0.1)  # of means, not a mean
