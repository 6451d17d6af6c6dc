"""The rows of the table as objects: samplers, parameters, the undistilled teacher."""

from __future__ import annotations

import dataclasses

import pytest
from steps import DISTILLATIONS, method

from mdtbench.base.errors import UsageError
from mdtbench.flow.samplers import Euler, Phase, Renoise
from mdtbench.methods import METHODS
from mdtbench.methods.undistilled import Teacher, Undistilled


def test_built_in_methods_cite_their_source():
    for name in (*DISTILLATIONS, "none", "teacher"):
        entry = METHODS.get(name)
        assert entry.version >= 1
        assert entry.source
        assert entry.value.__doc__


def test_unknown_method_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"Unknown method 'mtd'\. Did you mean 'mdt'") as caught:
        METHODS.get("mtd")
    assert "mdtbench.methods" in str(caught.value)


@pytest.mark.parametrize("name", ["cm", "ect", "mdt", "scm", "vm"])
def test_students_that_jump_to_the_data_are_renoised(name: str):
    assert method(name, rescale_t=3.0).sampler(2) == Renoise(2, 3.0)


def test_phased_student_is_sampled_on_its_edges():
    assert method("pcm", phases=4, rescale_t=3.0).sampler(4) == Phase(4, 4, 3.0)


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_parameters_are_frozen_and_by_keyword(name: str):
    made = method(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.lr = 1.0
    with pytest.raises(TypeError):
        METHODS.get(name).value(3.0)


def test_undistilled_teacher_with_and_without_guidance():
    variants = METHODS.get("none").variants
    made = {name: Undistilled(cfg_strength=5.0, **parameters) for name, parameters in variants.items()}
    assert made[""].sampler(2) == Euler(2, 1.0, 0.0)
    assert made["cfg"].sampler(2) == Euler(2, 1.0, 5.0)


def test_reference_teacher_keeps_its_own_step_count():
    teacher = Teacher(cfg_strength=5.0, rescale_t=3.0, cfg_interval=(0.5, 1.0))
    assert teacher.sampler(1) == teacher.sampler(4) == Euler(25, 3.0, 5.0, (0.5, 1.0))
