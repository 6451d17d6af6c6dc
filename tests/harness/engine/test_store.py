"""The cache: entries are whole or absent, found by their inputs alone, and damage never reaches a result."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from mdtbench.base import files
from mdtbench.base.errors import MissingError, RunError, UsageError
from mdtbench.harness.cli.cache import cache_app, size_text
from mdtbench.harness.engine.store import FORMAT, Address, Slot, Store
from mdtbench.harness.engine.upkeep import LEFTOVERS, QUARANTINED, Item, collect, items, to_collect

INPUTS = {"asset": "chair", "weights": "ab12", "size": 224, "scale": 0.1}
ADDRESS = Address("features", INPUTS)
DAY = 86400.0
OLD = 10**9  # seconds since the epoch


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "features": generator.standard_normal((5, 7)).astype(np.float32),
        "pictures": generator.integers(0, 256, (2, 3, 4, 4), np.uint8),
        "ids": np.array(["chair", "lamp"]),
    }


def same(one: dict[str, np.ndarray] | None, other: dict[str, np.ndarray]) -> bool:
    return (
        one is not None
        and one.keys() == other.keys()
        and all(one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in other)
    )


@pytest.fixture
def told() -> list[str]:
    """What a store warns of."""
    return []


@pytest.fixture
def store(tmp_path: Path, told: list[str]) -> Store:
    return Store(tmp_path / "cache", told.append)


def slot_of(store: Store, address: Address = ADDRESS) -> Slot:
    return Slot(store.root, address.kind, address.digest)


# Addresses


def test_an_address_is_the_sha256_of_the_shortest_json_of_format_kind_and_inputs():
    address = Address("features", {"b": [1, 2.5e-07], "a": 0.1 + 0.2, "c": {"y": None, "x": True}})
    text = '[1,"features",{"a":0.30000000000000004,"b":[1,2.5e-07],"c":{"x":true,"y":null}}]'
    assert FORMAT == 1
    assert address.digest == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        Address("renders", INPUTS),
        Address("features", {**INPUTS, "weights": "ab13"}),
        Address("features", {**INPUTS, "scale": float(np.float32(0.1))}),
        Address("features", {**INPUTS, "scale": np.nextafter(0.1, 1).item()}),
        Address("features", {**INPUTS, "size": "224"}),
        Address("features", {**INPUTS, "extra": None}),
        Address("features", {key: INPUTS[key] for key in ("asset", "weights", "size")}),
    ],
)
def test_every_input_counts(other: Address, store: Store):
    store.put(ADDRESS, arrays())
    assert other.digest != ADDRESS.digest
    assert store.get(other) is None


def test_the_order_of_inputs_does_not_count():
    assert Address("features", dict(reversed(INPUTS.items()))).digest == ADDRESS.digest


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_has_one_address_whatever_it_went_through(number: float):
    through_json = json.loads(json.dumps(number))
    assert Address("k", {"x": number}).digest == Address("k", {"x": np.float64(number).item()}).digest
    assert Address("k", {"x": number}).digest == Address("k", {"x": through_json}).digest


def test_an_address_keeps_its_digest_when_the_caller_changes_its_inputs():
    inputs: dict[str, Any] = {"views": [1, 2]}
    address = Address("renders", inputs)
    inputs["views"].append(3)
    assert address.digest == Address("renders", {"views": (1, 2)}).digest


def test_what_has_no_one_spelling_is_no_input():
    with pytest.raises(TypeError):
        Address("features", {"x": np.zeros(2)})
    with pytest.raises(TypeError):
        Address("features", {"path": Path("a")})
    with pytest.raises(ValueError, match="Out of range"):
        Address("features", {"x": float("nan")})
    with pytest.raises(ValueError, match=r"got '\.\./x'"):
        Address("../x", {})


def test_entries_spread_over_256_folders(tmp_path: Path):
    slots = [slot_of(Store(tmp_path), Address("features", {"i": i})) for i in range(3000)]
    assert {slot.data.parent.name for slot in slots} == {f"{i:02x}" for i in range(256)}
    assert all(slot.data.parent.parent == tmp_path / "entries-1" / "features" for slot in slots)


# Keeping and finding


def test_what_is_put_is_got_again_by_another_store(store: Store, told: list[str]):
    assert store.get(ADDRESS) is None
    assert not store.root.exists()
    assert store.put(ADDRESS, arrays())
    assert same(pickle.loads(pickle.dumps(Store(store.root))).get(ADDRESS), arrays())
    assert told == []


def test_a_later_put_takes_the_place_of_an_earlier_one(store: Store, told: list[str]):
    store.put(ADDRESS, arrays(0))
    store.put(ADDRESS, arrays(1))
    assert same(store.get(ADDRESS), arrays(1))
    assert told == []


def test_the_record_says_in_clear_what_the_entry_is(store: Store):
    store.put(ADDRESS, arrays())
    record, data = json.loads(slot_of(store).record.read_text()), slot_of(store).data.read_bytes()
    assert record["inputs"] == INPUTS
    assert (record["size"], record["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert record["tool"].startswith("mdtbench ")


# Damage


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Slot], object]] = {
    "a bit in the middle": lambda slot: flip(slot.data, slot.data.stat().st_size // 2),
    "the last bit": lambda slot: flip(slot.data, -1),
    "cut": lambda slot: os.truncate(slot.data, slot.data.stat().st_size - 1),
    "empty": lambda slot: os.truncate(slot.data, 0),
    "data of another entry": lambda slot: np.savez_compressed(slot.data, **arrays(1)),
    "no data": lambda slot: slot.data.unlink(),
    "record cut": lambda slot: os.truncate(slot.record, 40),
    "record of other inputs": lambda slot: slot.record.write_text(slot.record.read_text().replace("chair", "chain")),
    "record of nothing": lambda slot: slot.record.write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_entry_is_moved_away_told_and_made_again(
    store: Store, told: list[str], damage: Callable[[Slot], object]
):
    store.put(ADDRESS, arrays())
    damage(slot_of(store))
    assert store.get(ADDRESS) is None
    assert len(told) == 1
    assert told[0].startswith("Damaged features in the cache: ")
    assert "moved to the quarantine" in told[0]
    assert all(path.name.startswith(f"{ADDRESS.digest}-") for path in (store.root / "quarantine").iterdir())
    assert [path.suffix for path in (store.root / "quarantine").iterdir()].count(".json") == 1
    assert store.put(ADDRESS, arrays())
    assert same(store.get(ADDRESS), arrays())


def test_get_returns_nothing_for_a_damaged_entry(store: Store, told: list[str]):
    store.put(ADDRESS, arrays())
    flip(slot_of(store).data, 100)
    assert store.get(ADDRESS) is None
    assert store.get(ADDRESS) is None
    assert len(told) == 1


# Killed, crowded, full, read-only

PUT_AND_HANG = """
import os, sys, time
from pathlib import Path
import numpy as np
from mdtbench.harness.engine import store as cache
from mdtbench.harness.engine import files as storage

def hang(*_):
    sys.stdout.write("hangs\\n"); sys.stdout.flush(); time.sleep(60)

def half(stream, **_):
    stream.write(b"PK half a file"); stream.flush(); hang()

where, replace = sys.argv[2], os.replace
if where == "data":
    np.savez_compressed = half
else:
    name = {"before data": ".npz", "before record": ".json"}[where]
    os.replace = lambda a, b: hang() if str(b).endswith(name) else replace(a, b)
cache.Store(Path(sys.argv[1])).put(cache.Address("features", %r), {"features": np.ones(3)})
"""


@pytest.mark.parametrize("where", ["data", "before data", "before record"])
def test_a_put_that_is_killed_leaves_no_half_entry(store: Store, told: list[str], where: str):
    store.put(ADDRESS, arrays(1))  # an entry that is being replaced: the hardest case
    child = subprocess.Popen(
        [sys.executable, "-c", PUT_AND_HANG % INPUTS, str(store.root), where], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "hangs\n"
        assert collect(store).items == ()  # a file that is being written is no leftover
        child.send_signal(signal.SIGKILL)
    assert store.get(ADDRESS) is None
    left = collect(store)
    assert [item.kind for item in left.items] == [LEFTOVERS] * len(left.items)
    assert left.items
    assert [path for path in (store.root / "entries-1").rglob("*") if path.is_file()] == []
    assert store.put(ADDRESS, arrays())
    assert same(store.get(ADDRESS), arrays())
    assert collect(store).items == ()
    assert told == []


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_on_a_full_disk_nothing_is_kept_and_that_is_told_once(
    store: Store, told: list[str], monkeypatch: pytest.MonkeyPatch
):
    store.put(ADDRESS, arrays())
    monkeypatch.setattr(np, "savez_compressed", no_space)
    for i in range(3):
        assert not store.put(Address("features", {"i": i}), arrays(i))
    assert same(store.get(ADDRESS), arrays())
    assert len(told) == 1
    assert "(No space left on device)" in told[0]
    assert collect(store).items == ()


def test_a_disk_that_is_full_before_the_record_keeps_no_data_either(
    store: Store, told: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "write_text", no_space)
    assert not store.put(ADDRESS, arrays())
    assert not slot_of(store).data.exists()
    assert len(told) == 1


@pytest.fixture
def read_only(told: list[str]) -> Iterator[Store]:
    """A store with one intact and one damaged entry in folders that this process, made unprivileged, cannot write."""
    folder = Path(tempfile.mkdtemp())
    store = Store(folder / "cache", told.append)
    store.put(ADDRESS, arrays())
    store.put(Address("features", {"damaged": True}), arrays())
    flip(slot_of(store, Address("features", {"damaged": True})).data, 50)
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:  # to root, permissions mean nothing
        os.seteuid(65534)
    yield store
    os.seteuid(user)
    for path in paths:
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_cache_is_read(read_only: Store, told: list[str]):
    assert same(read_only.get(ADDRESS), arrays())
    assert told == []


def test_that_a_read_only_cache_keeps_nothing_is_told_once(read_only: Store, told: list[str]):
    for i in range(2):
        assert not read_only.put(Address("features", {"i": i}), arrays())
    assert len(told) == 1
    assert "(Permission denied)" in told[0]


def test_damage_in_a_read_only_cache_does_not_reach_the_caller(read_only: Store, told: list[str]):
    address = Address("features", {"damaged": True})
    assert read_only.get(address) is None
    assert any("cannot be moved away" in line for line in told)
    assert slot_of(read_only, address).data.exists()


# Upkeep


def item(name: str, size: int, used: float, kind: str = "features") -> Item:
    return Item(kind, (Path(name),), size, used)


def names(chosen: list[Item]) -> list[str]:
    return [str(item.paths[0]) for item in chosen]


def test_what_is_collected_is_old_or_least_recently_used():
    found = [item("b", 10, 2 * DAY), item("d", 10, 4 * DAY), item("a", 10, 1 * DAY), item("c", 10, 3 * DAY)]
    now = 5 * DAY
    assert names(to_collect(found, now)) == []
    assert names(to_collect(found, now, older_than_s=2 * DAY)) == ["a", "b"]
    assert names(to_collect(found, now, larger_than=40)) == []
    assert names(to_collect(found, now, larger_than=39)) == ["a"]
    assert names(to_collect(found, now, larger_than=5)) == ["a", "b", "c", "d"]
    assert names(to_collect(found, now, older_than_s=3.5 * DAY, larger_than=20)) == ["a", "b"]


def test_the_quarantine_goes_before_everything_else():
    found = [item("a", 10, 1.0), item("q", 10, 9.0, QUARANTINED), item("b", 10, 2.0)]
    assert names(to_collect(found, 10.0, larger_than=15)) == ["q", "a"]


def test_reading_an_entry_saves_it_from_the_collector(store: Store):
    addresses = [Address("features", {"i": i}) for i in range(3)]
    for i, address in enumerate(addresses):
        store.put(address, arrays(i))
        os.utime(slot_of(store, address).data, (OLD + i, OLD + i))
    store.get(addresses[0])
    size = max(item.size for item in items(store))
    gone = collect(store, larger_than=2 * size)
    assert [item.paths[1] for item in gone.items] == [slot_of(store, addresses[1]).data]
    assert [store.get(address) is not None for address in addresses] == [True, False, True]


def run(*args: object) -> Result:
    return CliRunner().invoke(cache_app, [str(arg) for arg in args])


def listed(root: Path) -> dict[str, int]:
    return {kind["kind"]: kind["entries"] for kind in json.loads(run("ls", "--cache", root, "--json").stdout)}


def test_ls_lists_entries_by_kind_and_quarantine(store: Store):
    for kind, count in (("renders", 1), ("features", 2)):
        for i in range(count):
            store.put(Address(kind, {"i": i}), arrays())
    (store.root / "photos-of-the-family-0123456789abcdef").mkdir()
    (store.root / "photos-of-the-family-0123456789abcdef" / "cat.png").touch()
    flip(slot_of(store, Address("renders", {"i": 0})).data, 9)
    store.get(Address("renders", {"i": 0}))
    assert listed(store.root) == {"features": 2, QUARANTINED: 2}
    text = run("ls", "--cache", store.root).stdout
    assert text.splitlines()[-1].split()[:2] == ["total", "4"]


def test_verify_finds_damage_and_moves_it_away(store: Store):
    store.put(ADDRESS, arrays())
    store.put(Address("features", {}), arrays())
    fine = run("verify", "--cache", store.root)
    assert (fine.exit_code, fine.stdout.splitlines()[0][:7]) == (0, "2 files")
    flip(slot_of(store).data, 100)
    found = run("verify", "--cache", store.root, "--json")
    assert isinstance(found.exception, RunError)
    assert found.exception.exit_code == 1
    damaged = [entry["path"] for entry in json.loads(found.stdout)["damaged"]]
    assert damaged == [str(slot_of(store).data)]
    assert run("verify", "--cache", store.root).exit_code == 0
    assert listed(store.root) == {"features": 1, QUARANTINED: 2}


def test_gc_collects_what_was_not_used_for_long(store: Store):
    other = Address("features", {})
    store.put(ADDRESS, arrays())
    store.put(other, arrays())
    os.utime(slot_of(store).data, (OLD, OLD))
    said = run("gc", "--cache", store.root, "--older-than", "30d", "--dry-run").stdout
    assert said.startswith("Would remove features: 1 files, ")
    assert slot_of(store).data.exists()
    done = json.loads(run("gc", "--cache", store.root, "--older-than", "30d", "--json").stdout)
    assert [entry["path"] for entry in done["removed"]] == [str(slot_of(store).data)]
    assert (store.get(ADDRESS), store.get(other) is None) == (None, False)
    assert done["bytes_left"] == sum(item.size for item in items(store))


def test_gc_touches_nothing_else_in_the_folder(store: Store):
    store.put(ADDRESS, arrays())
    thesis = store.root / "prepared-toys-test-0123456789abcdef" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.touch()
    os.utime(thesis, (OLD, OLD))
    run("gc", "--cache", store.root, "--older-than", "1s", "--larger-than", "0B")
    assert thesis.exists()


def test_gc_leaves_locks_that_are_held_and_removes_the_others(store: Store):
    other = Address("features", {})
    store.put(ADDRESS, arrays())
    store.put(other, arrays())
    with FileLock(slot_of(store).lock):
        assert collect(store, larger_than=0).items != ()
        assert [path.stem for path in (store.root / "locks").iterdir()] == [ADDRESS.digest]
    assert store.get(other) is None
    assert same(store.get(ADDRESS), arrays())


@pytest.mark.parametrize(
    ("option", "text"), [("--older-than", "30"), ("--older-than", "-3d"), ("--larger-than", "20 apples")]
)
def test_a_quantity_needs_a_number_and_a_known_unit(tmp_path: Path, option: str, text: str):
    error = run("gc", "--cache", tmp_path, f"{option}={text}").exception
    assert isinstance(error, UsageError)
    assert f"{option} takes a number and a unit" in str(error)
    assert f"(got '{text}')" in str(error)


@pytest.mark.parametrize("verb", ["ls", "verify", "gc"])
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, verb: str):
    error = run(verb, "--cache", tmp_path / "none").exception
    assert isinstance(error, MissingError)
    assert "There is no cache folder" in str(error)


def test_sizes_are_read_at_a_glance():
    assert [size_text(size) for size in (0, 999, 1000, 2_500_000, 3 * 10**12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "2.5 MB",
        "3.0 TB",
    ]
