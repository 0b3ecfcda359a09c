"""Mine hard negatives: texts that MODEL takes for near an anchor though they do not belong to it.

Candidates are the positives of all examples of DATA, and the texts of --corpus; never a text that
is, case and spacing aside, the anchor or one of its positives. OUTPUT can be trained on.
"""

from __future__ import annotations

import argparse

from simjax.argument_types import positive
from simjax.cli.arguments import add_json
from simjax.cli.model import add_model, load_model
from simjax.cli.texts import read_texts
from simjax.errors import SimjaxError, UsageError
from simjax.remote import path_here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument(
        "data",
        metavar="DATA",
        help="CSV, TSV, JSON Lines or Parquet of anchors with positives, or a glob",
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        type=path_here,
        help=".csv or .jsonl, with columns anchor, positive, negative",
    )
    parser.add_argument("--anchor", metavar="COLUMN", help="column of the anchor, if not usual")
    parser.add_argument(
        "--positives", metavar="COLUMN", nargs="+", default=[], help="columns of positives"
    )
    parser.add_argument(
        "--corpus", metavar="FILE", help="more candidates, one a line, .gz or plain; - is stdin"
    )
    parser.add_argument("--prompt", help="put before every anchor; text, or name of a prompt")
    parser.add_argument("--corpus_prompt", help="the same for positives and candidates")
    group = parser.add_argument_group("which candidates become negatives")
    group.add_argument(
        "--negatives", type=positive, default=3, metavar="N", help="how many for an anchor"
    )
    group.add_argument(
        "--range_min",
        type=int,
        default=0,
        metavar="N",
        help="pass over the N nearest, which may be positives that nobody marked",
    )
    group.add_argument(
        "--range_max", type=positive, metavar="N", help="only the N nearest are candidates"
    )
    group.add_argument("--max_score", type=float, metavar="S", help="none of a higher cosine")
    group.add_argument("--min_score", type=float, metavar="S", help="none of a lower cosine")
    group.add_argument(
        "--absolute_margin",
        type=float,
        metavar="M",
        help="only those at least M below the anchor's least similar positive",
    )
    group.add_argument(
        "--relative_margin",
        type=float,
        metavar="M",
        help="the same as a share of that similarity, such as 0.05",
    )
    group.add_argument(
        "--sampling",
        choices=("top", "random"),
        default="top",
        help="the nearest of what is left, or any of it",
    )
    group.add_argument("--seed", type=int, default=0, help="of --sampling random")
    parser.add_argument(
        "--layout",
        choices=("triplet", "n-tuple"),
        default="triplet",
        help="a row for each negative; or negative_1 to negative_N in one row, without the pairs "
        "that have fewer",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Mine, write OUTPUT, and say how much was found."""
    from functools import partial

    import jax

    from simjax.data.sources import Source, read
    from simjax.inference.progress import progress
    from simjax.mine.data import collect
    from simjax.mine.miner import check_output, mine, records, write
    from simjax.mine.negatives import MiningConfig
    from simjax.processes import drafts

    check_output(args.output)
    drafts.recover(args.output)
    config = MiningConfig(
        negatives=args.negatives,
        range_min=args.range_min,
        range_max=args.range_max,
        max_score=args.max_score,
        min_score=args.min_score,
        absolute_margin=args.absolute_margin,
        relative_margin=args.relative_margin,
        sampling=args.sampling,
        seed=args.seed,
    )
    source = Source(path=args.data, anchor=args.anchor, positives=tuple(args.positives))
    corpus = [] if args.corpus is None else read_texts(args.corpus)
    examples = read(source, None)
    try:
        data = collect(examples, corpus, args.data)
    except (SimjaxError, UsageError) as error:
        told = str(error).replace("data.source.anchor", "--anchor")
        raise type(error)(told.replace("data.source.positives", "--positives")) from error
    encoder = load_model(args)
    encode = partial(
        encoder.encode, batch_size=args.batch_size, normalize=True, show_progress_bar=True
    )
    with progress(len(data.anchors), what="searching") as advance:
        mined = mine(
            data,
            config,
            partial(encode, prompt=args.prompt),
            partial(encode, prompt=args.corpus_prompt),
            devices=jax.local_devices(),
            advance=advance,
        )
    rows = write(args.output, records(data, mined, config.negatives, args.layout))
    found = sum(map(len, mined.negatives))
    fewer = sum(len(some) < config.negatives for some in mined.negatives)
    print(
        f"{args.output}: {rows:,} rows, {found:,} negatives for {len(data.anchors):,} anchors "
        f"among {len(data.texts):,} texts"
    )
    print(
        f"mean cosine: positives {mined.positive_score:.4f}, negatives {mined.negative_score:.4f}"
    )
    for name, count in mined.refused.counts.items():
        print(f"{name}: refused {count:,} of {mined.refused.candidates:,} candidates")
    if examples.skipped:
        print(f"{examples.skipped:,} examples left out: a text is empty")
    if fewer:
        print(f"{fewer:,} anchors have fewer than {config.negatives} negatives")
    if args.json is not None:
        from simjax.eval.report import write_json

        write_json(
            args.json,
            {
                "rows": rows,
                "anchors": len(data.anchors),
                "texts": len(data.texts),
                "negatives": found,
                "anchors_with_fewer": fewer,
                "positive_score": mined.positive_score,
                "negative_score": mined.negative_score,
                "candidates": mined.refused.candidates,
                "refused": mined.refused.counts,
            },
        )
