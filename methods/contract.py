"""What a method is: parameters, a loss over one training step, and the sampler its student is made for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..base.registry import Registry
from ..flow.derivative import end_derivative, total_derivative
from ..flow.guidance import GuidedVelocity
from ..flow.layout import Layout
from ..flow.samplers import Sampler
from ..flow.times import UNIFORM, LogitNormal, TimeDensity

EVERYWHERE = (0.0, 1.0)  # cfg_interval of released code, which follows the guided teacher at all times


@dataclass(frozen=True)
class Loss:
    """A scalar to backpropagate and named diagnostics (root mean squares, logged as they are).

    The scalar is often a surrogate: its gradient is right and its value means nothing. Read the diagnostics.
    """

    value: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """All that a method may use in one training step. Networks are bound to condition and layout already.

    Attributes:
        index: training step, from 0; `total` of them are planned.
        x_0, noise, x_t: data, standard normal, point of the path at t; all in `layout`.
        t: [B] times in [t_min, 1].
        student: velocity with the student's weights; gradients flow. Of a method with `two_times` phi(x, t, t_end), the
            average velocity from t down to t_end, or phi(x, t) with the data as the end.
        frozen_student: velocity with the target weights (the online ones, or their moving average when the
            method has a `target_decay`). Use it through `target` and `target_derivative`.
        teacher: guided teacher velocity, no gradient; guidance acts at the times of the method's `cfg_interval`. Its
            networks run once per batch at (x_t, t), however many methods and guidance strengths ask.
        attached_teacher: the same with its gradient to x; nothing is shared.
        generator: private to the method and this step, for draws beyond the shared x_0, noise and t.
        auxiliary: the method's `auxiliary()` network; trained with the student, by the same optimiser.
        networks: the method's `networks()` by name: velocities of copies of the flow network (their features, where
            they are tapped), and heads as they are.
            Gradients flow, but for those that stay as they are.
        averages: the same with averaged weights, of those that have an average.
    """

    index: int
    total: int
    x_0: Tensor
    noise: Tensor
    t: Tensor
    t_min: float
    x_t: Tensor
    layout: Layout
    student: Callable[..., Tensor]
    frozen_student: Callable[..., Tensor]
    teacher: GuidedVelocity
    attached_teacher: GuidedVelocity
    generator: torch.Generator
    auxiliary: nn.Module | None = None
    networks: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    averages: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def towards(self, t_end: Tensor) -> Step:
        """The step of a method with `two_times`, with all jumps of the student ending at t_end [B].

        Its `student(x, t)`, `target(x, t)` and `target_derivative(x, t, v)` are those of phi(x, t, t_end).
        """
        student, frozen = self.student, self.frozen_student
        return replace(self, student=lambda x, t: student(x, t, t_end), frozen_student=lambda x, t: frozen(x, t, t_end))

    def target(self, x: Tensor, t: Tensor, *t_end: Tensor) -> Tensor:
        """phi of the target weights; no gradient flows through it."""
        with torch.no_grad():
            return self.frozen_student(x, t, *t_end)

    def target_derivative(self, x: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """phi and dphi/dt along velocity v with the target weights, by forward-mode differentiation; no gradient."""
        with torch.no_grad():
            return total_derivative(self.frozen_student, x, t, v)

    def target_end_derivative(self, x: Tensor, t: Tensor, t_end: Tensor) -> tuple[Tensor, Tensor]:
        """phi(x, t, t_end) and its partial derivative in t_end, likewise; of a method with `two_times`."""
        with torch.no_grad():
            return end_derivative(self.frozen_student, x, t, t_end)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A row of the table.

    Attributes:
        cfg_strength: the teacher's guidance strength s in (1 + s) v_cond - s v_neg.
        cfg_interval: times at which guidance acts: one rule for the teacher's own rows and for what students follow.
        rescale_t: time warp of the sampler.
    """

    cfg_strength: float
    cfg_interval: tuple[float, float] = EVERYWHERE
    rescale_t: float = 1.0

    @abstractmethod
    def sampler(self, n_steps: int) -> Sampler:
        """The sampler whose results are reported for `n_steps` steps."""


STUDENT = "student"  # its name beside those of `Distillation.networks`


@dataclass(frozen=True)
class Network:
    """A network that a method has beside its student: a critic, a frozen reference, a small head.

    Attributes:
        rate: peak learning rate of its own optimiser, as a multiple of the student's; 0: it stays as it is.
        period: steps from one of its updates to the next.
        average: decay of its moving average; 0: it has none.
        weights: whether a copy begins with the weights of the student's own beginning (the teacher's, or those of the
            student that a chained training begins as), or every tensor is drawn anew with its mean and spread.
        head: builds another module in place of such a copy, from the network that would be copied. Its weights are
            drawn from torch's global generator, which is seeded for it. The network's `model_channels` is the width of
            its features.
        taps: blocks whose outputs a copy returns in place of its velocity, a `Features` each; 0 is the first block. Or
            how many: so many, spread evenly over the depth up to the last one, and all where there are fewer. Of
            a copy that stays as it is they are the teacher's, with a gradient to x alone. One pass, whatever the taps.
    """

    rate: float = 1.0
    period: int = 1
    average: float = 0.0
    weights: bool = True
    head: Callable[[nn.Module], nn.Module] | None = None
    taps: tuple[int, ...] | int = ()


@dataclass(frozen=True)
class Features:
    """Hidden features behind a block of a flow network, at (x, t) under the batch's condition.

    Attributes:
        values: [B, tokens, width] or [B, width]; of ragged samples [N, width], N tokens of all samples.
        layout: of `values`, for numbers per sample. Tokens may be fewer than the voxels of x.
    """

    values: Tensor
    layout: Layout


@dataclass(frozen=True)
class Begins:
    """A student that a training begins as: another training comes first.

    Attributes:
        label: of its method, `name` or `name:variant`. It follows the same guidance.
        share: of the budget, which the two trainings have together.
    """

    label: str
    share: float


@dataclass(frozen=True)
class StoredPairs:
    """Noises and the ends that the guided teacher takes them to, made once and learned from for several epochs.

    Attributes:
        count: of pairs. epochs: at most.
        solver: what takes the noise to its end.
        watched: whether training ends when the loss on pairs that are held out no longer falls. It is asked for without
            the method's other networks.
    """

    count: int
    epochs: int
    solver: Sampler
    watched: bool = True


@dataclass(frozen=True, kw_only=True)
class Distillation(Method, ABC):
    """A method that trains a student, initialised from the teacher.

    Attributes:
        two_times: whether the student is told where a jump ends. Its network then has a second time, whose embedding
            is zero at first: the student begins as the teacher's velocity, wherever it is to jump.
        lr: learning rate of AdamW.
        target_decay: decay of the moving average used as target weights; 0 = the online weights.
        times: density of the training times. Methods of equal density share the teacher's pair of a batch.
    """

    two_times: ClassVar[bool] = False
    lr: float = 1e-4
    target_decay: float = 0.0
    times: TimeDensity = field(
        default=UNIFORM, metadata={"choices": {"uniform": UNIFORM, "logit_normal": LogitNormal()}}
    )

    @abstractmethod
    def loss(self, step: Step) -> Loss:
        """The loss of one step; see Step."""

    def losses(self, step: Step) -> Iterator[Loss]:
        """Terms that add up to `loss`, each differentiated before the next is computed.

        So no two graphs are in memory at once. Methods of one term leave this as it is.
        """
        yield self.loss(step)

    @abstractmethod
    def cost(self) -> float:
        """Network forward passes per sample and training step; a backward pass counts 2, a JVP 3."""

    def begins_as(self) -> Begins | None:
        """Another method's student that this one begins as; most begin as the teacher."""
        return None

    def networks(self) -> Mapping[str, Network]:
        """Networks beside the student, by names that are the method's own; most methods have none.

        Each has its own optimiser, clipping and average. The loss of a step is the sum of what all of them learn: keep
        with `detach` and `no_grad` from one what is another's.
        """
        return {}

    def student_period(self) -> int:
        """Steps from one update of the student to the next; most methods update it in every step."""
        return 1

    def updates(self, name: str, index: int) -> bool:
        """Whether training step `index` moves STUDENT, or the network of this name. Step 0 moves all."""
        return index % (self.student_period() if name == STUDENT else self.networks()[name].period) == 0

    def auxiliary(self) -> nn.Module | None:
        """A small network that the loss learns beside the student; most methods have none."""
        return None

    def stored_pairs(self) -> StoredPairs | None:
        """The pairs that it learns from, in place of data with independent noise; most methods have none.

        `Step.x_0` is then the end of `Step.noise`. Such a student trains by itself, for a number of steps of its own.
        """
        return None


METHODS: Registry[type[Method]] = Registry("method", group="mdtbench.methods")
