"""Students of both stages on small random networks."""

from __future__ import annotations

import pytest
from small_stage import small_task

from mdtbench.harness.train.task import StageTask


@pytest.fixture(scope="package", params=["structure", "slat"])
def task(request: pytest.FixtureRequest) -> StageTask:
    return small_task(request.param)


@pytest.fixture(scope="package")
def structure_task() -> StageTask:
    """Where the stage makes no difference."""
    return small_task("structure")


@pytest.fixture(scope="package")
def slat_task() -> StageTask:
    return small_task("slat")
