"""Downloads against a hub on this machine: clean, broken off and resumed, corrupted, refused, offline, disk full."""

from __future__ import annotations

import errno
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hub_server import Hub, serving

from mdtbench.base.errors import MissingError, RunError, UsageError
from mdtbench.harness.cli import fetch as module
from mdtbench.harness.cli.fetch import FetchOptions, check_result, examine, fetch, fetch_command
from mdtbench.harness.inputs.downloads import Item, items_of, missing, size_text
from mdtbench.harness.inputs.weights_lock import LOCK_FILE, read_lock
from mdtbench.metrics.official.picture_extractors import SPECS
from mdtbench.metrics.official.ulip import ULIP1_WEIGHTS, ULIP2_WEIGHTS

FIRST, SECOND = "1" * 40, "2" * 40
CHUNK = 20_000  # as the library reads; its own 10 MB would hide partial files of this size
BIG = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(200_000)
SMALL = b'{"name": "TrellisImageTo3DPipeline"}'


class Notes:
    """Collects what is reported; may act when a number of bytes is told."""

    def __init__(self, on_update=lambda done: None):
        self.lines: list[str] = []
        self.labels: list[str] = []
        self._on_update = on_update

    def note(self, text: str) -> None:
        self.lines.append(text)

    def start(self, label: str, total: int, done: int = 0) -> int:
        self.labels.append(label)
        return len(self.labels) - 1

    def update(self, task: int, done: int, info: str = "") -> None:
        if "(MB)" in self.labels[task]:
            self._on_update(done)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.01)))  # the library's pauses before retries
    with serving(Hub()) as running:
        running.add("lab/net", FIRST, {"pipeline.json": SMALL, "ckpts/flow.safetensors": BIG})
        running.add("datasets/lab/points", FIRST, {"a/points.pt": OTHER})
        running.direct["/pub/inception.pth"] = OTHER
        yield running


def item(hub: Hub, **changes) -> Item:
    values = {
        "target": "net/ckpts/flow.safetensors",
        "kind": "model",
        "repo": "lab/net",
        "revision": "main",
        "paths": ("ckpts/flow.safetensors",),
        "url": "",
        "bytes": None,
        "about": None,
        "sha256": None,
        "licence": "MIT",
        "used_for": "teacher",
        "instructions": "",
    }
    return Item(**{**values, **changes})


def all_kinds(hub: Hub) -> list[Item]:
    return [
        item(hub, target="net/pipeline.json", paths=("pipeline.json",)),
        item(hub, revision=FIRST, sha256=sha(BIG), bytes=len(BIG)),
        item(hub, target="points/points.pt", kind="dataset", repo="lab/points", paths=("a/points.pt",)),
        item(hub, target="inception.pth", kind="url", repo="", url=f"{hub.cdn}/pub/inception.pth"),
    ]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def get(hub: Hub, items, folder: Path, notes: Notes | None = None, **options):
    return fetch(items, folder, FetchOptions(mirror=hub.url, **options), notes or Notes())


def parts(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.part"))


def test_clean_download_is_complete_and_recorded(hub, tmp_path):
    notes = Notes()
    result = get(hub, all_kinds(hub), tmp_path, notes)
    assert len(result.fetched) == 4
    assert not result.failed
    assert (tmp_path / "net/pipeline.json").read_bytes() == SMALL
    assert (tmp_path / "net/ckpts/flow.safetensors").read_bytes() == BIG
    assert (tmp_path / "points/points.pt").read_bytes() == OTHER
    assert (tmp_path / "inception.pth").read_bytes() == OTHER
    lock = read_lock(tmp_path)
    assert {target: entry.trust for target, entry in lock.items()} == {
        "net/pipeline.json": "first use",
        "net/ckpts/flow.safetensors": "list",
        "points/points.pt": "hub",
        "inception.pth": "first use",
    }
    assert lock["points/points.pt"].revision == FIRST
    assert lock["net/pipeline.json"].sha256 == sha(SMALL)
    assert not parts(tmp_path)
    total = len(BIG) + 2 * len(OTHER) + len(SMALL)
    assert f"4 files, {size_text(total)}" in notes.text
    assert "Free disk" in notes.text


def test_second_run_asks_nothing(hub, tmp_path):
    get(hub, all_kinds(hub), tmp_path)
    hub.requests.clear()
    result = get(hub, all_kinds(hub), tmp_path)
    assert len(result.present) == 4
    assert hub.requests == []


def test_no_token_and_no_library_names_are_sent(hub, tmp_path):
    get(hub, all_kinds(hub), tmp_path)
    assert hub.requests
    assert all("authorization" not in request.headers for request in hub.requests)
    assert all(request.headers["user-agent"].startswith("mdtbench/") for request in hub.requests)


def test_broken_connection_is_taken_up_again(hub, tmp_path):
    hub.cuts = [150_000, 60_000]
    result = get(hub, [item(hub)], tmp_path)
    assert result.fetched == ("net/ckpts/flow.safetensors",)
    assert (tmp_path / "net/ckpts/flow.safetensors").read_bytes() == BIG
    starts = [request.start for request in hub.gets(sha(BIG))]
    assert starts == sorted(set(starts))
    assert len(starts) == 3


def test_server_without_ranges_is_read_from_the_start(hub, tmp_path):
    hub.cuts, hub.ranges = [150_000], False
    get(hub, [item(hub)], tmp_path)
    assert (tmp_path / "net/ckpts/flow.safetensors").read_bytes() == BIG


def test_dead_connection_is_an_error_and_a_later_run_goes_on(hub, tmp_path):
    hub.cuts = [150_000] + [0] * 20
    with pytest.raises(RunError, match=r"was interrupted .* is kept"):
        get(hub, all_kinds(hub), tmp_path)
    kept = parts(tmp_path)
    assert [path.stat().st_size > 100_000 for path in kept] == [True]
    assert (tmp_path / "net/pipeline.json").read_bytes() == SMALL  # what came before it stays
    size = kept[0].stat().st_size
    hub.cuts, hub.requests = [], []
    notes = Notes()
    get(hub, all_kinds(hub), tmp_path, notes)
    assert (tmp_path / "net/ckpts/flow.safetensors").read_bytes() == BIG
    assert [request.start for request in hub.gets(sha(BIG))] == [size]
    assert f"{size_text(size)} of it here" in notes.text
    assert not parts(tmp_path)


def test_interrupted_by_hand_and_resumed(hub, tmp_path):
    def interrupt(_: int) -> None:
        if any(path.exists() and path.stat().st_size > 0 for path in parts(tmp_path)):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(hub, [item(hub)], tmp_path, Notes(interrupt))
    assert not (tmp_path / "net/ckpts/flow.safetensors").exists()
    size = parts(tmp_path)[0].stat().st_size
    assert 0 < size < len(BIG)
    hub.requests = []
    get(hub, [item(hub)], tmp_path)
    assert [request.start for request in hub.gets(sha(BIG))] == [size]
    assert (tmp_path / "net/ckpts/flow.safetensors").read_bytes() == BIG


def test_command_says_how_to_go_on_when_interrupted(hub, tmp_path, monkeypatch, capsys):
    def interrupted(*_: object, **__: object):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "fetch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_command("paper", out=tmp_path)
    assert "interrupted; the same command continues" in capsys.readouterr().err


def test_partial_file_of_another_revision_is_not_continued(hub, tmp_path):
    hub.cuts = [150_000] + [0] * 20
    with pytest.raises(RunError):
        get(hub, [item(hub)], tmp_path)
    changed = BIG[::-1]
    hub.add("lab/net", SECOND, {"ckpts/flow.safetensors": changed})
    hub.cuts, hub.requests = [], []
    get(hub, [item(hub)], tmp_path)
    assert (tmp_path / "net/ckpts/flow.safetensors").read_bytes() == changed
    assert [request.start for request in hub.gets(sha(changed))] == [0]


@pytest.mark.parametrize("known", [True, False], ids=["digest in the list", "digest from the hub"])
def test_corrupted_download_is_set_aside(hub, tmp_path, known):
    bad = bytes([BIG[0] ^ 1]) + BIG[1:]
    hub.sent[sha(BIG)] = bad
    result = get(hub, [item(hub, sha256=sha(BIG) if known else None), *all_kinds(hub)[2:]], tmp_path)
    assert list(result.failed) == ["net/ckpts/flow.safetensors"]
    assert sha(bad) in result.failed["net/ckpts/flow.safetensors"]
    assert not (tmp_path / "net/ckpts/flow.safetensors").exists()
    assert (tmp_path / "net/ckpts/flow.safetensors.corrupt").read_bytes() == bad
    assert len(result.fetched) == 2  # the others do not suffer
    assert "net/ckpts/flow.safetensors" not in read_lock(tmp_path)
    with pytest.raises(MissingError):
        check_result(result, tmp_path, offline=False)
    hub.sent.clear()
    assert get(hub, [item(hub)], tmp_path).fetched == ("net/ckpts/flow.safetensors",)


def test_server_that_offers_another_file_is_refused_before_the_download(hub, tmp_path):
    result = get(hub, [item(hub, sha256=sha(OTHER))], tmp_path)
    assert f"expected {sha(OTHER)}" in result.failed["net/ckpts/flow.safetensors"]
    result = get(hub, [item(hub, bytes=7)], tmp_path)
    assert "expected 7" in result.failed["net/ckpts/flow.safetensors"]
    assert hub.gets(sha(BIG)) == []


def test_digest_of_the_first_use_binds_later_downloads(hub, tmp_path):
    page = item(hub, target="inception.pth", kind="url", repo="", url=f"{hub.cdn}/pub/inception.pth")
    get(hub, [page], tmp_path)
    (tmp_path / "inception.pth").unlink()
    hub.direct["/pub/inception.pth"] = OTHER[::-1]
    result = get(hub, [page], tmp_path)
    assert sha(OTHER) in result.failed["inception.pth"]


def test_branch_that_moved_on_is_read_at_the_locked_commit(hub, tmp_path):
    get(hub, [item(hub)], tmp_path)
    hub.add("lab/net", SECOND, {"ckpts/flow.safetensors": OTHER, "pipeline.json": b"{}"})
    get(hub, [item(hub, target="net/pipeline.json", paths=("pipeline.json",))], tmp_path)
    assert (tmp_path / "net/pipeline.json").read_bytes() == SMALL
    assert read_lock(tmp_path)["net/pipeline.json"].revision == FIRST


def test_bytes_are_asked_for_at_the_commit_that_the_branch_had(hub, tmp_path):
    get(hub, [item(hub)], tmp_path)
    assert [r.path for r in hub.gets("flow.safetensors")] == [f"/lab/net/resolve/{FIRST}/ckpts/flow.safetensors"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"revision": "9" * 40}, "revision 9999"),
        ({"paths": ("ckpts/none.safetensors",)}, "has no ckpts/none.safetensors"),
        ({"repo": "lab/nobody"}, "needs permission"),
    ],
)
def test_what_the_hub_does_not_have_is_reported_and_the_rest_fetched(hub, tmp_path, changes, found):
    result = get(hub, [item(hub, **changes), all_kinds(hub)[0]], tmp_path)
    assert found in result.failed["net/ckpts/flow.safetensors"]
    assert result.fetched == ("net/pipeline.json",)


def test_second_name_of_a_file_is_tried(hub, tmp_path):
    get(hub, [item(hub, paths=("ckpts/renamed.safetensors", "ckpts/flow.safetensors"))], tmp_path)
    assert (tmp_path / "net/ckpts/flow.safetensors").read_bytes() == BIG


def test_mirror_serves_direct_addresses_below_their_host(hub, tmp_path):
    hub.direct["/weights.example/v1/net.pth"] = OTHER
    get(hub, [item(hub, target="net.pth", kind="url", url="https://weights.example/v1/net.pth")], tmp_path)
    assert (tmp_path / "net.pth").read_bytes() == OTHER


def test_no_network(hub, tmp_path):
    with pytest.raises(RunError, match=r"No answer .* --mirror"):
        fetch([item(hub)], tmp_path, FetchOptions(mirror="http://127.0.0.1:9"), Notes())


def test_something_else_than_a_hub(hub, tmp_path):
    path = f"/lab/net/resolve/{FIRST}/ckpts/flow.safetensors"
    hub.direct[path] = b"<html>log in</html>"
    with pytest.raises(RunError, match="not answered by a hub"):
        fetch([item(hub, revision=FIRST)], tmp_path, FetchOptions(mirror=hub.cdn), Notes())


def test_offline_lists_what_is_missing_and_asks_nothing(hub, tmp_path):
    get(hub, all_kinds(hub)[:2], tmp_path)
    hub.requests.clear()
    notes = Notes()
    by_hand = item(hub, target="toys4k", kind="by-hand", repo="", instructions="fill in the form")
    result = get(hub, [*all_kinds(hub), by_hand], tmp_path, notes, offline=True)
    assert hub.requests == []
    assert list(result.failed) == ["points/points.pt", "inception.pth"]
    assert result.by_hand == (by_hand,)
    assert "fill in the form" in notes.text
    with pytest.raises(MissingError, match=r"3 files missing in") as error:
        check_result(result, tmp_path, offline=True)
    assert error.value.exit_code == 4


def test_offline_writes_nothing(hub, tmp_path):
    assert get(hub, [item(hub)], tmp_path / "none", offline=True).failed
    assert not (tmp_path / "none").exists()


def test_verify_finds_a_changed_file_of_the_same_size(hub, tmp_path):
    get(hub, [item(hub)], tmp_path)
    path = tmp_path / "net/ckpts/flow.safetensors"
    path.write_bytes(BIG[::-1])
    assert get(hub, [item(hub)], tmp_path).present  # trusted by its size
    looked = get(hub, [item(hub)], tmp_path, offline=True, verify=True)
    assert sha(BIG[::-1]) in looked.failed["net/ckpts/flow.safetensors"]
    assert path.exists()
    mended = get(hub, [item(hub)], tmp_path, verify=True)
    assert mended.fetched
    assert path.read_bytes() == BIG
    assert path.with_name("flow.safetensors.corrupt").read_bytes() == BIG[::-1]


def test_file_put_there_by_hand_is_taken_when_its_digest_is_right(hub, tmp_path):
    path = tmp_path / "net/ckpts/flow.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(BIG)
    result = get(hub, [item(hub, sha256=sha(BIG))], tmp_path)
    assert result.present
    assert hub.requests == []
    assert read_lock(tmp_path)["net/ckpts/flow.safetensors"].trust == "list"
    path.write_bytes(OTHER)
    assert get(hub, [item(hub, sha256=sha(BIG))], tmp_path).fetched


def test_full_disk_is_seen_before_the_start(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "free_space", lambda folder: len(BIG) + module.RESERVE - 1)
    with pytest.raises(RunError, match="free"):
        get(hub, [item(hub)], tmp_path)
    assert hub.gets("flow.safetensors") == []


def test_disk_that_gets_full_keeps_what_is_there(hub, tmp_path, monkeypatch):
    real = Path.open

    class Full:
        """A stream on a disk that has room for 100,000 bytes more."""

        def __init__(self, stream):
            self._stream = stream

        def write(self, data: bytes) -> int:
            if self._stream.tell() + len(data) > 100_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._stream.write(data)

        def __getattr__(self, name: str):
            return getattr(self._stream, name)

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            self._stream.close()

    def full(path: Path, mode: str = "r", **others):
        stream = real(path, mode, **others)
        return Full(stream) if mode == "ab" else stream

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match=r"disk is full .* is kept"):
        get(hub, [all_kinds(hub)[0], item(hub)], tmp_path)
    assert (tmp_path / "net/pipeline.json").exists()
    assert parts(tmp_path)[0].stat().st_size == 100_000
    monkeypatch.setattr(Path, "open", real)
    get(hub, [item(hub)], tmp_path)
    assert hub.gets(sha(BIG))[-1].start == 100_000
    assert (tmp_path / "net/ckpts/flow.safetensors").read_bytes() == BIG


def test_two_fetches_do_not_share_a_folder(hub, tmp_path):
    with module._alone(tmp_path), pytest.raises(RunError, match="Another fetch"):
        get(hub, [item(hub)], tmp_path)


def test_missing_is_told_without_digests(hub, tmp_path):
    items = [*all_kinds(hub), item(hub, target="toys4k", kind="by-hand", instructions="form")]
    assert [entry.item for entry in missing(items, tmp_path)] == items
    get(hub, items, tmp_path)
    assert [entry.item.target for entry in missing(items, tmp_path)] == ["toys4k"]
    (tmp_path / "points/points.pt").write_bytes(b"half")
    (tmp_path / "toys4k").mkdir()
    found = missing(items, tmp_path)
    assert [(entry.item.target, entry.bytes) for entry in found] == [("points/points.pt", len(OTHER))]


def test_damaged_lock_is_an_error(hub, tmp_path):
    (tmp_path / LOCK_FILE).write_text(json.dumps({"format": 2, "files": {}}))
    with pytest.raises(MissingError, match="format 1"):
        get(hub, [item(hub)], tmp_path)


def test_examine_trusts_the_lock_only_for_the_listed_digest(hub, tmp_path):
    (tmp_path / "x").write_bytes(OTHER)
    plain = item(hub, target="x")
    entry = examine(plain, tmp_path, None, verify=False)
    assert entry.trust == "first use"
    with pytest.raises(MissingError):
        examine(item(hub, target="x", sha256=sha(BIG)), tmp_path, entry, verify=False)


def test_paper_list_is_whole():
    items = items_of("paper")
    targets = [entry.target for entry in items]
    assert len(targets) == len(set(targets))
    stems = {Path(t).stem for t in targets if t.startswith("trellis-image-large/ckpts/")}
    for stem in stems:  # a network is a pair of files
        assert f"trellis-image-large/ckpts/{stem}.json" in targets
        assert f"trellis-image-large/ckpts/{stem}.safetensors" in targets
    assert len(stems) == 8
    digests = {Path(entry.target).name: entry.sha256 for entry in items}
    assert digests["pt_inception-2015-12-05-6726825d.pth"].startswith("6726825d")  # its name states its digest
    assert [entry.target for entry in items if entry.kind == "by-hand"] == ["toys4k/toys4k_blend_files"]
    assert sum(entry.about or 0 for entry in items) == pytest.approx(50.5e9, rel=0.02)  # 32 of them the test assets
    assert {entry.size for entry in items if "bigG" in entry.target} == {"about 10.20 GB"}
    assert [entry.target for entry in items if entry.size == "unknown" and "mdt-dist" not in entry.target] == []


def test_list_agrees_with_the_extractors():
    """Each file lies where its extractor looks, from where it says, and two known digests or sizes are the same."""
    listed = {entry.target: entry for entry in [*items_of("paper"), *items_of("variants")]}
    for weights in [*(spec.weights for spec in SPECS.values()), ULIP2_WEIGHTS, ULIP1_WEIGHTS]:
        entry = listed[weights.file]
        assert (entry.url or entry.repo) in weights.source
        assert entry.sha256 is None or weights.sha256 in (None, entry.sha256)
        assert entry.bytes is None or weights.bytes in (None, entry.bytes)


def test_presets_and_own_lists(tmp_path, capsys):
    assert items_of("tiny") == ()
    fetch_command("tiny", out=tmp_path)
    assert "no downloads" in capsys.readouterr().out
    with pytest.raises(UsageError, match="Did you mean 'paper'"):
        items_of("papr")
    own = tmp_path / "own.toml"
    own.write_text(
        '[[source]]\nname="a"\nkind="model"\nrepo="x/y"\nlicence="MIT"\nused_for="t"\npresets=[]\nfiles=[{path="f"}]\n'
    )
    assert [entry.target for entry in items_of(str(own))] == ["a/f"]
    right = own.read_text()
    for wrong, said in {
        right.replace('"f"', '"../f"'): "relative path",
        right.replace('repo="x/y"\n', ""): "lacks what kind",
        right.replace('"MIT"', "1"): "malformed",
        right + "[[": "cannot be read",
    }.items():
        own.write_text(wrong)
        with pytest.raises(UsageError, match=said):
            items_of(str(own))


def test_mirror_must_be_an_address(tmp_path):
    with pytest.raises(UsageError, match="--mirror"):
        fetch_command("paper", out=tmp_path, mirror="hub.example")
