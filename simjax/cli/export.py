"""Write a run's model as a folder that sentence-transformers, transformers and simjax load.

A finished run has one already, in its own `export` folder. This takes any of its checkpoints, and
any model that simjax loads.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from simjax.argument_types import positive
from simjax.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "run_folder",
        metavar="RUN",
        help="run folder of simjax; or a hub id, Hugging Face or sentence-transformers folder",
    )
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder to write, or a URL")
    parser.add_argument(
        "--step",
        type=positive,
        help="which checkpoint of the run; without it the best by the run's evaluation.metric, or "
        "the newest where it has none",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a model that simjax exported to OUTPUT before",
    )


def run(args: argparse.Namespace) -> None:
    """Export, and say what was written."""
    from simjax import export, remote

    if not remote.is_url(args.output):
        # Before the model is read: it may be the one that a killed export has moved aside.
        export.check_target(args.output.expanduser().resolve(), overwrite=args.overwrite)
    if (Path(args.run_folder) / "config.yaml").is_file():
        from simjax.train.finish import export_run

        step = export_run(
            Path(args.run_folder),
            args.output,
            step=args.step,
            overwrite=args.overwrite,
            warn=lambda line: print(line, file=sys.stderr),
        )
        print(f"{args.output}: the model of step {step}")
        return
    if args.step is not None:
        raise UsageError(f"--step: {args.run_folder} is no run folder (it has no config.yaml)")
    from simjax.sentence_encoder import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained(args.run_folder)
    encoder.save_pretrained(args.output, overwrite=args.overwrite)
    print(f"{args.output}: the model of {args.run_folder}")
    from simjax.model_card import left_out

    for said in left_out(encoder.flow, encoder.decoder):
        print(f"{args.output}: {said}", file=sys.stderr)
