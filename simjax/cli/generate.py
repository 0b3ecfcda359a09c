"""Write sentences similar to TEXT with a model that learned paraphrases (objective.seq2seq).

Sentences are drawn token by token, N side by side; those that are TEXT again, or each other, are
left out, and the rest are printed with the cosine of their embedding and TEXT's, the largest first.
"""

from __future__ import annotations

import argparse

from simjax.argument_types import positive
from simjax.cli.arguments import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model", metavar="MODEL", help="run folder of simjax, or a folder that it exported"
    )
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="what to write paraphrases of")
    parser.add_argument(
        "--count", type=positive, default=10, metavar="N", help="sentences drawn for each text"
    )
    parser.add_argument(
        "--top_k", type=positive, metavar="K", help="draw from the K likeliest tokens alone"
    )
    parser.add_argument(
        "--top_p",
        type=float,
        default=0.95,
        metavar="P",
        help="draw from the likeliest tokens that together have this probability",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="what logits are divided by; below 1, likelier tokens get likelier",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument(
        "--max_length",
        type=positive,
        metavar="TOKENS",
        help="cut what is written at this many tokens, instead of where training did",
    )
    parser.add_argument(
        "--rerank",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the most similar first; otherwise as they were drawn",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of the computation",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print each text with what was written for it."""
    from simjax.errors import UsageError
    from simjax.generate.paraphraser import Paraphraser
    from simjax.generate.sampling import SamplingConfig

    if not all(text.strip() for text in args.texts):
        raise UsageError("TEXT: one is empty")
    names = ("count", "top_k", "top_p", "temperature", "seed", "max_length")
    try:
        sampling = SamplingConfig(**{name: getattr(args, name) for name in names})
        paraphraser = Paraphraser.from_pretrained(args.model, dtype=args.dtype)
        found = [paraphraser.similar(text, sampling, rerank=args.rerank) for text in args.texts]
    except UsageError as error:
        name = str(error).split(" ", 1)[0]
        raise UsageError(f"--{error}" if name in names else str(error)) from error
    for text, written in zip(args.texts, found, strict=True):
        print(text)
        for one in written:
            print(f"  {one.score:.4f}  {one.text}{'' if one.finished else ' ...'}")
        if not written:
            print("  nothing but the text itself")
    if args.json is not None:
        from simjax.eval.report import write_json

        entries = [
            {"text": text, "similar": [vars(one) for one in written]}
            for text, written in zip(args.texts, found, strict=True)
        ]
        write_json(args.json, {"texts": entries})
