"""Sentences per second beside sentence-transformers' `encode`, tokenisation included.

Each contender embeds the same distinct sentences from strings to NumPy arrays in one call.
sentence-transformers sorts by length and pads each batch; it is measured at several batch sizes,
and the ratios are to its fastest one in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from simjax.argument_types import positive
from simjax.lab.bench import arguments

GOALS = {"float32": 1.9, "bfloat16": 3.3}
BATCH_SIZES = (32, 64, 128)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    arguments.add_model(parser)
    arguments.add_dtype(parser)
    parser.add_argument(
        "--rounds", type=positive, default=7, help="turns that each contender takes"
    )
    parser.add_argument("--sentences", type=positive, metavar="N", help="encode the first N alone")
    parser.add_argument(
        "--peer_batch_size",
        nargs="+",
        type=positive,
        default=list(BATCH_SIZES),
        metavar="N",
        help="batch sizes that sentence-transformers is tried with",
    )
    parser.add_argument(
        "--peer_bfloat16",
        action="store_true",
        help="also measure sentence-transformers with weights in bfloat16",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    from simjax.lab.bench import machine, report, texts
    from simjax.lab.bench.timing import interleave

    machine.share_accelerator()
    folder, dtypes = arguments.model_folder(args), arguments.dtypes(args)
    found, origin = texts.sentences(args.data_root)
    sentences = found[: args.sentences]
    settings = {
        "model": arguments.model_name(args),
        "sentences": f"{len(sentences)} of {origin.name}",
        "rounds": args.rounds,
    }
    result = report.Report.begin("encode", settings, origin.note)
    with report.telling() as said:
        contenders = _ours(folder, dtypes, sentences) | _peers(args, folder, sentences, result)
        vectors = {}
        for name, encode in contenders.items():
            said(f"warming up: {name}")
            vectors[name] = encode()
        times = interleave(contenders, args.rounds, said=said)
    for name, seconds in times.items():
        rate = len(sentences) / report.spread(seconds).median
        result.contenders[name] = {"seconds": seconds, "sentences_per_second": rate}
    _compare(result, vectors, dtypes)
    result.show(
        [
            report.Column("seconds", "time (middle half)", report.seconds),
            report.Column("sentences_per_second", "sentences/s", lambda x: f"{x:,.0f}"),
            report.Column("largest_difference", "largest difference", lambda x: f"{x:.1e}"),
        ]
    )
    return result.write(args.json)


def _ours(folder: Any, dtypes: tuple[str, ...], sentences: list[str]) -> dict[str, Callable]:
    from simjax.sentence_encoder import SentenceEncoder

    return {
        f"simjax {dtype}": partial(
            SentenceEncoder.from_pretrained(folder, dtype=dtype).encode, sentences
        )
        for dtype in dtypes
    }


def _peer(dtype: str, batch_size: int) -> str:
    return f"sentence-transformers {dtype}, batch {batch_size}"


def _peers(
    args: argparse.Namespace, folder: Any, sentences: list[str], result: Any
) -> dict[str, Callable]:
    from simjax.lab.bench.peers import PeerEncoder, find_sentence_transformers

    torch = find_sentence_transformers(result.notes)
    if torch is None:
        return {}
    contenders: dict[str, Callable] = {}
    for dtype in ("float32", "bfloat16") if args.peer_bfloat16 else ("float32",):
        peer = PeerEncoder(torch, folder, dtype)
        for size in dict.fromkeys(args.peer_batch_size):
            contenders[_peer(dtype, size)] = partial(peer.encode, sentences, size)
    return contenders


def _compare(result: Any, vectors: dict[str, Any], dtypes: tuple[str, ...]) -> None:
    """Add ratios to the fastest float32 peer, and differences from its embeddings."""
    from simjax.lab.bench.report import Goal, Ratio
    from simjax.lab.bench.timing import paired_ratio

    times = {name: row["seconds"] for name, row in result.contenders.items()}
    for peer_dtype in ("float32", "bfloat16"):
        peers = [name for name in times if name.startswith(f"sentence-transformers {peer_dtype}")]
        if not peers:
            continue
        rates = {name: result.contenders[name]["sentences_per_second"] for name in peers}
        best = max(peers, key=rates.__getitem__)
        for dtype in dtypes:
            ours = f"simjax {dtype}"
            informs = peer_dtype != "float32"
            if informs and dtype == "float32":
                continue
            goal = None if informs else Goal(GOALS[dtype], "at least")
            name = f"speed of {ours} over {best}"
            result.ratios.append(Ratio.of(name, paired_ratio(times[best], times[ours]), goal))
            if not informs:
                difference = abs(vectors[ours] - vectors[best]).max()
                result.contenders[ours]["largest_difference"] = float(difference)
