"""Readers under inputs that follow coverage, by hand: pip install atheris (Linux), then

python tests/fuzz/guided.py READER [-max_total_time=SECONDS] [options of libFuzzer]

READER is a name of `readers.READERS`, for example "glb". An input that does harm is written to the current folder; as
tests/fuzz/found/READER-NUMBER it is a test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["mdtbench"]):  # pyright: ignore[reportAttributeAccessIssue]
    from readers import READERS, run


def main(name: str) -> None:
    """Fuzz one reader; its own seed and what was found before are where the inputs begin."""
    file, read, seed = READERS[name]
    corpus = Path.cwd() / f"corpus-{name}"
    corpus.mkdir(exist_ok=True)
    (corpus / "seed").write_bytes(seed)
    options = [sys.argv[0], *sys.argv[2:], "-timeout=20", "-rss_limit_mb=2048", str(corpus)]
    atheris.Setup(options, lambda data: run(read, file, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1])
