"""`mdtbench bench gpu`, rehearsed on the CPU; and what becomes of a check that fails."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mdtbench.base.errors import UsageError
from mdtbench.harness.bench import gpu
from mdtbench.harness.bench.full_size import SMALL
from mdtbench.harness.bench.gpu import CHECKS, bench_gpu
from mdtbench.harness.bench.gpu_session import Line, Session, difference, randomised
from mdtbench.harness.inputs.world import HubConditioner
from mdtbench.metrics.official.networks import vision_transformer


def made(out: Path | None = None, seconds: int = 600, only: str = "") -> list[Line]:
    lines: list[str] = []
    bench_gpu(tiny=True, seconds=seconds, out=out, echo=lines.append, only=only)
    return [json.loads(line) for line in lines]


def test_every_check_runs_on_a_cpu(tmp_path: Path):
    found = made(tmp_path / "gpu.jsonl")
    assert [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()] == found
    assert list(dict.fromkeys(line["check"] for line in found)) == [*(check.__name__ for check in CHECKS), "done"]
    assert [line for line in found if "error" in line or "skipped" in line] == []
    by_check = {name: [line for line in found if line["check"] == name] for name in {line["check"] for line in found}}
    assert by_check["neighbour_table"][0]["equal_to_cpu"]
    assert all(line["repeats_its_bits"] for line in by_check["against_the_cpu"])
    assert by_check["convolutions"][0]["relative_difference"] < 1e-5
    assert next(line for line in by_check["attention"] if line["what"] == "varlen")["refused"].endswith("this is cpu")
    for stage, name in (("structure", "structure_steps"), ("slat", "slat_steps")):
        [line] = by_check[name]
        assert (line["stage"], line["method"], line["skipped_steps"]) == (stage, "cm", 0)
        assert line["seconds_per_sample"] > 0
    parts = by_check["pipeline"][0]
    assert parts["total_s"] == pytest.approx(
        sum(v for k, v in parts.items() if k.endswith("_s") and k not in ("total_s", "at_s")), abs=1e-3
    )


def test_a_check_that_fails_is_a_line_and_the_next_begins(monkeypatch: pytest.MonkeyPatch):
    def broken(session: Session) -> Iterator[Line]:
        yield {"what": "first"}
        raise RuntimeError("no kernel\nimage")

    monkeypatch.setattr(gpu, "CHECKS", (broken, gpu.environment))
    first, second, third, last = made()
    assert first["what"] == "first"
    assert (second["check"], second["error"]) == ("broken", "RuntimeError: no kernel image")
    assert second["where"].startswith("test_gpu.py:")
    assert (third["check"], third["torch"], last["check"]) == ("environment", torch.__version__, "done")


def test_no_check_begins_without_time():
    *skipped, last = made(seconds=1)
    assert [line["check"] for line in skipped] == [check.__name__ for check in CHECKS]
    assert all(line["skipped"] for line in skipped)
    assert last["check"] == "done"


def test_checks_may_be_chosen_and_a_gpu_is_needed_without_a_rehearsal(monkeypatch: pytest.MonkeyPatch):
    assert [line["check"] for line in made(only="environment")] == ["environment", "done"]
    with pytest.raises(UsageError, match=r"no check 'speed'. Available: environment, ceilings"):
        made(only="speed")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"no CUDA device here.*--tiny"):
        bench_gpu(tiny=False, seconds=1, out=None, echo=print)


def test_speeds_are_shares_of_what_was_measured():
    session = Session(torch.device("cuda"), SMALL, time.monotonic() + 1, peak_tflops=800.0)
    assert session.speed(4.0, 0.01) == {"tflops": 400.0, "share_of_peak": 0.5}
    assert session.speed(0.0, 0.01) == {}


def test_conditions_are_encoded_in_half_precision_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch):
    """As there, on the CPU: float32 comes out, and tokens differ by roundings of float16."""
    network = randomised(vision_transformer("vit_large_patch14_reg4_dinov2", 56, depth=1, embed_dim=64, num_heads=2))
    pictures = torch.randint(0, 256, (9, 3, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inside: set[torch.dtype] = set()
    network.blocks[0].mlp.register_forward_hook(lambda _, __, out: inside.add(out.dtype))  # type: ignore[index]
    with torch.no_grad():
        exact = HubConditioner(network)(pictures)
        assert inside == {torch.float32}
        monkeypatch.setattr(HubConditioner, "half_on", frozenset({"cpu"}))
        half = HubConditioner(network)(pictures)
    assert (half.dtype, half.shape, inside) == (torch.float32, exact.shape, {torch.float32, torch.float16})
    assert 0 < difference(half, exact) < 2e-3  # float16 rounds by 2^-11
