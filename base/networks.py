"""Networks by name: what a checkpoint's configuration {"name", "args"} refers to. Imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import MissingError, UsageError, unknown_name
from .registry import Registry

LISTED = 5  # faults named in a message


@dataclass(frozen=True)
class NetworkTable:
    """The networks of a room.

    Attributes:
        classes: constructors by the name that configurations use.
        ignored_prefix: dropped from names; TRELLIS prefixes classes that trade memory for time in training.
        plugins: those that plug-ins add.
    """

    classes: Mapping[str, type[nn.Module]]
    ignored_prefix: str = ""
    plugins: Registry[type[nn.Module]] | None = None

    def create(self, name: str, args: Mapping[str, object], *, seed: int = 0) -> nn.Module:
        """A network with starting weights.

        Args:
            name: class name of a configuration.
            args: arguments of the constructor.
            seed: of the starting weights. torch's global generator is left as it was.

        Raises:
            UsageError: unknown name, unknown or missing arguments, or values the network cannot have.
        """
        network = self._network(name)
        _check_args(network.__name__, network, args)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return network(**args)

    def _network(self, name: str) -> type[nn.Module]:
        plain, more = name.removeprefix(self.ignored_prefix), self.plugins
        if plain in self.classes:
            return self.classes[plain]
        if more is None:
            raise unknown_name("network", plain, self.classes)
        if name not in more.names():
            hint = f"One of a file of your own needs --plugin FILE; plug-ins: entry-point group '{more.group}'."
            raise unknown_name("network", plain, [*self.classes, *more.names()], hint)
        return more.get(name).value


def _check_args(name: str, network: type[nn.Module], args: Mapping[str, object]) -> None:
    parameters = inspect.signature(network).parameters
    unknown = [key for key in args if key not in parameters]
    required = [key for key, value in parameters.items() if value.default is inspect.Parameter.empty]
    missing = [key for key in required if key not in args]
    faults = [f"{kind} {', '.join(keys)}" for kind, keys in (("unknown", unknown), ("missing", missing)) if keys]
    if faults:
        raise UsageError(f"Arguments of {name}: {'; '.join(faults)}. Allowed: {', '.join(parameters)}.")


def check_fit(path: Path, module: nn.Module, tensors: Mapping[str, Tensor], advice: str = "Check its .json.") -> None:
    """Raises MissingError unless `tensors`, of the file `path`, has exactly the keys and shapes of the module's state.

    advice: what the message tells the user to do.
    """
    state = module.state_dict()
    missing = [key for key in state if key not in tensors]
    unexpected = [key for key in tensors if key not in state]
    other_shape = [
        f"{key} {list(tensors[key].shape)} instead of {list(value.shape)}"
        for key, value in state.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "other shape": other_shape}
    faults = [f"{kind}: {_first(found)}" for kind, found in kinds.items() if found]
    if faults:
        raise MissingError(
            f"{path} does not fit {type(module).__name__}: found {len(tensors)} tensors, expected {len(state)} "
            f"({'; '.join(faults)}). {advice}"
        )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
