"""The networks that a method has beside its student: built, bound to a batch, optimised each by itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...base.seeds import seed_of
from ...methods import Distillation, Network
from .learner import Learner, Recipe
from .taps import blocks_of, indices_of, tapped

Bind = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]  # a flow network to its velocity in a batch


class Networks:
    """All named networks of one student's method, in the order of their names in `Distillation.networks`.

    Args:
        begin: the network that the student begins as, before it has a second time. It is copied, not kept.
        recipe: of the student; the others differ in rate and average.
        words: what seeds starting weights: label and seed of the training.

    Attributes:
        modules: by name.
        learners: of those that are trained.
    """

    def __init__(self, method: Distillation, begin: nn.Module, recipe: Recipe, words: tuple[str | int, ...]):
        self._method = method
        self._kinds = dict(method.networks())
        self.modules: dict[str, nn.Module] = {}
        self.learners: dict[str, Learner] = {}
        for name, kind in self._kinds.items():
            with torch.random.fork_rng(devices=[]):  # the same network wherever and beside whatever it is made
                torch.manual_seed(seed_of("network", name, *words))
                made = _made(kind, begin)
            blocks_of(made, indices_of(made, kind.taps))  # refused here, before anything is computed
            self.modules[name] = made.train(kind.rate > 0).requires_grad_(kind.rate > 0)
            if kind.rate > 0:
                own = {"lr": kind.rate * recipe.lr, "ema": kind.average, "more_ema": (), "scale_loss": False}
                self.learners[name] = Learner(made, Recipe(**{**vars(recipe), **own}))

    def bound(self, bind: Bind) -> dict[str, Callable[..., Any]]:
        """Velocities or features of the copies of a flow network in a batch, and heads as they are."""
        return {name: self._bound(name, made, bind) for name, made in self.modules.items()}

    def averages(self, bind: Bind) -> dict[str, Callable[..., Any]]:
        """The same with averaged weights, of those that have an average."""
        kept = {name: learner for name, learner in self.learners.items() if self._kinds[name].average}
        return {name: self._bound(name, _averaged(learner), bind) for name, learner in kept.items()}

    def _bound(self, name: str, made: Callable[..., Tensor], bind: Bind) -> Callable[..., Any]:
        kind = self._kinds[name]
        if kind.head:
            return made
        module = self.modules[name]
        return tapped(module, indices_of(module, kind.taps), bind(made)) if kind.taps else bind(made)

    def updated(self, index: int) -> Iterator[Learner]:
        """Those that step `index` moves."""
        for name, learner in self.learners.items():
            if self._method.updates(name, index):
                yield learner

    def forget(self) -> None:
        for learner in self.learners.values():
            learner.forget()

    def advance(self, index: int, finite_loss: bool, scale: float) -> bool:
        """One step of all: an update where it is due.

        Args:
            scale: what the loss was multiplied by, which is one for all.

        Returns:
            Whether all gradients were finite.
        """
        due, finite = list(self.updated(index)), True
        for learner in self.learners.values():
            if learner not in due:
                learner.rest()
                continue
            for gradient in learner.gradients():
                gradient.div_(scale)
            finite &= math.isfinite(learner.advance(finite_loss))
        return finite

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on bit for bit."""
        states = {name: learner.state() for name, learner in self.learners.items()}
        return {f"networks/{name}/{key}": value for name, state in states.items() for key, value in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`; other entries are left alone."""
        for name, learner in self.learners.items():
            prefix = f"networks/{name}/"
            learner.restore({key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)})


def gradients_of(learners: Sequence[Learner]) -> list[Tensor]:
    return [gradient for learner in learners for gradient in learner.gradients()]


def set_gradients_of(learners: Sequence[Learner], gradients: Sequence[Tensor]) -> None:
    """Put others in place of those that there are, in the same order."""
    rest = list(gradients)
    for learner in learners:
        count = len(learner.gradients())
        learner.set_gradients(rest[:count])
        rest = rest[count:]


def _made(kind: Network, begin: nn.Module) -> nn.Module:
    if kind.head:
        return kind.head(begin).to(next(begin.parameters()).device)
    made = copy.deepcopy(begin)
    if not kind.weights:
        for parameter in made.parameters():
            # On the CPU, where the seeded generator is; constant tensors, such as zeros, stay as they are.
            noise = torch.randn(parameter.shape).to(parameter)
            spread = parameter.data.std(correction=0)
            parameter.data = parameter.data.mean() + spread * noise
    return made


def _averaged(learner: Learner) -> Callable[..., Tensor]:
    return lambda *args: functional_call(learner.module, learner.average, args)
