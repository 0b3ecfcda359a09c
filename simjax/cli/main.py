"""The `simjax` command: finds the subcommand, runs it, and turns errors into one line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import simjax
from simjax.cli.arguments import LineParser, add_traceback
from simjax.cli.termination import STATUS, Terminated, terminable
from simjax.errors import SimjaxError, UsageError

DESCRIPTION = "Contrastive sentence encoders in JAX: train, evaluate, export, encode, search."
_LONGEST = 1500
EPILOG = "`simjax COMMAND --help` lists the arguments of a command and their defaults."


@dataclass(frozen=True)
class Command:
    """A subcommand, described here so that `simjax --help` imports none of them.

    The module has `add_arguments(parser)` and `run(args)`; one that takes arguments argparse
    cannot know beforehand also has `split(argv)`, which returns (what argparse shall see, the
    rest, which arrives as `args.rest`).
    """

    name: str
    module: str
    summary: str


COMMANDS = (
    Command("quickstart", "quickstart", "train and try a small encoder with no download"),
    Command("train", "train", "train an encoder by a recipe"),
    Command("plan", "plan", "say what a recipe takes of accelerators, and how fast it may be"),
    Command("evaluate", "evaluate", "score a model on similarity and retrieval sets"),
    Command("export", "export", "write a run's model as a sentence-transformers folder"),
    Command("postprocess", "postprocess", "whiten a model's embeddings, or put a flow behind them"),
    Command("encode", "encode", "turn lines of text into embeddings"),
    Command("index", "index", "make a folder of embeddings that can be searched"),
    Command("search", "search", "find the texts of a corpus that are nearest to a query"),
    Command("generate", "generate", "write sentences similar to a given one"),
    Command("mine", "mine", "find hard negatives for a set of pairs"),
    Command("data", "data", "check a folder of data sets"),
    Command("lab", "lab", "measure speed, memory and float error beside other ways"),
)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; the namespace's `run` carries the command out."""
    parser = LineParser("simjax", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"simjax {simjax.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    chosen = next((argument for argument in argv if not argument.startswith("-")), None)
    rest: list[str] = []
    for command in COMMANDS:
        if command.name != chosen:
            commands.add_parser(command.name, help=command.summary)
            continue
        module = importlib.import_module(f"simjax.cli.{command.module}")
        subparser = commands.add_parser(
            command.name, help=command.summary, description=module.__doc__
        )
        module.add_arguments(subparser)
        if not subparser.has_commands:
            add_traceback(subparser)
        if hasattr(module, "run"):
            subparser.set_defaults(run=module.run)
        if hasattr(module, "split"):
            argv, rest = module.split(argv)
    return parser.parse_args(argv, argparse.Namespace(rest=rest))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    0: done. 1: it failed. 2: it was called wrongly. 130: interrupted. 143: told to stop by
    SIGTERM, which a command that can save answers otherwise.
    """
    try:
        try:
            with terminable():
                status = _run(sys.argv[1:] if argv is None else list(argv))
        except Terminated as stop:
            status = _fail(str(stop), STATUS)
    except BaseException:
        _leave(1)
        raise
    if status:
        _leave(status)
    return status


def _leave(status: int) -> None:
    """Ends a process that has joined others and failed; they are not waited for."""
    start = sys.modules.get("simjax.processes.start")
    if start is not None:
        start.leave(status)


def _run(argv: Sequence[str]) -> int:
    try:
        args = parse(argv)
    except SystemExit as stop:  # argparse has printed the help or what is wrong
        return int(stop.code or 0)
    except UsageError as error:
        return _fail(str(error), 2)
    try:
        status = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader has gone. Python flushes stdout again as it exits: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.traceback:
            raise
        if isinstance(error, UsageError):
            return _fail(str(error), 2)
        if isinstance(error, SimjaxError | OSError):
            return _fail(str(error), 1)
        return _fail(
            f"{type(error).__name__}: {error} (a fault of simjax's, not of your input: "
            "--traceback shows where)",
            1,
        )
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    print(f"simjax: {_one_line(message)}", file=sys.stderr)
    return status


def _one_line(message: str) -> str:
    """A message that may quote any input: no control sequence of a terminal's, nor a megabyte."""
    line = " ".join(message.split())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST - 300]} ... {line[-290:]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


if __name__ == "__main__":
    sys.exit(main())
