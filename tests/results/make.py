"""Synthetic rows."""

from __future__ import annotations

from mdtbench.results.asset_values import AssetValue
from mdtbench.results.rows import Row

METHODS = ("mdt", "vm", "scm", "pcm", "cm")
HIGHER = {"ULIP_tiny": True}


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
        for index, method in enumerate(METHODS, 1):
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


SECONDS = {"structure_s": 0.125, "slat_s": 0.25, "decode_s": 0.5}  # of one step; distinct, exact, and their sum too
APART = {"structure+teacher": 1000.0, "teacher+slat": 2000.0}  # what each adds to FD


def whole_run() -> list[Row]:
    """`run` and whole assets: in both stages FD_gs is 100 * index / steps + seed, ULIP_tiny 70 - index.

    One stage alone, of cm, mdt and the undistilled: FD_gs adds 1000 or 2000, and the order of methods is turned round.
    """
    rows = run()
    for steps in (1, 2):
        for index, method in enumerate((*METHODS, "none"), 1):
            for seed in range(2):
                at = {"steps": steps, "seed": seed, "train_seed": None if method == "none" else 0}
                at["variant"] = "cfg" if method == "none" else ""
                rows += _whole(method, 100 * index / steps + seed, 70 - index, nfe=2 * steps, stage="both", **at)
                for stage, more in APART.items() if method in ("cm", "mdt", "none") else ():
                    value = more - 100 * index / steps + seed
                    rows += _whole(method, value, 60 + index, nfe=steps + 44, stage=stage, **at)
    teacher = {"steps": 25, "train_seed": None, "stage": "both", "nfe": 88}
    rows += _whole("teacher", 7.0, 75.0, **teacher)
    none = {"steps": None, "nfe": None, "train_seed": None, "stage": "both"}
    rows += [row(name, "FD_gs", 0.25, **none) for name in ("floor", "reconstruction")]
    rows += [row(name, "ULIP_tiny", 80.0, unit="x100", **none) for name in ("truth", "shuffled")]
    return rows


def _whole(method: str, fd: float, ulip: float, **at) -> list[Row]:
    seconds = SECONDS | {"latency_s": sum(SECONDS.values())}
    costs = [row(method, name, s * at["steps"], unit="s", wall_s=s * at["steps"], **at) for name, s in seconds.items()]
    return [row(method, "FD_gs", fd, **at), row(method, "ULIP_tiny", ulip, unit="x100", **at), *costs]


def asset(name: str, values: dict[str, float] | None = None, method: str = "cm", **changes) -> AssetValue:
    """A valid value of one asset, of the cell that `row` is of."""
    cell = {"run_id": "run", "method": method, "train_seed": 0, "steps": 1, "seed": 0, "asset": name, "ok": True}
    return AssetValue.model_validate(cell | {"values": {} if values is None else values} | changes)
