"""Find the texts of a corpus that are nearest to each query, by cosine similarity."""

from __future__ import annotations

import argparse

from simjax.cli.arguments import add_json, positive
from simjax.cli.model import add_model, load_model
from simjax.cli.texts import read_texts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument(
        "corpus", metavar="CORPUS", help="one text a line, .gz or plain; - is stdin"
    )
    parser.add_argument("queries", metavar="QUERY", nargs="+", help="what to look for")
    parser.add_argument(
        "--top_k", type=positive, default=10, metavar="K", help="most hits per query"
    )
    parser.add_argument(
        "--threshold", type=float, metavar="SCORE", help="least cosine similarity of a hit"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print the hits of each query, best first."""
    texts = read_texts(args.corpus)
    lines = [number for number, text in enumerate(texts, start=1) if text.strip()]
    encoder = load_model(args)
    encoder.build_index([texts[number - 1] for number in lines], show_progress_bar=True)
    found = encoder.search(args.queries, top_k=args.top_k, threshold=args.threshold)
    for query, hits in zip(args.queries, found, strict=True):
        print(query)
        for rank, hit in enumerate(hits, start=1):
            print(f"{rank:4d}  {hit.score:.4f}  {lines[hit.index]:>7d}  {hit.sentence}")
        if not hits:
            print("      nothing")
    if args.json is not None:
        from simjax.eval.report import write_json

        write_json(
            args.json,
            {
                "queries": [
                    {
                        "query": query,
                        "hits": [
                            {"line": lines[h.index], "score": h.score, "text": h.sentence}
                            for h in hits
                        ],
                    }
                    for query, hits in zip(args.queries, found, strict=True)
                ]
            },
        )
