"""Train an encoder by a recipe. A stopped run goes on where its output folder left off.

Any key of the recipe can be given on the command line: `--objective.temperature 0.02`.
`--print_config` shows every key with the value that it would have.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from simjax.cli.arguments import (
    LineParser,
    add_json,
    every_option_but,
    split_overrides,
)
from simjax.cli.postprocess import FLOW, WHITENING
from simjax.processes import command_line

_OPTIONS = ("--print_config", "--json", "--stopped_status", *command_line.OPTIONS)


def _keys() -> str:
    """Systems and keys of a recipe, for the help; their types take seconds to import."""
    from simjax.train import recipe_keys
    from simjax.train.config import RunConfig
    from simjax.train.published import PUBLISHED

    told = recipe_keys.keys(RunConfig)
    lines = [f"  {key}: {allowed} ({default})" for key, allowed, default in told]
    systems = [f"  {one}: {one.keys}" for one in PUBLISHED]
    after = ", ".join(what.partition(":")[0] for what in (WHITENING, FLOW))
    return "\n".join(
        [
            *("", "published systems, and the keys that choose them:", *systems),
            f"  {after}: simjax postprocess",
            *("", "keys of a recipe, what they may be, and their defaults; of items [n] the whole"),
            *("list is given: --data.augment '[{kind: crop}]'", *lines, ""),
        ]
    )


def add_arguments(parser: LineParser) -> None:
    """Declare the arguments; overrides of the recipe are taken by `split`."""
    parser.more_help = _keys
    parser.usage = "simjax train CONFIG [--dotted.key VALUE ...] [options]"
    parser.add_argument("config", type=Path, metavar="CONFIG", help="recipe: a YAML file")
    parser.add_argument(
        "--print_config",
        action="store_true",
        help="print the whole configuration, overrides included, and stop",
    )
    add_json(parser)
    parser.add_argument(
        "--stopped_status",
        type=int,
        default=0,
        metavar="N",
        help="exit status after a signal, with everything saved",
    )
    command_line.add_process_arguments(parser)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part overrides from the other arguments.

    Raises:
        UsageError: An override without a value.
    """
    return split_overrides(argv, every_option_but(_OPTIONS))


def run(args: argparse.Namespace) -> int:
    """Load the recipe and train; returns the exit status."""
    from simjax.processes.start import joined
    from simjax.train import config as run_config

    if args.print_config:
        print(run_config.dump(run_config.load(args.config, args.rest)), end="")
        return 0
    # Joined first, so that a recipe that one process cannot read ends the others too.
    with joined(command_line.process_config(args)):
        import jax

        from simjax.eval.report import write_json
        from simjax.train.loop import train

        scores = train(run_config.load(args.config, args.rest))
        if args.json is not None and jax.process_index() == 0:
            write_json(args.json, scores)
    return args.stopped_status if "stopped" in scores else 0
