"""The command line: its verbs, and where each is. The module of a verb is imported when the verb is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ...base.errors import MdtbenchError, UsageError

# Name: where it is, and the first lines of its help.
VERBS = {
    "run": (
        "run:run_command",
        "Distil with every method, measure all students, print the tables. Run again to resume.",
    ),
    "status": (
        "status:status_command",
        "How far a run is: jobs done and waiting, hosts, hours used and left, lost attempts. It may be at work.",
    ),
    "work": (
        "work:work_command",
        "Do jobs of a run, for a scheduler that mdtbench does not know. The run takes what is done when it is next "
        "called.",
    ),
    "report": (
        "readers:report_command",
        "Print what one run found, or several comparable ones: main columns and verdicts; with --all Tables 1 to 3.",
    ),
    "figure": ("readers:figure_command", "Draw a figure for a paper, PDF or PNG."),
    "compare": (
        "compare:compare_command",
        "Say where a run is better or worse than a baseline; exit code 3 when it is worse anywhere.",
    ),
    "evaluate": (
        "evaluate:evaluate_command",
        "Measure assets that any system generated: FD, KD, ULIP_I and more under a protocol. Run again to resume.",
    ),
    "show": (
        "readers:show_command",
        "Print all about one run; or every choice of a protocol with its source; or the JSON Schema of rows.",
    ),
    "verify": (
        "readers:verify_command",
        "Compare every file of a run with its sha256; exit code 4 when one is damaged. Changes nothing.",
    ),
    "fetch": (
        "fetch:fetch_command",
        "Download official weights, after saying how much it is. Every file is checked. Run again to resume.",
    ),
    "list": ("list:list_command", "List what this installation offers, or the runs in a folder."),
    "import": (
        "readers:import_command",
        "Turn another tool's numbers into a run's folder, marked as not measured here, for `report` and `compare`.",
    ),
    "pretrain": (
        "pretrain:pretrain_command",
        "Make the networks of a preset from nothing (one to two hours on two cores); run again to resume.",
    ),
    "doctor": (
        "doctor:doctor_command",
        "Print what this machine has and what of it mdtbench uses; exit code 4 when something needed is missing.",
    ),
    "bench": ("bench:bench_command", "Measure what the tool costs here."),
    "cache": ("cache:cache_app", "Look at the cache of what was computed, verify it, make room in it."),
}


def verb(name: str) -> Any:
    """The command of a name in `VERBS`, with its options."""
    what = resolve_name(f"{__package__}.{VERBS[name][0]}")
    if isinstance(what, typer.Typer):
        return typer.main.get_command(what)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(what)
    return typer.main.get_command(alone)


class Verbs(TyperGroup):
    """Of all verbs it has the help alone, so that `--help` answers at once, until one is called."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=text) for name, (_, text) in VERBS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name, command and further words of what is called. Ends with a message where there is no such verb."""
        if args[0] in VERBS:
            return args[0], verb(args[0]), args[1:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="mdtbench",
    cls=Verbs,
    help="Distil a 3D flow model with every method, measure all students under one protocol, print the tables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"mdtbench {version('mdtbench')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """mdtbench"""
    del version


def main() -> None:
    """Entry point: errors become one line on standard error and the exit code of their kind."""
    try:
        app(obj=("mdtbench", *sys.argv[1:]))
    except MdtbenchError as error:
        typer.echo(f"mdtbench: {error}", err=True)
        sys.exit(error.exit_code)


def call(words: Sequence[str]) -> Any:
    """One command line in this process: what its verb returns.

    Raises:
        MdtbenchError: where the command would print its message.
    """
    try:
        return app(list(words), obj=("mdtbench", *words), standalone_mode=False)
    except typer.TyperException as error:
        raise UsageError(f"{error.format_message().rstrip('.')}. See `mdtbench {words[0]} --help`.") from error
