"""`mdtbench bench sparse`: it times what it says, and counts what there is."""

from __future__ import annotations

import json

import fake_libraries
import pytest
import torch
from silent import Silent
from torch.nn import functional as F

from mdtbench.harness.bench.full_size import Shell
from mdtbench.harness.bench.sparse import (
    BOTH_WAYS,
    FORWARD,
    LARGE_REPETITIONS,
    Timing,
    Work,
    convolution,
    flow_step,
    measured,
    neighbour_search,
    sparse_json,
    sparse_text,
    windowed_attention,
)
from mdtbench.trellis.kernels import Kernels, asked

SMALL = Shell(60, 8)
FLOW = {
    "resolution": 8,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "cond_channels": 8,
    "num_blocks": 1,
    "num_heads": 2,
    "num_io_res_blocks": 1,
    "io_block_channels": [32],
}


def occupied(shell: Shell) -> torch.Tensor:
    """[R, R, R] float."""
    grid = torch.zeros(shell.side, shell.side, shell.side)
    x, y, z = shell.voxels("cpu").coords[:, 1:].long().T
    return grid.index_put((x, y, z), torch.ones(shell.count))


@pytest.mark.parametrize("shell", [SMALL, Shell(600, 16)])
def test_a_shell_has_its_cells_once_and_near_its_sphere(shell: Shell):
    grid = occupied(shell)
    assert grid.sum() == shell.count
    centre = (grid.nonzero() + 0.5) / shell.side - 0.5
    assert (centre.norm(dim=1) - 0.4).abs().max() < 2 / shell.side


def test_the_flops_are_those_of_the_pairs_that_meet():
    """A dense convolution of ones with ones counts the pairs at every voxel."""
    grid = occupied(SMALL)
    pairs = (F.conv3d(grid[None, None], torch.ones(1, 1, 3, 3, 3), padding=1)[0, 0] * grid).sum().item()
    assert convolution(SMALL, 5, "cpu").gflop == pytest.approx(2 * pairs * 25 / 1e9, rel=1e-6)  # pairs as float32


def test_the_flops_of_attention_are_those_of_rows_in_the_same_window():
    window = torch.div(SMALL.voxels("cpu").coords[:, 1:], 8, rounding_mode="floor")
    together = (window[:, None] == window[None]).all(2).sum().item()
    assert windowed_attention(SMALL, 2, 3, "cpu").gflop == pytest.approx(4 * together * 6 / 1e9)


def test_every_part_runs_both_ways_and_differentiates_all_that_it_has():
    makers = [convolution(SMALL, 4, "cpu"), windowed_attention(SMALL, 2, 4, "cpu")]
    makers.append(flow_step("network", FLOW, SMALL, 3, "cpu"))
    for work in makers:
        out = work.forward()
        assert len(out) == SMALL.count
        assert len(torch.autograd.grad(out.sum(), work.inputs)) == len(work.inputs) >= 3
    assert not neighbour_search(SMALL, "cpu").inputs


def test_a_library_is_timed_through_the_layers_of_networks(monkeypatch: pytest.MonkeyPatch):
    fake_libraries.on_cpu(monkeypatch)
    calls = [fake_libraries.install_spconv(monkeypatch), fake_libraries.install_varlen(monkeypatch)]
    works = [convolution(SMALL, 4, "cpu", by="spconv")]
    works.append(windowed_attention(SMALL, 2, 8, "cpu", dtype=torch.float16, by="varlen"))
    assert [(work.by, work.forward().shape) for work in works] == [("spconv", (60, 4)), ("varlen", (60, 16))]
    assert [count[name] for count, name in zip(calls, ("spconv", "varlen"), strict=True)] == [2, 2]  # with the trial
    assert asked() == Kernels()


def test_large_parts_are_repeated_less():
    def counted(voxels: int) -> Work:
        x = torch.ones(3, requires_grad=True)
        return Work("part", "ours", voxels, 1.0, lambda: 2 * x, (x,))

    found = measured([lambda _: counted(100), lambda _: counted(100_000)], "cpu", 7, Silent())
    assert [(timing.passes, len(timing.seconds)) for timing in found] == [
        (FORWARD, 7),
        (BOTH_WAYS, 7),
        (FORWARD, LARGE_REPETITIONS),
        (BOTH_WAYS, LARGE_REPETITIONS),
    ]
    assert [timing.gflop for timing in found[:2]] == [1.0, 3.0]  # a backward pass is two more


FIGURES = [
    Timing("cpu x", "convolution 32 -> 32", "ours", FORWARD, 600, 0.02, (0.002, 0.004, 0.003)),
    Timing("cpu x", "neighbour table", "ours", FORWARD, 600, 0, (0.01,)),
    Timing("gpu y", "convolution 32 -> 32", "spconv", BOTH_WAYS, 600, 0.06, (0.001,)),
]


def test_the_text_names_units_and_spread():
    text = sparse_text(FIGURES)
    convolution, table, rival = (line for line in text.splitlines() if "600" in line)
    assert "3.00 (2.00 to 4.00)" in convolution
    assert convolution.split()[-3:] == ["200.0", "6.7", "3"]  # 600 voxels in 3 ms, 0.02 GFLOP in 3 ms
    assert table.split()[-2:] == ["-", "1"]
    assert "spconv" in rival
    assert "time in ms" in text
    assert text.index("cpu x") < text.index("gpu y")
    assert "spconv: not measured" in sparse_text(FIGURES[:2])
    assert "spconv: not measured" not in text


def test_the_json_holds_everything():
    found = json.loads(sparse_json(FIGURES))
    assert found["benchmark"] == "sparse"
    assert found["timings"][0]["seconds"] == [0.002, 0.004, 0.003]
    assert found["timings"][0]["voxels_per_s"] == pytest.approx(200_000)
