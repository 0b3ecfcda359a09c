"""Make a folder that `simjax search` looks through, of embeddings that `simjax encode` wrote.

exact: every embedding is compared. int8, binary: first a byte or a bit of each dimension, then the
best by their embeddings. faiss-flat, faiss-ivf, faiss-hnsw: by faiss, which holds everything in
memory (pip install 'simjax[index]').
"""

from __future__ import annotations

import argparse
from pathlib import Path

from simjax.argument_types import positive
from simjax.cli.arguments import add_json
from simjax.cli.texts import stream_texts
from simjax.errors import UsageError
from simjax.remote import path_here

KINDS = ("exact", "int8", "binary", "faiss-flat", "faiss-ivf", "faiss-hnsw")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "embeddings",
        metavar="EMBEDDINGS",
        type=Path,
        help="file of embeddings: .npy, .safetensors or .parquet",
    )
    parser.add_argument("output", metavar="OUTPUT", type=path_here, help="folder of the index")
    parser.add_argument(
        "--texts",
        metavar="FILE",
        help="what was encoded, one text a line, .gz or plain; hits then show their text, and "
        "empty lines are left out",
    )
    parser.add_argument("--kind", choices=KINDS, default="exact", help="how it is searched")
    parser.add_argument(
        "--codes_only",
        action="store_true",
        help="for int8 and binary: keep no embeddings, so that candidates cannot be ranked by them",
    )
    parser.add_argument(
        "--recall",
        type=positive,
        metavar="N",
        help="measure how much of what exact search finds is found, with N rows as queries",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an index")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Build the index and say what it holds."""
    if args.codes_only and args.kind not in ("int8", "binary"):
        raise UsageError(f"--codes_only: {args.kind} has no codes; choose --kind int8 or binary")
    if args.recall is not None and args.kind == "exact":
        raise UsageError("--recall: it is measured beside exact search; choose another --kind")
    from functools import partial

    import jax

    from simjax.index import folder
    from simjax.index.recall import measure
    from simjax.inference.formats import EmbeddingFile
    from simjax.inference.progress import progress

    source = EmbeddingFile(args.embeddings)
    recall = None
    if args.recall is not None:
        recall = partial(measure, queries=args.recall, devices=jax.local_devices())
    with progress(source.rows, what="indexing") as advance:
        about = folder.build(
            source,
            args.output,
            kind=args.kind,
            texts=None if args.texts is None else stream_texts(args.texts),
            keep_embeddings=not args.codes_only,
            overwrite=args.overwrite,
            recall=recall,
            advance=advance,
        )
    size = sum(file.stat().st_size for file in args.output.iterdir())
    print(
        f"{args.output}: {about.kind}, {about.rows:,} embeddings of width {about.width}, "
        f"{size / 1e6:,.1f} MB"
    )
    for name, value in (about.recall or {}).items():
        print(f"{name}  {value:.4f}")
    if args.json is not None:
        from simjax.eval.report import write_json

        write_json(args.json, {"rows": about.rows, "bytes": size, "recall": about.recall or {}})
