"""Arguments that say which model to load, and the loading."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from simjax.argument_types import positive

if TYPE_CHECKING:
    from simjax.sentence_encoder import SentenceEncoder


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL and the options that every command on a model has."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="hub id, Hugging Face or sentence-transformers folder, or run folder of simjax",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of the computation",
    )
    parser.add_argument(
        "--max_length",
        type=positive,
        metavar="TOKENS",
        help="cut texts at this many tokens, instead of where the model's folder says",
    )
    parser.add_argument(
        "--batch_size",
        type=positive,
        metavar="ROWS",
        help="most rows of 64 tokens computed at a time, where memory is short; by default 16 on a "
        "CPU and 512 elsewhere",
    )
    parser.add_argument(
        "--latents",
        action="store_true",
        help="embed by the latents of a model that writes texts again from them (UniVAE), not by "
        "its pooling",
    )


def load_model(args: argparse.Namespace) -> SentenceEncoder:
    """The model that the arguments of `add_model` name, on all devices of this process."""
    import jax

    from simjax.sentence_encoder import SentenceEncoder

    return SentenceEncoder.from_pretrained(
        args.model,
        pooling="latents" if args.latents else None,
        dtype=args.dtype,
        max_length=args.max_length,
        devices=jax.local_devices(),
    )
