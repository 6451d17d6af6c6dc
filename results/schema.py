"""The published JSON Schema of a row: `row.schema.json` beside this file, and what each field means."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .rows import COST_METRICS, Row

SCHEMA_FILE: Final = Path(__file__).with_name("row.schema.json")
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Meaning:
    """What a field says; its unit, "" where it is no quantity."""

    text: str
    unit: str = ""


MEANINGS: Final = {
    "schema_version": Meaning("Version of this schema. Versions 1 to 3 are read too: they lack fields."),
    "run_id": Meaning("The run that measured the value: the first 12 digits of the digest of all that decides it."),
    "status": Meaning(
        "ok: there is a value. failed: there is none, as the method could not make it. lost: there is none, as a fault "
        "of the machine was in the way; the same command tries again. `error` says why."
    ),
    "error": Meaning("Why there is no value; null when status is ok."),
    "method": Meaning(
        "Distillation method; of evaluations the system; or a control: floor, truth, shuffled, reconstruction, "
        "teacher, none (the undistilled teacher)."
    ),
    "method_version": Meaning("Version of the method's code: values of two versions are of two methods."),
    "variant": Meaning("Named change of the method's parameters; empty for the method itself."),
    "train_seed": Meaning("Seed of the student's training; null where nothing is trained."),
    "sampler": Meaning("How samples are drawn; null where nothing is sampled or it was not recorded."),
    "own_sampler": Meaning("Whether `sampler` computes what the one that the method is made for does."),
    "extra_sampler": Meaning(
        "Whether the value is of a line beside the method's plain one, which has the protocol's sampler. Up to version "
        "3: whether `own_sampler` is false."
    ),
    "steps": Meaning("Sampler steps of each stage that the method samples; null without a sampler.", "steps"),
    "nfe": Meaning(
        "Network forward passes per asset: both passes of guidance count, and of whole assets both stages.", "passes"
    ),
    "cfg_strength": Meaning("Guidance strength s of the teacher: v = (1 + s) v_cond - s v_uncond; 0 is no guidance."),
    "seed": Meaning("Seed of the noise that assets are generated from; null where nothing is generated."),
    "stage": Meaning(
        "What was measured: structure (structures alone), both (whole assets), structure+teacher and teacher+slat "
        "(whole assets with one stage left to the teacher), evaluation (assets of any system), oracle/NAME (a problem "
        "with an exact answer)."
    ),
    "split": Meaning("The assets: of a run the part of the data, of an evaluation the folder of the reference."),
    "metric": Meaning("Name of the metric; [random] at its end: extractors with random weights, so it means nothing."),
    "metric_version": Meaning("Version of the metric's definition: values of two versions are not comparable."),
    "unit": Meaning("Unit of `value` and `stderr`; empty for a pure number. x100: multiplied by 100."),
    "value": Meaning("The measured value; null when status is failed or lost. Never NaN or infinite.", "`unit`"),
    "stderr": Meaning(
        "Standard error of `value` over assets; of seconds the standard deviation over repeats; null for distances of "
        "distributions.",
        "`unit`",
    ),
    "n_ok": Meaning("Assets that were generated and measured without a failure.", "assets"),
    "n_total": Meaning("Assets that were to be measured; of seconds, those that are timed.", "assets"),
    "higher_is_better": Meaning("The metric's direction."),
    "note": Meaning("What a reader of a table must know of this value."),
    "config_sha": Meaning("sha256 of all that decides the run; of an evaluation that of the protocol."),
    "weights_sha": Meaning("Digest of the networks; of an evaluation the extractor and its weights."),
    "reference_sha": Meaning("Digest of the assets that the value compares with."),
    "git_commit": Meaning("Commit of the code; null outside a checkout, `imported` in rows of other tools."),
    "git_dirty": Meaning("Whether the checkout had changes that are not committed; null where unknown."),
    "torch": Meaning("Version of torch; `imported` in rows of other tools."),
    "device": Meaning("Model of the processor or GPU that networks computed on."),
    "wall_s": Meaning(f"The value again, in rows of {', '.join(COST_METRICS)} only.", "s per asset"),
    "peak_mem_gb": Meaning("Largest memory in use; null where it was not measured.", "GB"),
    "created_utc": Meaning("When the row was made, as ISO 8601 in UTC."),
}

# What types alone do not say: a value or an error, never both.
_CONSISTENT: Final = [
    {
        "if": {"properties": {"status": {"const": "ok"}}},
        "then": {"required": ["value"], "properties": {"value": {"type": "number"}, "error": {"type": "null"}}},
        "else": {
            "required": ["error"],
            "properties": {"value": {"type": "null"}, "error": {"type": "string", "minLength": 1}},
        },
    },
    {
        "if": {"required": ["wall_s"], "properties": {"wall_s": {"type": "number"}}},
        "then": {"properties": {"metric": {"enum": list(COST_METRICS)}}},
    },
]


def row_schema() -> dict[str, Any]:
    """The schema of one line of rows.jsonl, made from the model that checks rows when they are read and written.

    Fields with a default may be left out, as shipped baselines do. It does not say that n_ok is at most n_total, nor
    that `created_utc` is a time; the model checks both.
    """
    schema = Row.model_json_schema()
    properties = {name: _described(name, field) for name, field in schema["properties"].items()}
    about = {"$schema": DIALECT, "title": "Row", "description": "One line of rows.jsonl: one value, or one failure."}
    required = ["schema_version", *schema["required"]]  # the model fills it in, a reader must not
    return schema | about | {"properties": properties, "required": required, "allOf": _CONSISTENT}


def schema_text() -> str:
    """The schema as it is published."""
    return json.dumps(row_schema(), indent=1, ensure_ascii=False) + "\n"


def _described(name: str, field: dict[str, Any]) -> dict[str, Any]:
    meaning = MEANINGS[name]
    unit = f" Unit: {meaning.unit}." if meaning.unit else ""
    return {key: value for key, value in field.items() if key != "title"} | {"description": meaning.text + unit}
