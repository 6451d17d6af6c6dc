"""One optimiser step and everything that must survive an interruption."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .muon import Muon

MOMENTUM = 0.95  # of Muon
CLIP_BUFFER = 1000  # gradient norms that a percentile is taken of; TRELLIS' default
FIRST_SCALE = 2.0**16  # of the loss in float16; this and the next are those of torch.amp.GradScaler
GROW_AFTER = 2000  # steps without overflow, after which the scale doubles


@dataclass(frozen=True)
class Recipe:
    """How a network is optimised.

    Attributes:
        steps: optimiser steps in all.
        lr: peak learning rate of AdamW.
        warmup: steps over which rates rise linearly; after them they fall to 0 along a cosine.
        constant: whether rates stay at their peaks after the warm-up instead.
        betas: of AdamW.
        clip: largest gradient norm.
        ema: decay of the averaged weights that are kept in the end.
        weight_decay: of all optimisers.
        matrix_lr: peak rate of Muon for the matrices of transformer layers; 0: AdamW for all.
        more_ema: decays of further averages.
        clip_percentile: clip at this percentile of recent norms where it is below `clip`; None: at `clip`.
        scale_loss: multiply the loss before backpropagation, for float16 activations.
    """

    steps: int
    lr: float
    warmup: int = 10
    clip: float = 1.0
    ema: float = 0.99
    weight_decay: float = 0.0
    matrix_lr: float = 0.0
    more_ema: tuple[float, ...] = ()
    clip_percentile: float | None = None
    scale_loss: bool = False
    constant: bool = False
    betas: tuple[float, float] = (0.9, 0.99)

    def schedule(self, index: int) -> float:
        """Learning rates of step `index`, as a share of their peaks."""
        if index < self.warmup:
            return (index + 1) / self.warmup
        if self.constant:
            return 1.0
        progress = (index - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * progress))


class AdaptiveGradClipper:
    """Clips the gradient at a percentile of the recent norms, and never above `max_norm`.

    As TRELLIS' class of this name (trellis/utils/grad_clip_utils.py; its trainings use max_norm 1, percentile 95):
    norms are those before clipping, and the percentile counts from the step after the buffer is full.

    Args:
        percentile: 0 to 100; None clips at `max_norm` throughout.
        size: norms that are remembered.

    Attributes:
        norms: [size] float32, written in a circle. seen: finite norms so far.
    """

    def __init__(self, max_norm: float, percentile: float | None = None, size: int = CLIP_BUFFER):
        self.max_norm = max_norm
        self.percentile = percentile
        self.norms = torch.zeros(size)
        self.seen = 0

    @property
    def limit(self) -> float:
        """The largest norm that is let through now."""
        if self.percentile is None or self.seen < len(self.norms):
            return self.max_norm
        return min(self.max_norm, float(torch.quantile(self.norms, self.percentile / 100)))

    def __call__(self, parameters: Collection[nn.Parameter]) -> float:
        """Clip, in place. Returns the norm before."""
        norm = float(nn.utils.clip_grad_norm_(parameters, self.limit))
        if math.isfinite(norm):
            self.norms[self.seen % len(self.norms)] = norm
            self.seen += 1
        return norm


class LossScale:
    """A factor on the loss that keeps small float16 gradients from vanishing (Micikevicius et al., arXiv:1710.03740).

    Powers of two, so that scaling and unscaling round nothing. `streak`: steps since the last overflow or growth.
    """

    def __init__(self) -> None:
        self.value = FIRST_SCALE
        self.streak = 0

    def update(self, finite: bool) -> None:
        self.streak = self.streak + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / 2)
        elif self.streak == GROW_AFTER:
            self.value, self.streak = self.value * 2, 0


class Learner:
    """Optimisers, clipping, schedule and moving averages for one module. All of its state is tensors.

    Attributes:
        done: steps taken.
        optimisers: each with its peak learning rate.
        average: the moving average of the weights, by parameter name; `more`: the others, by their decay.
        skipped: steps left out because the loss or the gradient was not finite; `skipped_in_a_row` up to now, where
            a step that a smaller loss scale may mend does not count.
    """

    def __init__(self, module: nn.Module, recipe: Recipe):
        self.module = module
        self.recipe = recipe
        self.done = 0
        self.skipped = self.skipped_in_a_row = 0
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average = self._copies()
        self.more = {decay: self._copies() for decay in recipe.more_ema}
        self.clipper = AdaptiveGradClipper(recipe.clip, recipe.clip_percentile)
        self.scale = LossScale() if recipe.scale_loss else None
        self.optimisers = _optimisers(self.parameters, recipe)

    def _copies(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def step(self, loss: Tensor) -> float:
        """Backpropagate `loss` and update. Returns the gradient norm before clipping."""
        self.forget()
        self.backward(loss)
        return self.advance(bool(torch.isfinite(loss)))

    def forget(self) -> None:
        """Drop the gradients of the step before."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`. Losses of several parts of a batch add up."""
        (loss if self.scale is None else loss * self.scale.value).backward()

    def gradients(self) -> list[Tensor]:
        """The gradients so far, in the order of the parameters; as many as have one."""
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def set_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Put others in place of these, in the same order."""
        having = [p for p in self.parameters.values() if p.grad is not None]
        for parameter, gradient in zip(having, gradients, strict=True):
            parameter.grad = gradient

    def advance(self, finite_loss: bool) -> float:
        """Update with the gradients that were added; skipped, and counted, when they or the loss are not finite.

        Returns:
            The gradient norm before clipping.
        """
        scale = self.scale.value if self.scale else 1.0
        if scale != 1:
            for gradient in self.gradients():
                gradient.div_(scale)
        norm = self.clipper(self.parameters.values())
        finite = math.isfinite(norm) and finite_loss
        if finite:
            self._update()
        self._count(finite, mendable=finite_loss and scale > 1)
        self.done += 1
        return norm

    def rest(self) -> float:
        """A step of training that moves other networks alone. Returns the norm of no gradient, 0."""
        self.done += 1
        return 0.0

    def _update(self) -> None:
        for optimiser, peak in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = peak * self.recipe.schedule(self.done)
            optimiser.step()
        blend(self.average, self.parameters, self.recipe.ema)
        for decay, average in self.more.items():
            blend(average, self.parameters, decay)

    def _count(self, finite: bool, mendable: bool) -> None:
        if self.scale:
            self.scale.update(finite)
        self.skipped += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + (not mendable)

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on bit for bit."""
        counts = {"done": self.done, "skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        state = {name: torch.tensor(count) for name, count in counts.items()}
        if self.clipper.percentile is not None:
            state |= {"clip.norms": self.clipper.norms, "clip.seen": torch.tensor(self.clipper.seen)}
        if self.scale:
            state |= {"scale.value": torch.tensor(self.scale.value), "scale.streak": torch.tensor(self.scale.streak)}
        for name, parameter in self.parameters.items():
            state[f"weight/{name}"] = parameter.detach()
            state[f"average/{name}"] = self.average[name]
            state |= {f"average.{decay}/{name}": average[name] for decay, average in self.more.items()}
            for optimiser, _ in self.optimisers:
                for key, value in optimiser.state.get(parameter, {}).items():
                    state[f"optimiser.{key}/{name}"] = value
        return state

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.done = int(state["done"])
        self.skipped = int(state["skipped"])
        self.skipped_in_a_row = int(state["skipped_in_a_row"])
        if self.clipper.percentile is not None:
            self.clipper.norms, self.clipper.seen = state["clip.norms"].clone(), int(state["clip.seen"])
        if self.scale:
            self.scale.value, self.scale.streak = float(state["scale.value"]), int(state["scale.streak"])
        for name, parameter in self.parameters.items():
            parameter.copy_(state[f"weight/{name}"])
            self.average[name].copy_(state[f"average/{name}"])
            for decay, average in self.more.items():
                average[name].copy_(state[f"average.{decay}/{name}"])
        owner = {p: made for made, _ in self.optimisers for group in made.param_groups for p in group["params"]}
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind.startswith("optimiser."):
                parameter = self.parameters[name]
                # Moments lie beside the parameter; torch's optimisers count their steps on the CPU, unless fused.
                counts = value.ndim == 0 and not owner[parameter].defaults.get("fused")
                kept = value.clone() if counts else value.to(parameter.device, copy=True)
                owner[parameter].state[parameter][kind.removeprefix("optimiser.")] = kept

    @torch.no_grad()
    def settle(self) -> nn.Module:
        """Put the averaged weights into the module and return it in evaluation mode."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.average[name])
        return self.module.eval()


def _optimisers(parameters: Mapping[str, nn.Parameter], recipe: Recipe) -> list[tuple[torch.optim.Optimizer, float]]:
    matrices = [p for name, p in parameters.items() if recipe.matrix_lr and _is_layer_matrix(name, p)]
    chosen = set(matrices)
    rest = [p for p in parameters.values() if p not in chosen]
    decay = recipe.weight_decay
    made: list[tuple[torch.optim.Optimizer, float]] = []
    if rest:
        fused = all(p.is_cuda for p in rest)  # one kernel in place of a dozen for all tensors
        adam = torch.optim.AdamW(rest, lr=recipe.lr, betas=recipe.betas, weight_decay=decay, fused=fused or None)
        made.append((adam, recipe.lr))
    if matrices:
        muon = Muon(matrices, recipe.matrix_lr, MOMENTUM, decay)
        made.append((muon, recipe.matrix_lr))
    return made


def _is_layer_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes it: a matrix inside a transformer layer that maps features to features."""
    return parameter.ndim == 2 and ("blocks." in name or "layers." in name) and "adaLN" not in name


@torch.no_grad()
def blend(average: Mapping[str, Tensor], values: Mapping[str, Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * values, in place."""
    for name, value in values.items():
        average[name].lerp_(value.detach(), 1 - decay)
