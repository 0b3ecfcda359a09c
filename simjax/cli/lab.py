"""Measure speed and memory beside other libraries; study float error, batch size and views."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from simjax.cli.arguments import add_command, every_dotted_option, split_overrides
from simjax.lab.precision import command as precision
from simjax.lab.scaling import command as scaling
from simjax.lab.views import command as views

PRECISION = "study what rounding does to the gradients of contrastive losses, and to training"
SCALING = "study what many negatives and large batches do to quality, speed, memory and noise"
VIEWS = "study what makes a good second view of a text: augmentation, dropout, temperature"
BENCHES = {
    "encode": "sentences per second beside sentence-transformers",
    "train": "training steps beside sentence-transformers",
    "large_batch": "a training step of 131,072 pairs, and the memory of the process",
    "loss": "time and memory of the loss beside dense PyTorch and dense JAX",
    "scaling": "work, bytes and time of a step by the number of devices",
    "uniformity": "time and memory of the uniformity of a whole set beside PyTorch",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the studies, and the benchmarks below `bench`."""
    studies = parser.add_subparsers(metavar="STUDY", title="studies", required=True)
    bench = studies.add_parser(
        "bench", help="run a benchmark", description="Run a benchmark and print its ratios."
    )
    benches = bench.add_subparsers(metavar="BENCH", title="benchmarks", required=True)
    for name, summary in BENCHES.items():
        module = importlib.import_module(f"simjax.lab.bench.{name}")
        add_command(benches, name, summary, module.add_arguments, module.run)
    add_command(studies, "precision", PRECISION, precision.add_arguments, precision.run)
    add_command(studies, "scaling", SCALING, scaling.add_arguments, scaling.run)
    add_command(studies, "views", VIEWS, views.add_arguments, views.run)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part overrides of a recipe, which `scaling` and `views` take, from the other arguments.

    Raises:
        UsageError: An override without a value.
    """
    words = [argument for argument in argv if not argument.startswith("-")]
    if not {"scaling", "views"}.intersection(words[1:2]):
        return list(argv), []
    return split_overrides(argv, every_dotted_option)
