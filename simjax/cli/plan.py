"""Plan a recipe for accelerators that are not here: memory, speed, what bounds it, what fits.

The real training step is compiled for a TPU slice on this machine, whose compiler is the package
libtpu. GPUs are planned by formula. No weights and no data are needed. Any key of the recipe can be
given on the command line, as for `simjax train`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simjax.cli.arguments import LineParser, add_json, every_option_but, split_overrides
from simjax.errors import SimjaxError, UsageError
from simjax.remote import path_here

if TYPE_CHECKING:
    from rich.console import Console

    from simjax.plan.planning import Plan
    from simjax.plan.rows import Rows
    from simjax.plan.shapes import Shapes
    from simjax.plan.topology import Topology
    from simjax.train.config import RunConfig

_OPTIONS = ("--search", "--no_compile", "--topology", "--tokens", "--write", "--json")


def add_arguments(parser: LineParser) -> None:
    """Declare the arguments; overrides of the recipe are taken by `split`."""
    parser.usage = "simjax plan CONFIG --topology NAME [--dotted.key VALUE ...] [options]"
    parser.add_argument("config", type=Path, metavar="CONFIG", help="recipe: a YAML file")
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="a TPU slice (v4:2x2x4, v5e:16x16, v5p:4x4x8, v6e:8x8) or GPUs (a100:8, h100:8, "
        "h200:16)",
    )
    parser.add_argument(
        "--tokens",
        type=float,
        metavar="N",
        help="mean number of tokens of a text; otherwise the data says, where it and the tokenizer "
        "are here, or texts are taken to be as long as they may be",
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="rank meshes, micro-batches and exchanges of keys by formula, compile the best three, "
        "and write the recipe of the winner",
    )
    parser.add_argument(
        "--write",
        type=path_here,
        metavar="FILE",
        help="where --search writes it; by default CONFIG's name and the topology's, here",
    )
    parser.add_argument(
        "--no_compile", action="store_true", help="formulas alone: seconds in place of minutes"
    )
    add_json(parser)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part overrides of the recipe from the other arguments.

    Raises:
        UsageError: An override without a value.
    """
    return split_overrides(argv, every_option_but(_OPTIONS))


def run(args: argparse.Namespace) -> None:
    """Plan, print, and write what was asked for."""
    # What is planned for is not here, and what is here is left alone.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from rich.console import Console

    from simjax.eval.report import write_json
    from simjax.plan import planning, report, topology
    from simjax.plan.shapes import abstract_model
    from simjax.train import config as run_config

    wanted = topology.parse(args.topology)
    path = args.write or Path(f"{args.config.stem}-{wanted.name.replace(':', '-')}.yaml")
    _check_write(args.write, searching=args.search)
    asked = run_config.load(args.config, args.rest)
    config = planning.with_batch_for(asked, wanted.devices)
    asked_batch = None if config is asked else asked.data.batch_size
    compiling = wanted.compiles and not args.no_compile
    if compiling:
        topology.tpu_devices(wanted.name)
    shapes = abstract_model(config)
    rows = _rows(config, args.tokens)
    console = Console(width=100)
    if args.search:
        plan = _search(config, wanted, shapes, rows, compiling, console)
        plan = dataclasses.replace(plan, asked_batch=asked_batch)
    else:
        plan = planning.make_plan(
            config, wanted, shapes, rows, compiling=compiling, asked_batch=asked_batch
        )
    report.show(plan, str(args.config), console)
    if args.search:
        _write(path, plan)
        console.print(f"written: {path}", soft_wrap=True, highlight=False, markup=False)
    if args.json is not None:
        write_json(args.json, report.figures(plan))


def _check_write(path: Path | None, *, searching: bool) -> None:
    """Says before minutes of compiling that a recipe cannot be written there."""
    if path is None:
        return
    if not searching:
        raise UsageError(f"--write {path}: only --search finds a recipe to write; give both")
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--write {path}: name a file in a folder that is there")


def _rows(config: RunConfig, tokens: float | None) -> Rows:
    """Rows of texts of the stated length, else of the data, else of the longest."""
    from simjax.plan import rows
    from simjax.plan.shapes import is_here
    from simjax.train.setup import load_run_tokenizer

    if tokens is not None:
        return rows.stated(config.data, tokens)
    tokenizer = config.tokenizer.source or config.model.pretrained
    if not rows.readable(config.data):
        return rows.longest(config.data, "the data is not here")
    if tokenizer == "train":
        return rows.longest(config.data, "the vocabulary is not yet learned")
    if tokenizer is None or not is_here(tokenizer):
        return rows.longest(config.data, "the tokenizer is not here")
    return rows.measured(config.data, load_run_tokenizer(config))


def _search(
    config: RunConfig,
    wanted: Topology,
    shapes: Shapes,
    rows: Rows,
    compiling: bool,
    console: Console,
) -> Plan:
    from simjax.plan import report, search
    from simjax.plan.planning import make_plan

    ranked = search.candidates(config, wanted, shapes, rows)
    plans = search.compile_best(
        ranked,
        lambda candidate: make_plan(candidate.config, wanted, shapes, rows, compiling=compiling),
    )
    fitting = [plan for plan in plans if plan.fits]
    winner = min(fitting, key=lambda plan: (plan.roofline.expected[1], plan.total), default=None)
    report.show_search(ranked, plans, winner, console)
    if winner is None:
        raise SimjaxError(
            f"nothing that was compiled fits {wanted.name}, and no recipe is written; choose "
            "train.remat layer, a smaller data.batch_size or more devices"
        )
    return winner


def _write(path: Path, plan: Plan) -> None:
    from simjax.checkpoint.manifest import write_text
    from simjax.train import config as run_config

    head = f"# simjax train {path}\n#\n# Planned for {plan.topology.name}.\n"
    write_text(path, head + run_config.dump(plan.config))
