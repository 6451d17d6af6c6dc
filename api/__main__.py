from mdtbench.harness.cli.app import main  # pyright: ignore[reportMissingImports]

main()
