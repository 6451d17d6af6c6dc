"""Names, suggestions, plug-ins found and plug-ins broken."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mdtbench.base import registry
from mdtbench.base.errors import UsageError
from mdtbench.base.registry import Registry, RegistryError

GROUP = "mdtbench.test_things"


@pytest.fixture
def things() -> Registry[type]:
    made: Registry[type] = Registry("thing", group=GROUP)
    for name in ("cm", "mdt", "pcm"):
        made.register(name, version=2, source=f"paper of {name}", variants={"": {}, "long": {"steps": 9}})(dict)
    return made


def install(folder: Path, package: str, entry_points: str, **modules: str) -> None:
    """A distribution as pip leaves it: metadata and modules."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_points}\n")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)


def test_entry_keeps_what_was_registered(things: Registry[type]):
    entry = things.get("mdt")
    assert (entry.name, entry.value, entry.version, entry.source) == ("mdt", dict, 2, "paper of mdt")
    assert entry.variants == {"": {}, "long": {"steps": 9}}
    assert things.names() == ["cm", "mdt", "pcm"]


def test_register_returns_the_object(things: Registry[type]):
    assert things.register("set", version=1, source="here")(set) is set


def test_a_name_twice_is_an_error(things: Registry[type]):
    with pytest.raises(RegistryError, match="'cm' is registered twice"):
        things.register("cm", version=1, source="elsewhere")(list)
    assert things.get("cm").value is dict  # the first stays


@pytest.mark.parametrize(("typed", "meant"), [("mtd", "mdt"), ("pcn", "pcm"), ("mdt2", "mdt")])
def test_an_unknown_name_suggests_the_nearest(things: Registry[type], typed: str, meant: str):
    with pytest.raises(UsageError) as caught:
        things.get(typed)
    message = str(caught.value)
    assert f"Unknown thing '{typed}'. Did you mean '{meant}'?" in message
    assert "Available: cm, mdt, pcm." in message
    assert f"'{GROUP}'" in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_a_name_like_no_other_suggests_nothing(things: Registry[type]):
    with pytest.raises(UsageError) as caught:
        things.get("zzzzzz")
    assert "Did you mean" not in str(caught.value)


def test_plugin_is_listed_without_import_and_imported_on_demand(
    things: Registry[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    install(
        tmp_path,
        "good_pack",
        "mine = good_pack_module",
        good_pack_module="import registry_under_test\n"
        "registry_under_test.things.register('mine', version=1, source='me')(frozenset)\n",
    )
    monkeypatch.setitem(sys.modules, "registry_under_test", type(sys)("registry_under_test"))
    sys.modules["registry_under_test"].things = things
    monkeypatch.syspath_prepend(tmp_path)
    assert things.names() == ["cm", "mdt", "mine", "pcm"]
    assert "good_pack_module" not in sys.modules
    assert things.get("mine").value is frozenset
    monkeypatch.delitem(sys.modules, "good_pack_module")


@pytest.mark.parametrize("text", ["import no_such_dependency\n", "from math import no_such_name\n"])
def test_broken_plugin_names_its_package(
    things: Registry[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
):
    install(tmp_path, "bad_pack", "broken = bad_pack_module", bad_pack_module=text)
    monkeypatch.syspath_prepend(tmp_path)
    assert "broken" in things.names()  # listing does not import it
    assert things.get("cm").value is dict  # and it does not disturb the others
    with pytest.raises(UsageError, match="'broken' of package 'bad_pack'") as caught:
        things.get("broken")
    assert "no_such" in str(caught.value)


def test_plugin_without_its_attribute_names_its_module(things: Registry[type], monkeypatch: pytest.MonkeyPatch):
    """An entry point of no known distribution: the module is named instead."""
    point = EntryPoint("odd", "math:no_such_attribute", GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == GROUP else [])
    with pytest.raises(UsageError, match="'odd' of package 'math:no_such_attribute'"):
        things.get("odd")


def test_plugin_that_does_not_register_its_name(things: Registry[type], monkeypatch: pytest.MonkeyPatch):
    point = EntryPoint("silent", "math", GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(UsageError, match="Unknown thing 'silent'"):
        things.get("silent")
