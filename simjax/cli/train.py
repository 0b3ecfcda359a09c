"""Train an encoder by a recipe. A stopped run goes on where its output folder left off.

Any key of the recipe can be given on the command line: `--objective.temperature 0.02`.
`--print_config` shows every key with the value that it would have.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from simjax.cli.arguments import LineParser, add_json, split_overrides

_SWITCHES = ("--print_config",)
_OPTIONS = ("--json",)


def _keys() -> str:
    """The keys of a recipe, for the help; their types take seconds to import."""
    from simjax.train import recipe_keys
    from simjax.train.config import RunConfig

    told = recipe_keys.keys(RunConfig)
    lines = [f"  {key}: {allowed} ({default})" for key, allowed, default in told]
    return "\n".join(["", "keys of a recipe, what they may be, and their defaults:", *lines, ""])


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


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part overrides from the other arguments.

    Raises:
        UsageError: An override without a value.
    """
    return split_overrides(argv, _SWITCHES, _OPTIONS)


def run(args: argparse.Namespace) -> None:
    """Load the recipe and train."""
    from simjax.train import config as run_config

    config = run_config.load(args.config, args.rest)
    if args.print_config:
        print(run_config.dump(config), end="")
        return
    from simjax.eval.report import write_json
    from simjax.train.loop import train

    scores = train(config)
    if args.json is not None:
        write_json(args.json, scores)
