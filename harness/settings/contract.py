"""What a method of anybody's must be and return. A mistake is named with the file and line of their code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...base.blame import is_ours, raised_in, summary, written_at
from ...base.errors import UsageError
from ...flow.samplers import Sampler
from ...methods import Distillation, Loss, Method, StoredPairs

LOSS = "return Loss(value), value a scalar tensor made with step.student"
ANY_STEPS = 1


def check_class(name: str, kind: Any) -> None:
    """Raises UsageError when what is registered as a method is no frozen dataclass of one."""
    where = written_at(kind)
    if not isinstance(kind, type) or not issubclass(kind, Method):
        raise UsageError(
            f"Method '{name}' is {described(kind)}, not a subclass of Distillation. Correct {where}; "
            "docs/adding_a_method.md has an example."
        )
    if "__dataclass_fields__" not in vars(kind):
        raise UsageError(
            f"Method '{name}': class {kind.__name__} is not a dataclass, so its parameters are not seen. "
            f"Write @dataclass(frozen=True, kw_only=True) above it: {where}."
        )


def check_method(label: str, method: Method) -> None:
    """Raises UsageError when a plug-in's method returns something of the wrong kind; all but its loss is asked."""
    sampler_for(label, method, ANY_STEPS)
    if not isinstance(method, Distillation):
        return
    with torch.random.fork_rng(devices=[]):
        _asked(label, method.cost, "a number above 0", _is_cost)
        _asked(label, method.auxiliary, "an nn.Module or None", lambda one: one is None or isinstance(one, nn.Module))
        _asked(
            label, method.stored_pairs, "StoredPairs or None", lambda one: one is None or isinstance(one, StoredPairs)
        )


def sampler_for(label: str, method: Method, steps: int) -> Sampler:
    """The method's own sampler for so many steps. Raises UsageError: a plug-in's raises, or returns no sampler."""
    if is_ours(method):
        return method.sampler(steps)
    wanted = "a sampler, such as flow.samplers.Renoise"
    return _asked(label, method.sampler, wanted, lambda one: isinstance(one, Sampler), steps)


def loss_of(loss: Any) -> Loss:
    """What a method's `loss` returned. Raises UsageError when it is not what it must be."""
    if not isinstance(loss, Loss):
        raise UsageError(f"loss returned {described(loss)}, not a Loss - {LOSS}")
    value = loss.value
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise UsageError(f"the value of its Loss is {described(value)}, not a scalar tensor - {LOSS}")
    if not value.requires_grad:
        raise UsageError(f"the value of its Loss has no gradient, so nothing is learned - {LOSS}")
    if not isinstance(loss.diagnostics, Mapping):
        raise UsageError(f"the diagnostics of its Loss are {described(loss.diagnostics)}, not a dict")
    for name, one in loss.diagnostics.items():
        if not (isinstance(one, int | float) or (isinstance(one, Tensor) and one.numel() == 1)):
            raise UsageError(f"diagnostic '{name}' of its Loss is {described(one)}, not a scalar")
    return loss


def own_or_checked(sampler: Sampler, noise: Tensor, sample: Callable[[], Any]) -> Tensor:
    """What a sampler makes of noise. Raises UsageError when one of a plug-in raises or makes something else."""
    if is_ours(sampler):
        return sample()
    kind = type(sampler)
    try:
        made = sample()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # anybody's code
        where = raised_in(error, kind.__module__) or written_at(kind)
        raise UsageError(f"Sampler {kind.__name__} failed: {summary(error)}. Correct {where}.") from error
    if not isinstance(made, Tensor) or made.shape != noise.shape:
        raise UsageError(
            f"Sampler {kind.__name__} returned {described(made)}, not {described(noise)} as the noise is. "
            f"Correct {written_at(kind.sample)}."
        )
    return made


def described(thing: Any) -> str:
    """For messages: what it is, and the shape of a tensor."""
    if thing is None or isinstance(thing, bool | int | float | str):
        return repr(thing)
    if isinstance(thing, Tensor):
        return f"a Tensor of shape {list(thing.shape)}"
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    return f"a {type(thing).__name__}"


def _is_cost(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _asked(label: str, part: Callable[..., Any], wanted: str, fits: Callable[[Any], bool], *given: Any) -> Any:
    """What a part of a plug-in's method returns."""
    name = part.__name__
    call = f"{name}({', '.join(map(repr, given))})"
    try:
        found = part(*given)
    except Exception as error:  # anybody's code
        where = raised_in(error, part.__module__) or written_at(part)
        raise UsageError(f"Method '{label}': {call} failed: {summary(error)}. Correct {where}.") from error
    if not fits(found):
        raise UsageError(
            f"Method '{label}': {call} returned {described(found)} - {wanted} is needed - correct {written_at(part)}."
        )
    return found
