"""Networks by name: what a checkpoint's configuration {"name", "args"} refers to. Imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from .errors import UsageError, unknown_name


@dataclass(frozen=True)
class NetworkTable:
    """The networks of a room.

    Attributes:
        classes: constructors by the name that configurations use.
        ignored_prefix: dropped from names; TRELLIS prefixes classes that trade memory for time in training.
    """

    classes: Mapping[str, type[nn.Module]]
    ignored_prefix: str = ""

    def create(self, name: str, args: Mapping[str, object], *, seed: int = 0) -> nn.Module:
        """A network with starting weights.

        Args:
            name: class name of a configuration.
            args: arguments of the constructor.
            seed: of the starting weights. torch's global generator is left as it was.

        Raises:
            UsageError: unknown name, unknown or missing arguments, or values the network cannot have.
        """
        plain = name.removeprefix(self.ignored_prefix)
        if plain not in self.classes:
            raise unknown_name("network", plain, self.classes)
        network = self.classes[plain]
        _check_args(plain, network, args)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return network(**args)


def _check_args(name: str, network: type[nn.Module], args: Mapping[str, object]) -> None:
    parameters = inspect.signature(network).parameters
    unknown = [key for key in args if key not in parameters]
    required = [key for key, value in parameters.items() if value.default is inspect.Parameter.empty]
    missing = [key for key in required if key not in args]
    faults = [f"{kind} {', '.join(keys)}" for kind, keys in (("unknown", unknown), ("missing", missing)) if keys]
    if faults:
        raise UsageError(f"Arguments of {name}: {'; '.join(faults)}. Allowed: {', '.join(parameters)}.")
