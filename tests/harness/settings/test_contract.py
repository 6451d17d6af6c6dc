"""A mistake in a plug-in's method is one line that says what was returned, what is needed, and where."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from mdtbench.base.errors import UsageError
from mdtbench.flow.samplers import Renoise
from mdtbench.harness.settings.contract import loss_of, own_or_checked
from mdtbench.harness.settings.methods import entrant
from mdtbench.methods import METHODS, Loss
from mdtbench.trellis.pipeline import SamplerParams

TEACHER = SamplerParams(25, 3.0, (0.0, 1.0), 1.0)
HEAD = """from dataclasses import dataclass

import torch

from mdtbench.flow.samplers import Renoise
from mdtbench.methods import METHODS, Distillation, Loss


"""
PARTS = {
    "head": '@METHODS.register("wrong", version=1, source="a test")\n@dataclass(frozen=True, kw_only=True)\n',
    "class": "class Wrong(Distillation):\n    lr: float = 1e-3\n\n",
    "loss": "    def loss(self, step):\n        return Loss(step.student(step.x_t, step.t).mean())\n\n",
    "sampler": "    def sampler(self, n_steps):\n        return Renoise(n_steps, self.rescale_t)\n\n",
    "cost": "    def cost(self):\n        return 3\n\n",
    "more": "",
}


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Builds the method with a part of it changed; returns what is raised."""
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    file = tmp_path / "wrong_method.py"

    def build(**changed: str) -> str:
        text = HEAD + "".join((PARTS | changed).values())
        file.write_text(text)
        module = ModuleType("wrong_method")
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, "wrong_method", module)
        exec(compile(text, str(file), "exec"), vars(module))
        with pytest.raises(UsageError) as caught:
            entrant("wrong", {}, TEACHER)
        message = str(caught.value)
        assert "\n" not in message
        assert "Method 'wrong'" in message
        return message.replace(str(file), "FILE")

    return build


def test_a_class_that_is_no_dataclass_says_what_to_write(built):
    message = built(head='@METHODS.register("wrong", version=1, source="a test")\n')
    assert "class Wrong is not a dataclass" in message
    assert "Write @dataclass(frozen=True, kw_only=True) above it: FILE:9." in message


def test_what_is_no_method_at_all_is_named(built):
    message = built(
        **{"head": PARTS["head"].splitlines()[0] + "\n", "class": "def wrong():\n", "sampler": "", "cost": ""}
    )
    assert "is a function, not a subclass of Distillation. Correct FILE:9" in message


def test_a_part_that_is_missing_is_named(built):
    message = built(cost="")
    assert "cannot be built (TypeError: Can't instantiate abstract class Wrong" in message
    assert "abstract method" in message
    assert "cost" in message
    assert "or FILE:9." in message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"sampler": "    def sampler(self, n_steps):\n        return n_steps\n"},
            "sampler(1) returned 1 - a sampler,",
        ),
        ({"sampler": "    def sampler(self, n_steps):\n        pass\n"}, "sampler(1) returned None - a sampler,"),
        ({"cost": "    def cost(self):\n        return '3'\n"}, "cost() returned '3' - a number above 0 is needed"),
        ({"cost": "    def cost(self):\n        return 0\n"}, "cost() returned 0 - a number above 0 is needed"),
        (
            {"more": "    def auxiliary(self):\n        return [1]\n"},
            "auxiliary() returned a list - an nn.Module or None",
        ),
        (
            {"more": "    def stored_pairs(self):\n        return 8\n"},
            "stored_pairs() returned 8 - StoredPairs or None",
        ),
    ],
)
def test_what_is_returned_and_what_is_needed(built, changed: dict[str, str], said: str):
    message = built(**changed)
    assert said in message
    [part] = changed
    names = list(PARTS)
    before = HEAD + "".join(PARTS[name] for name in names[: names.index(part)])
    assert message.endswith(f"correct FILE:{before.count(chr(10)) + 1}.")


def test_an_exception_is_told_with_its_line(built):
    message = built(sampler="    def sampler(self, n_steps):\n        return self.no_such_thing\n")
    assert (
        "sampler(1) failed: AttributeError: 'Wrong' object has no attribute 'no_such_thing'. Correct FILE:18."
        in message
    )


WEIGHT = torch.ones(3, requires_grad=True)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (WEIGHT.sum(), "loss returned a Tensor of shape [], not a Loss - return Loss(value)"),
        (None, "loss returned None, not a Loss"),
        ((WEIGHT.sum(), {}), "loss returned a tuple, not a Loss"),
        (Loss(WEIGHT), "the value of its Loss is a Tensor of shape [3], not a scalar tensor"),
        (Loss(0.5), "the value of its Loss is 0.5, not a scalar tensor"),  # type: ignore[arg-type]
        (Loss(WEIGHT.detach().sum()), "the value of its Loss has no gradient"),
        (Loss(WEIGHT.sum(), WEIGHT), "the diagnostics of its Loss are a Tensor of shape [3], not a dict"),  # type: ignore[arg-type]
        (Loss(WEIGHT.sum(), {"rms": WEIGHT}), "diagnostic 'rms' of its Loss is a Tensor of shape [3], not a scalar"),
    ],
)
def test_a_loss_is_looked_at(returned: object, said: str):
    with pytest.raises(UsageError) as caught:
        loss_of(returned)
    assert str(caught.value).startswith(said)
    right = Loss(WEIGHT.sum(), {"rms": WEIGHT.detach().mean()})
    assert loss_of(right) is right


class Own(Renoise):
    """Somebody's own sampler."""


def test_a_sampler_that_is_somebodys_own_is_looked_at():
    noise, made = torch.zeros(2, 3), torch.ones(2, 3)
    assert own_or_checked(Own(1), noise, lambda: made) is made

    def fails() -> Tensor:
        return made @ made

    with pytest.raises(UsageError, match=r"Sampler Own failed: RuntimeError: mat1 .*Correct .*test_contract.py:\d"):
        own_or_checked(Own(1), noise, fails)
    with pytest.raises(UsageError, match=r"Sampler Own returned None, not a Tensor of shape \[2, 3\]"):
        own_or_checked(Own(1), noise, lambda: None)
    assert own_or_checked(Renoise(1), noise, lambda: None) is None  # ours is not looked at
