"""The model card of a world: what was trained on what, for how long, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...base.files import write_text
from ..settings.config import Pretrain
from .data import JUDGED_WHOLE

MEASURES = {
    "held_out_iou": "IoU of the reconstruction, held-out toys",
    "held_out_accuracy": "classification accuracy, held-out toys",
    "held_out_retrieval": "own object is the nearest of all held-out objects",
    "held_out_category": "nearest object has the right category",
}


def write_card(
    out: Path,
    recipe: Pretrain,
    measured: Mapping[str, Mapping[str, float]],
    n_judged: int,
    teacher: Mapping[str, Mapping[str, float]],
    second: Mapping[str, Mapping[str, float]],
) -> None:
    """Write MODEL_CARD.md beside the weights.

    Args:
        measured: steps, loss, seconds and quality of each stage.
        teacher: metrics of samplers of the finished teacher on `n_judged` test toys.
        second: the same of the second stage, on the true structures of the first JUDGED_WHOLE; empty without one.
    """
    sizes = {path.stem: path.stat().st_size for path in sorted((out / "ckpts").glob("*.safetensors"))}
    lines = [
        f"# Model card: world `{out.name}`",
        "",
        f"Made by `mdtbench pretrain` from {recipe.assets} procedural toys ({recipe.held_out} held out);"
        " no external data, no external weights. Licence: that of this repository.",
        "",
        "| stage | steps | batch | peak lr | final loss | seconds | quality |",
        "|---|---|---|---|---|---|---|",
        *(_row(stage, values, recipe) for stage, values in measured.items()),
        "",
        "`seconds` are those of the last, possibly resumed, call; quality is that on toys that were not trained on.",
        "",
        f"The teacher on {n_judged} test toys, one generation seed:",
        "",
        *_teacher_table(teacher),
        "",
        *(
            [
                f"The second stage on the true structures of the first {min(JUDGED_WHOLE, n_judged)}:",
                "",
                *_teacher_table(second),
                "",
            ]
            if second
            else []
        ),
        "| file | size (MB) |",
        "|---|---|",
        *(f"| ckpts/{name}.safetensors | {size / 1e6:.2f} |" for name, size in sizes.items()),
        f"| all | {sum(sizes.values()) / 1e6:.2f} |",
        "",
        "These networks make the tool testable. Numbers measured with them compare methods with each other, on toys;",
        "they are not comparable with published ones.",
        "",
    ]
    write_text(out / "MODEL_CARD.md", "\n".join(lines))


def _teacher_table(teacher: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = list(dict.fromkeys(name for values in teacher.values() for name in values))
    return [
        f"| sampler | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
        *(f"| {title} | {' | '.join(_number(values, name) for name in names)} |" for title, values in teacher.items()),
    ]


def _number(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.3f}" if name in values else "-"


def _row(stage: str, values: Mapping[str, float], recipe: Pretrain) -> str:
    section = getattr(recipe, stage, None) or getattr(recipe.second, stage)
    quality = "; ".join(f"{text}: {values[key]:.3f}" for key, text in MEASURES.items() if key in values)
    muon = getattr(section, "matrix_lr", 0.0)
    rate = f"{section.lr:g}, Muon {muon:g}" if muon else f"{section.lr:g}"
    return (
        f"| {stage} | {section.steps} | {section.batch} | {rate} | {values['loss']:.4f} "
        f"| {values['seconds']:.0f} | {quality or '-'} |"
    )
