"""The quick start works as it stands: its files and commands, in order, in an empty folder.

Blocks marked `bash` are run, `python` blocks are files whose first line says the name. The block `shell` installs the
tool, which whoever runs this test has done.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from pages import DOCS, blocks

from mdtbench.results.rows import BOTH, read_rows

pytestmark = pytest.mark.slow
TIMEOUT_S = 900.0  # of a command, on a busy machine
VERDICTS = re.compile(r"(\d+) worse, (\d+) better, (\d+) same, (\d+) not comparable")


@dataclass(frozen=True)
class Done:
    """The folder after all commands, and what each printed."""

    folder: Path
    out: dict[str, str]

    def of(self, start: str) -> str:
        """What the command printed that begins so."""
        [text] = [text for command, text in self.out.items() if command.startswith(start)]
        return text


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder, home = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("home")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"HOME": str(home), "PATH": path, "COLUMNS": "200"}  # a home without a cache
    out: dict[str, str] = {}
    for block in blocks(DOCS / "quickstart.md"):
        if block.kind == "python":
            (folder / block.text.splitlines()[0].removeprefix("# ")).write_text(block.text)
        elif block.kind == "bash":
            for command in block.text.splitlines():
                ended = subprocess.run(
                    command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
                )
                assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
                out[command] = ended.stdout
    return Done(folder, out)


def test_the_page_has_all_steps():
    commands = [
        line for block in blocks(DOCS / "quickstart.md") if block.kind == "bash" for line in block.text.splitlines()
    ]
    verbs = [" ".join(command.split()[:2]) for command in commands]
    assert verbs == [
        "mdtbench run",
        "mdtbench report",
        "mdtbench compare",
        "mdtbench run",
        "mdtbench compare",
        "mdtbench compare",
        "mdtbench report",
        "ls runs/quick/export/mine-1x2",
        "mdtbench list",
        "mdtbench show",
    ]


def test_the_tables_have_the_new_method(done: Done):
    assert "mine" not in done.of("mdtbench run --preset smoke --methods vm ")
    assert re.search(r"^mine +1x2 +2 ", done.of("mdtbench run --preset smoke --methods vm,mine"), re.MULTILINE)
    rows = [row for row in read_rows(done.folder / "runs/quick/rows.jsonl") if row.method == "mine"]
    assert all(row.status == "ok" and row.steps == 1 for row in rows)
    assert {"FD_tiny_gs", "ULIP_tiny_mesh"} <= {row.metric for row in rows if row.stage == BOTH}


def test_a_second_run_in_the_folder_computes_the_new_method_alone(done: Done):
    """The students of `vm` are older than the baseline that was kept between the runs."""
    kept = (done.folder / "baselines/before/rows.jsonl").stat().st_mtime_ns
    written = {
        path.parent.name: path.stat().st_mtime_ns
        for path in done.folder.glob("runs/quick/students/*/student.safetensors")
    }
    assert len(written) == 4  # two methods, two stages
    assert all((time < kept) == ("mine" not in name) for name, time in written.items())


def test_the_verdicts(done: Done):
    against_vm = VERDICTS.search(done.of("mdtbench compare runs/quick --methods"))
    before = VERDICTS.search(done.of("mdtbench compare runs/quick baselines/before"))
    assert against_vm is not None
    assert before is not None
    assert sum(map(int, against_vm.groups())) > 0
    worse, better, same, _ = map(int, before.groups())
    assert (worse, better) == (0, 0)  # nothing of the first run was computed again
    assert same > 0


def test_the_report_has_its_row(done: Done):
    index = done.folder / done.of("mdtbench report runs/quick --format html").strip()
    assert index.name == "index.html"
    assert re.search(r">\s*mine\s*<", index.read_text(encoding="utf-8"))


def test_the_assets_are_there(done: Done):
    listed = done.of("ls runs/quick/export").split()
    assert {Path(name).suffix for name in listed} >= {".glb", ".ply", ".png"}
    assert "runs/quick" in done.of("mdtbench show")
    assert "quick" in done.of("mdtbench list")
