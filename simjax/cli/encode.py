"""Turn lines of text into embeddings: row i of OUTPUT belongs to line i of INPUT."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from simjax.cli.arguments import positive
from simjax.cli.model import add_model, load_model
from simjax.cli.texts import read_texts
from simjax.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument("input", metavar="INPUT", help="one text a line, .gz or plain; - is stdin")
    parser.add_argument(
        "output", metavar="OUTPUT", type=Path, help="NumPy file (.npy), float32 [lines, width]"
    )
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="unit vectors or not; without either, as the model's folder says",
    )
    parser.add_argument("--prompt", help="put before every text; text, or name of a model's prompt")
    parser.add_argument(
        "--truncate_dim", type=positive, metavar="D", help="keep the first D dimensions"
    )


def run(args: argparse.Namespace) -> None:
    """Encode INPUT and write OUTPUT, whole or not at all."""
    output: Path = args.output
    if output.suffix != ".npy":
        raise UsageError(f"{output}: OUTPUT must end in .npy")
    texts = read_texts(args.input)
    encoder = load_model(args)
    embeddings = encoder.encode(
        texts,
        batch_size=args.batch_size,
        normalize=args.normalize,
        show_progress_bar=True,
        prompt=args.prompt,
        truncate_dim=args.truncate_dim,
    )
    import numpy as np

    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.save(file, embeddings, allow_pickle=False)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{output}: {embeddings.shape[0]:,} embeddings of width {embeddings.shape[1]}")
