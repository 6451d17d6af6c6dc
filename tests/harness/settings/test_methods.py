"""Methods by name: variants, changed parameters, and what a plug-in's code is known by."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from mdtbench.base.errors import UsageError
from mdtbench.base.files import file_sha256
from mdtbench.flow.samplers import Euler, Sampler
from mdtbench.harness.settings.methods import Entrant, at_rate, code_digest, entrant
from mdtbench.methods import METHODS, Distillation, Loss, Step
from mdtbench.metrics import METRICS
from mdtbench.trellis.pipeline import SamplerParams

SAMPLER = SamplerParams(steps=25, cfg_strength=2.0, cfg_interval=(0.0, 1.0), rescale_t=1.0)


@dataclass(frozen=True)
class Smooth:
    width: float = 0.1
    ends: tuple[float, ...] = (0.0, 1.0)


@dataclass(frozen=True)
class Sharp:
    pass


@dataclass(frozen=True, kw_only=True)
class Choosy(Distillation):
    scaling: Smooth | Sharp = field(default=Smooth(), metadata={"choices": {"smooth": Smooth(), "sharp": Sharp()}})
    limit: float | None = None

    def loss(self, step: Step) -> Loss:
        raise NotImplementedError

    def sampler(self, n_steps: int) -> Sampler:
        return Euler(n_steps)

    def cost(self) -> float:
        return 5


@pytest.fixture(autouse=True)
def choosy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    METHODS.register("choosy", version=1, source="", variants={"": {}, "wide": {"scaling": Smooth(9.0)}})(Choosy)
    METHODS.register("odd", version=1, source="", variants={"": {"scaling": object()}})(Choosy)


def made(label: str, **changes: object) -> Entrant:
    return entrant(label, {label.partition(":")[0]: changes}, SAMPLER)


def test_the_worlds_sampler_then_the_variant_then_changes_decide():
    who = made("choosy:wide", limit=3, cfg_strength=4.0)
    assert who.method == Choosy(cfg_strength=4.0, limit=3, scaling=Smooth(9.0))
    assert (who.label, who.name, who.variant, who.file_name) == ("choosy:wide", "choosy", "wide", "choosy_wide")
    assert made("choosy").method == Choosy(cfg_strength=2.0)
    assert made("kd").method.teacher_steps == SAMPLER.steps  # type: ignore[attr-defined]
    assert entrant("cm", {"choosy": {"limit": 3}}, SAMPLER) == made("cm")  # another's change


def test_a_parameter_with_choices_is_named_and_one_that_is_an_object_is_changed_inside():
    for label, changes, expected in (
        ("choosy", {}, Smooth()),
        ("choosy", {"scaling": "sharp"}, Sharp()),
        ("choosy:wide", {"scaling": "smooth"}, Smooth()),
        ("choosy", {"scaling": {"width": 2, "ends": [0.5]}}, Smooth(2, (0.5,))),
        ("choosy:wide", {"scaling": {"ends": [0.5]}}, Smooth(9.0, (0.5,))),  # of the variant's object
    ):
        assert made(label, **changes).method.scaling == expected  # type: ignore[attr-defined]
    identities = [made("choosy"), made("choosy", scaling={"width": 2}), made("choosy", scaling={"ends": [0.5]})]
    assert len({str(who.identity) for who in identities}) == 3


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"scaling": "shrap"}, ["methods.choosy.scaling 'shrap'", "Did you mean 'sharp'?", "smooth"]),
        ({"scaling": 3}, ["methods.choosy.scaling '3'", "Available: sharp, smooth"]),
        ({"scaling": {"widht": 3}}, ["parameter of methods.choosy.scaling 'widht'", "Did you mean 'width'?"]),
        ({"scaling": {"width": "wide"}}, ["methods.choosy.scaling.width", "0.1", "'wide'"]),
        ({"scaling": {"ends": 3}}, ["methods.choosy.scaling.ends", "(0.0, 1.0)", "(got 3)"]),
        ({"limit": "low"}, ["methods.choosy.limit", "a number", "'low'"]),
        ({"limit": True}, ["methods.choosy.limit", "a number", "True"]),
    ],
)
def test_a_wrong_choice_or_nested_value_is_a_usage_error(changes: dict, parts: list[str]):
    with pytest.raises(UsageError) as caught:
        made("choosy", **changes)
    for part in parts:
        assert part in str(caught.value)


def test_a_parameter_without_a_text_of_its_own_is_refused():
    """Its address in memory would give every call other students."""
    with pytest.raises(UsageError, match="address in memory"):
        made("odd")


def test_settings_are_changed_of_methods_that_train_only():
    assert made("vm").at(lr=0.5, cfg_strength=3.0).distillation.lr == 0.5
    with pytest.raises(TypeError, match="teacher does not train"):
        made("teacher").at(lr=0.5)


def test_a_plug_ins_code_is_its_file_and_the_packages_own_has_a_version():
    assert made("vm").code == code_digest(METRICS.get("MSE_slat").value) == ""
    assert made("choosy").code == code_digest(Choosy(cfg_strength=1)) == file_sha256(Path(__file__))
    assert made("choosy").code in made("choosy").identity


def test_code_without_a_file_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)
    classes = [type(name, (), {"__module__": "notebook"}) for name in ("A", "A", "B")]
    first, same, other = map(code_digest, classes)
    assert first == same != other
    assert code_digest(classes[0]()) == code_digest(classes[0]())


def test_the_rate_of_all_is_not_that_of_a_method_whose_table_has_one():
    def rate(label: str, lr: float | None) -> float:
        changes = {"vm": {"lr": 0.5}}
        return at_rate(entrant(label, changes, SAMPLER), lr, changes).distillation.lr

    assert [rate("vm", 0.1), rate("vm:paper", 0.1), rate("cm", 0.1)] == [0.5, 0.5, 0.1]
    assert rate("cm", None) == entrant("cm", {}, SAMPLER).distillation.lr
    teacher = entrant("teacher", {}, SAMPLER)
    assert at_rate(teacher, 0.1, {}) is teacher
