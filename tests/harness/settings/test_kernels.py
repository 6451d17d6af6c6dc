"""What settings ask for reaches every process, and what is then in use is said by dtype where it differs."""

from __future__ import annotations

from functools import partial
from operator import call
from typing import get_args

import fake_libraries
import pytest
import torch
from silent import Silent

from mdtbench.harness.engine.workers import workers
from mdtbench.harness.settings.config import Attention, Convolution, Gpu
from mdtbench.harness.settings.kernels import in_use, kernels_of
from mdtbench.trellis.kernels import AUTO, OURS, SDPA, SPCONV, Kernels, asked, use_kernels
from mdtbench.trellis.sparse_attention import RAGGED


def test_settings_are_those_that_there_are():
    assert get_args(Attention) == (AUTO, *RAGGED, SDPA)
    assert get_args(Convolution) == (AUTO, OURS, SPCONV)
    assert kernels_of(Gpu()) == Kernels()
    assert kernels_of(Gpu(attention="xformers", convolution="spconv")) == Kernels("xformers", "spconv")


def test_what_is_in_use_is_found_out_as_in_runs(monkeypatch: pytest.MonkeyPatch):
    """xformers has no deterministic backward pass."""
    fake_libraries.on_cpu(monkeypatch)
    fake_libraries.install_xformers(monkeypatch)
    fake_libraries.install_spconv(monkeypatch)
    found = {what: choice.name for what, choice in in_use("cpu", Kernels("xformers", "spconv")).items()}
    assert found == {
        "attention, float16": "xformers",
        "attention, float16 with backward": "sdpa",
        "attention, bfloat16": "xformers",
        "attention, bfloat16 with backward": "sdpa",
        "attention, float32": "sdpa",
        "attention, float32 with backward": "sdpa",
        "convolution, float16": "spconv",
        "convolution, bfloat16": "ours",
        "convolution, float32": "spconv",
    }
    assert not torch.are_deterministic_algorithms_enabled()


def test_without_a_gpu_everything_is_ours():
    for device in ("cpu", "cuda") if not torch.cuda.is_available() else ("cpu",):
        found = in_use(device, Kernels("xformers", "spconv"))
        assert {choice.name for choice in found.values()} == {SDPA, OURS}


def test_every_process_asks_for_the_same():
    prepare = partial(use_kernels, Kernels("sdpa", "spconv"))
    with workers(1, Silent(), prepare=prepare) as team:
        assert team.map(call, [asked], "ask", 1) == [Kernels("sdpa", "spconv")]
    assert asked() == Kernels()
