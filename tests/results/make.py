"""Synthetic rows."""

from __future__ import annotations

from mdtbench.results.rows import Row

HIGHER = {"ULIP_tiny": True, "FD_tiny2d": False, "latency_s": False}


def row(method: str = "cm", metric: str = "FD_tiny2d", value: float | None = 1.0, **changes) -> Row:
    """A valid row; a failed one when `value` is None."""
    values = {
        "run_id": "run",
        "status": "ok" if value is not None else "failed",
        "error": None if value is not None else "loss is not finite",
        "method": method,
        "method_version": 1,
        "train_seed": 0,
        "steps": 1,
        "nfe": 1,
        "cfg_strength": 0.0,
        "seed": 0,
        "split": "test",
        "metric": metric,
        "metric_version": 1,
        "value": value,
        "n_ok": 64 if value is not None else 0,
        "n_total": 64,
        "higher_is_better": HIGHER.get(metric, False),
        "config_sha": "c0ffee",
        "torch": "2.6",
        "device": "cpu",
        "created_utc": "2026-11-21T12:00:00+00:00",
    }
    return Row.model_validate(values | changes)


def run() -> list[Row]:
    """All methods at 1 and 2 steps, three generation seeds; FD is 10 * index / steps + seed."""
    rows = []
    for steps in (1, 2):
        for index, method in enumerate(("mdt", "vm", "scm", "pcm", "cm"), 1):
            for seed in range(3):
                at = {"steps": steps, "nfe": steps, "seed": seed}
                rows.append(row(method, "FD_tiny2d", 10 * index / steps + seed, **at))
                rows.append(row(method, "ULIP_tiny", 40 - index + seed / 10, unit="x100", **at))
                rows.append(row(method, "latency_s", 0.25 * steps, unit="s", wall_s=0.25 * steps, **at))
        for variant, nfe in (("", steps), ("cfg", 2 * steps)):
            at = {"steps": steps, "nfe": nfe, "variant": variant, "train_seed": None}
            rows.append(row("none", "FD_tiny2d", 0.5, **at))  # better than any student, and no student
    none = {"steps": None, "nfe": None, "train_seed": None}
    rows += [row("floor", value=0.1, **none), row("reconstruction", value=0.2, **none)]
    rows.append(row("teacher", value=0.3, steps=25, nfe=44, train_seed=None))
    return rows
