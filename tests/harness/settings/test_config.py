"""Presets and --set: what is accepted, what wins, and what a wrong key or value is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from mdtbench.base.errors import UsageError
from mdtbench.harness.oracle import is_oracle, load_oracle_config
from mdtbench.harness.settings.config import Config, load_config, preset_names

MINIMAL = """
world = "tiny"
[data]
train = 3
test = 2
[train]
steps = 4
batch = 2
[evaluate]
"""


def message(*changes: str, preset: str = "tiny") -> str:
    """The error of a call that must fail, which must be one line."""
    with pytest.raises(UsageError) as caught:
        load_config(preset, list(changes))
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_shipped_presets_load():
    assert {"smoke", "tiny", "oracle", "paper"} <= set(preset_names())
    for name in preset_names():
        config = load_oracle_config(name) if is_oracle(name) else load_config(name)
        assert config.train.steps > 0
    assert load_config("tiny").pretrain is not None


def keys(values: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in values.items():
        found |= keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


def test_smoke_is_tiny_with_smaller_numbers():
    """A key means the same in both: the same unit, the same world, the same generation seeds. Smoke has all columns."""
    smoke, tiny = load_config("smoke"), load_config("tiny")
    unset = {"exclude_unset": True}
    assert keys(smoke.model_dump(**unset)) <= keys(tiny.model_dump(**unset)) | {"protocol.columns"}
    assert (smoke.world, smoke.evaluate.steps, smoke.evaluate.seeds) == (
        tiny.world,
        tiny.evaluate.steps,
        tiny.evaluate.seeds,
    )
    assert (smoke.protocol.columns, tiny.protocol.columns) == ("all", "main")
    assert (smoke.train.t_min, smoke.train.clip) == (tiny.train.t_min, tiny.train.clip)
    assert smoke.data.train <= tiny.data.train
    assert smoke.train.steps <= tiny.train.steps


def test_precedence_defaults_then_preset_then_set_then_the_last_set(tmp_path: Path):
    preset = tmp_path / "mine.toml"
    preset.write_text(MINIMAL)
    plain = load_config(str(preset))
    assert (plain.train.ema, plain.data.train, plain.evaluate.seeds) == (0.99, 3, ())  # default, preset, default
    changed = load_config(str(preset), ["train.ema=0.5", "data.train=9", "data.train=8", "evaluate.seeds=[4]"])
    assert (changed.train.ema, changed.data.train, changed.evaluate.seeds) == (0.5, 8, (4,))
    assert load_config(str(preset)) == plain  # nothing sticks


def test_values_are_toml_and_bare_words_are_text():
    config = load_config(
        "smoke",
        ["world=other", "protocol=mine", "train.lr=1e-3", " methods.vm.delta = 0.02 ", 'methods.vm.name="x=y"'],
    )
    assert (config.world, config.protocol.name) == ("other", "mine")
    assert config.train.lr == 1e-3
    assert config.methods == {"vm": {"delta": 0.02, "name": "x=y"}}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("train.step=3", ["'train.step'", "Did you mean 'train.steps'?"]),
        ("tran.steps=3", ["'tran'", "Did you mean 'train'?"]),
        ("pretrain.teacher.stps=3", ["Did you mean 'pretrain.teacher.steps'?"]),
        ("zzz=3", ["Unknown key 'zzz'", "Available:", "world"]),
        ("train.steps=many", ["train.steps", "'many'", "integer"]),
        ("train.steps=0", ["train.steps", "greater than 0", "(got 0)"]),
        ("train.steps=1.5", ["train.steps", "(got 1.5)"]),
        ("train.ema=1", ["train.ema", "less than 1"]),
        ("evaluate.seeds=3", ["evaluate.seeds", "(got 3)"]),
        ("data.train.x=3", ["'train' is a value, not a table"]),
        ("data=3", ["data", "(got 3)"]),
        ("train.steps", ["key=value", "'train.steps'", "--set train.steps=100"]),
        ("=3", ["key=value"]),
    ],
)
def test_a_wrong_change_says_what_is_wrong_and_what_is_allowed(change: str, parts: list[str]):
    text = message(change)
    for part in parts:
        assert part in text


def test_a_preset_of_another_kind_says_what_it_lacks():
    with pytest.raises(UsageError, match="Preset 'oracle' names no world of networks"):
        load_config("oracle")


def test_both_stages_have_one_budget_and_their_own_training(tmp_path: Path):
    preset = tmp_path / "mine.toml"
    preset.write_text(MINIMAL)
    config = load_config(str(preset), ["slat.steps=7", "slat.batch=3", "train.budget=seconds"])
    assert config.stage("structure") == config.train
    assert (config.stage("slat").steps, config.stage("slat").budget) == (7, "seconds")
    for without in (config.first_stage, load_config(str(preset))):
        with pytest.raises(UsageError, match=r"no \[slat\] table"):
            without.stage("slat")


def test_an_unknown_preset_suggests_the_nearest():
    assert "Did you mean 'smoke'?" in message(preset="smok")


@pytest.mark.parametrize("content", [b"world = ", b"\xff\xfe", b""])
def test_an_unreadable_preset_is_named(tmp_path: Path, content: bytes):
    preset = tmp_path / "mine.toml"
    preset.write_bytes(content)
    assert "mine.toml" in message(preset=str(preset))


def test_a_preset_that_is_not_there_is_named(tmp_path: Path):
    assert "none.toml" in message(preset=str(tmp_path / "none.toml"))


def test_every_section_is_closed_and_frozen():
    """No table takes a key that it does not know, at any depth; [methods] is checked by the plan."""

    def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
        below = [
            option
            for field in model.model_fields.values()
            for option in getattr(field.annotation, "__args__", (field.annotation,))
            if isinstance(option, type) and issubclass(option, BaseModel)
        ]
        return [model, *(section for child in below for section in sections(child))]

    found = sections(Config)
    assert len(found) > 10
    for section in found:
        assert (section.model_config.get("extra"), section.model_config.get("frozen")) == ("forbid", True)
