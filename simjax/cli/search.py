"""Find the texts of a corpus that are nearest to each query, by cosine similarity.

CORPUS is a file of texts, which are embedded first, or a folder that `simjax index` made.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.argument_types import positive
from simjax.cli.arguments import add_json
from simjax.cli.model import add_model, load_model
from simjax.cli.texts import read_texts
from simjax.errors import SimjaxError, UsageError

if TYPE_CHECKING:
    from simjax.sentence_encoder import SentenceEncoder

OF_INDEX = ("truncate_dim", "rescore", "effort")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument(
        "corpus",
        metavar="CORPUS",
        help="one text a line, .gz or plain, - is stdin; or an index",
    )
    parser.add_argument("queries", metavar="QUERY", nargs="*", help="what to look for")
    parser.add_argument(
        "--queries",
        metavar="FILE",
        dest="queries_file",
        help="more queries, one a line, .gz or plain; empty lines are left out",
    )
    parser.add_argument(
        "--prompt", help="put before every query; text, or name of a model's prompt"
    )
    parser.add_argument(
        "--top_k", type=positive, default=10, metavar="K", help="most hits per query"
    )
    parser.add_argument(
        "--threshold", type=float, metavar="SCORE", help="least cosine similarity of a hit"
    )
    group = parser.add_argument_group("for an index")
    group.add_argument(
        "--truncate_dim",
        type=positive,
        metavar="D",
        help="keep the first D dimensions of the queries, as was done for the index",
    )
    group.add_argument(
        "--rescore",
        type=int,
        metavar="M",
        help="int8 and binary: rank M times K candidates by their embeddings (4; 0: not at all)",
    )
    group.add_argument(
        "--effort",
        type=positive,
        metavar="N",
        help="faiss-ivf: lists looked through (an eighth); faiss-hnsw: candidates kept (64)",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print the hits of each query, best first."""
    queries = list(args.queries)
    if not all(query.strip() for query in queries):
        raise UsageError("QUERY: one is empty")
    if args.queries_file is not None:
        queries += [text for text in read_texts(args.queries_file) if text.strip()]
    if not queries:
        raise UsageError("search: give a QUERY, or --queries FILE")
    search = _search_index if Path(args.corpus).is_dir() else _search_texts
    found = search(args, queries)
    for query, hits in zip(queries, found, strict=True):
        print(query)
        for rank, hit in enumerate(hits, start=1):
            print(f"{rank:4d}  {hit['score']:.4f}  {hit['line']:>7d}  {hit['text'] or ''}".rstrip())
        if not hits:
            print("      nothing")
    if args.json is not None:
        from simjax.eval.report import write_json

        entries = zip(queries, found, strict=True)
        write_json(args.json, {"queries": [{"query": q, "hits": hits} for q, hits in entries]})


def _hits(found: Iterable[tuple[int, float, str | None]]) -> list[dict[str, Any]]:
    return [{"line": line, "score": score, "text": text} for line, score, text in found]


def _search_texts(args: argparse.Namespace, queries: list[str]) -> list[list[dict[str, Any]]]:
    given = [option for option in OF_INDEX if getattr(args, option) is not None]
    if given:
        raise UsageError(f"--{given[0]}: {args.corpus} is no index")
    texts = read_texts(args.corpus)
    lines = [number for number, text in enumerate(texts, start=1) if text.strip()]
    encoder = load_model(args)
    sentences = [texts[number - 1] for number in lines]
    encoder.build_index(sentences, batch_size=args.batch_size, show_progress_bar=True)
    found = encoder.search(
        queries,
        top_k=args.top_k,
        threshold=args.threshold,
        prompt=args.prompt,
        batch_size=args.batch_size,
    )
    return [_hits((lines[h.index], h.score, h.sentence) for h in hits) for hits in found]


def _search_index(args: argparse.Namespace, queries: list[str]) -> list[list[dict[str, Any]]]:
    import jax

    from simjax.index.folder import RESCORE, SavedIndex

    index = SavedIndex(Path(args.corpus), devices=jax.local_devices())
    encoder = load_model(args)
    _check_model(index, encoder, args)
    vectors = encoder.encode(
        queries,
        batch_size=args.batch_size,
        normalize=True,
        prompt=args.prompt,
        truncate_dim=args.truncate_dim,
    )
    if args.rescore is not None and not index.about.embeddings:
        raise UsageError(
            f"--rescore: {args.corpus} keeps no embeddings to rank candidates by; leave it out"
        )
    rescore = RESCORE if args.rescore is None else args.rescore
    hits = index.search(vectors, args.top_k, rescore=rescore, effort=args.effort)
    found = []
    for scores, rows in zip(hits.scores.tolist(), hits.rows.tolist(), strict=True):
        best = [
            (row, score)
            for row, score in zip(rows, scores, strict=True)
            if row >= 0 and (args.threshold is None or score >= args.threshold)
        ]
        texts = index.texts
        if texts is None:
            found.append(_hits((row + 1, score, None) for row, score in best))
        else:
            found.append(_hits((int(texts.lines[row]), score, texts[row]) for row, score in best))
    return found


def _check_model(index: Any, encoder: SentenceEncoder, args: argparse.Namespace) -> None:
    about = index.about
    if about.model is not None and about.model != encoder.fingerprint():
        raise SimjaxError(
            f"{args.corpus}: its embeddings are of another model than {args.model}; search with "
            "the model that encoded them"
        )
    width = encoder.request(truncate_dim=args.truncate_dim).width
    if width != about.width:
        raise UsageError(
            f"{args.corpus}: its embeddings have {about.width} dimensions, the queries would have "
            f"{width}; --truncate_dim D keeps the first D"
        )
