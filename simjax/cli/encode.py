"""Turn lines of text into embeddings: row i of OUTPUT belongs to line i of INPUT.

INPUT may be larger than memory. All devices share the work. A run that was stopped goes on where it
was when the same command is given again; OUTPUT appears when it is whole.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from simjax.argument_types import positive
from simjax.cli.model import add_model, load_model
from simjax.cli.texts import shown, stream_texts
from simjax.errors import SimjaxError
from simjax.remote import path_here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument("input", metavar="INPUT", help="one text a line, .gz or plain; - is stdin")
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        type=path_here,
        help="file that ends in .npy, .safetensors (tensor `embeddings`; both float32 [lines, "
        "width]) or .parquet (column `embedding`)",
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
    from simjax.inference.formats import format_of

    output: Path = args.output
    format_of(output)
    if args.input != "-" and not Path(args.input).exists():
        raise SimjaxError(f"{args.input}: no such file")
    encoder = load_model(args)
    from simjax.inference.bulk import encode_to_file
    from simjax.inference.progress import progress

    def resumed(rows: int) -> None:
        print(f"{output}: going on after {rows:,} embeddings", file=sys.stderr)
        advance(rows)

    with progress(None) as advance:
        rows, width = encode_to_file(
            encoder,
            stream_texts(args.input),
            output,
            name=shown(args.input),
            batch_size=args.batch_size,
            normalize=args.normalize,
            prompt=args.prompt,
            truncate_dim=args.truncate_dim,
            resumed=resumed,
            advance=advance,
        )
    print(f"{output}: {rows:,} embeddings of width {width}")
