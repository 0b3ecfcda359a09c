"""Train, evaluate, export and search with a small encoder, with no download.

The texts are the documentation of the Python that runs this. Takes about three minutes on two
cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from simjax.cli.arguments import add_json
from simjax.errors import SimjaxError
from simjax.remote import path_here

if TYPE_CHECKING:
    from rich.console import Console

QUERIES = ("recursively delete a folder", "run another program and read what it prints")
QUICK_STEPS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--output",
        type=path_here,
        metavar="DIR",
        default=Path("runs/quickstart"),
        help="run folder",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"train for {QUICK_STEPS} steps only, to see that everything works",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Do the main job once, telling what happens."""
    from rich.console import Console

    from simjax.train import config as run_config

    console = Console(highlight=False, soft_wrap=True)
    recipe = _recipe()
    overrides = [f"--output={args.output}"]
    if args.quick:
        overrides += [f"--train.steps={QUICK_STEPS}"]
    config = run_config.load(recipe, overrides)

    from simjax.data import builtin

    corpus = builtin.corpus()
    console.print(
        f"Texts: {len(corpus.sentences):,} sentences and {len(corpus.pairs):,} pairs of a title and"
        f" its text, from this Python's own documentation; {len(corpus.held_out)} more pairs are"
        " held out."
    )
    console.print(f"Training by {recipe.name}: a tokenizer, then an encoder from random weights.\n")

    from simjax.eval.report import write_json
    from simjax.train.loop import train

    scores = train(config, console=console)
    if "stopped" in scores:
        return
    export = args.output / "export"
    # `make` installs into an environment that need not be the shell's.
    simjax = "simjax" if shutil.which("simjax") else os.path.relpath(sys.argv[0])
    console.print(
        "\nTF-IDF takes words as they are; this encoder had to learn them, from few texts.\n"
        "For work of your own, start from pretrained weights: model.pretrained."
    )
    _search(console, export)
    console.print(
        f"\nThe run is in {args.output}: metrics.jsonl, tensorboard/, checkpoints/, config.yaml.\n"
        f"The model is in {export}: simjax, sentence-transformers and transformers load it.\n\n"
        "Next:\n"
        f'  {simjax} search {export} FILE_OF_SENTENCES "your question"\n'
        f"  {simjax} encode {export} FILE_OF_SENTENCES embeddings.npy\n"
        f"  {simjax} train configs/quickstart.yaml --data.source.format csv "
        "--data.source.path pairs.csv --data.source.anchor COLUMN "
        "--data.source.positives '[COLUMN]' --evaluation.tasks '[]' --evaluation.metric null "
        "--output runs/mine"
    )
    if args.json is not None:
        write_json(args.json, scores)


def _recipe() -> Path:
    """The recipe, in the package as installed or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package, package.parent):
        path = folder / "configs" / "quickstart.yaml"
        if path.is_file():
            return path
    raise SimjaxError(f"{package}: this installation lacks configs/quickstart.yaml; reinstall it")


def _search(console: Console, export: Path) -> None:
    """Loads the exported folder as a stranger would, and asks it for two things."""
    from simjax.data import builtin
    from simjax.sentence_encoder import SentenceEncoder

    corpus = builtin.corpus()
    entries = {f"{entry.title} {entry.body}": entry for entry in (*corpus.pairs, *corpus.held_out)}
    encoder = SentenceEncoder.from_pretrained(export)
    encoder.build_index(list(entries))
    console.print(f"\nThe exported model, loaded again, searches {len(entries):,} texts:")
    for query, hits in zip(QUERIES, encoder.search(list(QUERIES), top_k=3), strict=True):
        console.print(f"\n  {query!r}")
        for hit in hits:
            entry = entries[hit.sentence]
            console.print(f"    {hit.score:.2f}  {entry.name}: {entry.title}", markup=False)
