"""Whiten a model's embeddings, or put a flow behind them; both are fitted on sentences alone."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from simjax.argument_types import positive
from simjax.cli.arguments import add_command
from simjax.cli.model import add_model, load_model
from simjax.cli.texts import shown, stream_texts
from simjax.errors import SimjaxError, UsageError

WHITENING = (
    "BERT-whitening (arXiv 2103.15316): make embeddings uncorrelated, with as many dimensions as "
    "are asked for"
)
FLOW = "BERT-flow (arXiv 2011.05864): fit an invertible flow to a normal distribution"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the post-processors."""
    commands = parser.add_subparsers(metavar="WHAT", title="post-processors", required=True)
    add_command(commands, "whitening", WHITENING, _whitening_arguments, run_whitening)
    add_command(commands, "flow", FLOW, _flow_arguments, run_flow)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "sentences",
        metavar="SENTENCES",
        nargs="+",
        help="files of one sentence a line, .gz or plain; empty lines are left out",
    )
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder of the new model")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a model that simjax exported to OUTPUT before",
    )


def _whitening_arguments(parser: argparse.ArgumentParser) -> None:
    _add_shared(parser)
    parser.add_argument(
        "--dimension",
        type=positive,
        metavar="K",
        help="keep the K directions of the largest variance; without this, all that have any",
    )


def run_whitening(args: argparse.Namespace) -> None:
    """Fit a whitening and write the model with it."""
    from simjax.export import ModelCard, check_target

    check_target(args.output.expanduser().resolve(), overwrite=args.overwrite)
    encoder = load_model(args)
    from simjax.inference.progress import progress
    from simjax.inference.whitened import whitened

    with progress(None) as advance:
        new, found = whitened(
            encoder,
            _sentences(args.sentences),
            dimension=args.dimension,
            batch_size=args.batch_size,
            advance=advance,
        )
    kept, width = found.layer.weight.shape
    said = (
        f"whitened to {kept} of {width} dimensions, in which {100 * found.kept:.1f} % of the "
        f"variance of {found.sentences:,} sentences lies"
    )
    note = (
        f"The last dense layer is a whitening (Su et al. 2021, arXiv 2103.15316), {said}. It was "
        f"fitted on {_names(args)}."
    )
    card = ModelCard(base_model=args.model, notes=(note,))
    new.save_pretrained(args.output, card=card, overwrite=args.overwrite)
    print(f"{args.output}: {args.model} {said}")


def _flow_arguments(parser: argparse.ArgumentParser) -> None:
    _add_shared(parser)
    parser.add_argument("--depth", type=positive, default=4, metavar="K", help="steps of the flow")
    parser.add_argument(
        "--hidden", type=positive, default=128, metavar="H", help="width of the couplings' networks"
    )
    parser.add_argument(
        "--coupling",
        choices=("additive", "affine"),
        default="additive",
        help="whether couplings only move, as BERT-flow's do, or stretch as well",
    )
    parser.add_argument("--epochs", type=positive, default=20, metavar="N", help="passes")
    parser.add_argument(
        "--fit_batch_size", type=positive, default=256, metavar="N", help="sentences of a step"
    )
    parser.add_argument(
        "--learning_rate", type=float, default=1e-3, metavar="R", help="Adam's, at the start"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the order and the start")


def run_flow(args: argparse.Namespace) -> None:
    """Fit a flow and write the model with it. A stopped fit goes on by the same command."""
    from simjax.export import ModelCard, check_target
    from simjax.model_card import left_out

    if "-" in args.sentences:
        raise UsageError("flow reads the sentences more than once: give files, not -")
    output: Path = args.output.expanduser().resolve()
    check_target(output, overwrite=args.overwrite)
    encoder = load_model(args)
    from simjax.inference.flowed import flowed
    from simjax.postprocess.flow_fit import FitConfig
    from simjax.train.signals import StopRequest

    work = output.with_name(f"{output.name}.fit")
    with StopRequest() as stop:
        done = flowed(
            encoder,
            partial(_sentences, args.sentences),
            work,
            fit=FitConfig(
                args.depth,
                args.hidden,
                args.coupling,
                args.epochs,
                args.fit_batch_size,
                args.learning_rate,
                seed=args.seed,
            ),
            batch_size=args.batch_size,
            say=lambda line: print(line, file=sys.stderr),
            stop=lambda: stop.requested,
            show_progress_bar=True,
        )
    if done is None:
        print(f"{stop.name}: saved in {work}; the same command goes on from there")
        return
    said = (
        f"held-out log-likelihood of a sentence {done.before:.2f} nats before and {done.after:.2f} "
        f"after {done.epoch} {'epoch' if done.epoch == 1 else 'epochs'} of {args.epochs}"
    )
    note = (
        f"Behind the modules is a flow (BERT-flow, Li et al. 2020, arXiv 2011.05864) of "
        f"{args.depth} steps, fitted on {done.sentences:,} sentences of {_names(args)}; {said}."
    )
    card = ModelCard(base_model=args.model, notes=(note,))
    done.encoder.save_pretrained(output, card=card, overwrite=args.overwrite)
    shutil.rmtree(work)
    print(f"{args.output}: {args.model} with a flow; {said}")
    for said in left_out(done.encoder.flow, done.encoder.decoder):
        print(f"{args.output}: {said}", file=sys.stderr)


def _names(args: argparse.Namespace) -> str:
    return ", ".join(Path(name).name for name in args.sentences)


def _sentences(names: list[str]) -> Iterator[str]:
    """The lines of several files.

    Raises:
        SimjaxError: A file is missing, is not UTF-8, or holds no text.
    """
    for name in names:
        written = False
        for line in stream_texts(name):
            written = written or bool(line.strip())
            yield line
        if not written:
            raise SimjaxError(f"{shown(name)}: holds no text; expected one on each line")
