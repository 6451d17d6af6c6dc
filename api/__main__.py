import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the current folder, which `python -m` puts there: nothing in it is ours

from mdtbench.harness.cli.app import main  # pyright: ignore[reportMissingImports]

main()
