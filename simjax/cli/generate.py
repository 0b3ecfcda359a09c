"""Write texts with a model that learned to: paraphrases of TEXT, or texts from latents.

A model trained with objective.seq2seq (SimBERT) writes sentences similar to TEXT, token by token, N
side by side; those that are TEXT again, or each other, are left out, and the rest are printed with
the cosine of their embedding and TEXT's, the largest first. A model trained with objective.name vae
(UniVAE) writes TEXT again from its latents; with --sample it writes texts from latents of the
prior, and with --interpolate those on the way from one TEXT to another.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from simjax.argument_types import positive
from simjax.cli.arguments import add_json

if TYPE_CHECKING:
    from simjax.generate.reconstructor import Reconstructor, Written
    from simjax.generate.sampling import SamplingConfig
    from simjax.sentence_encoder import SentenceEncoder

_DRAWS = ("count", "top_k", "top_p", "temperature", "seed", "max_length")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model", metavar="MODEL", help="run folder of simjax, or a folder that it exported"
    )
    texts = parser.add_argument(
        "texts",
        metavar="TEXT",
        nargs="+",
        default=[],
        help="what to write paraphrases of, or to write again",
    )

    class WithoutTexts(argparse.Action):
        """Not `nargs="*"`, which would find no TEXT behind an option."""

        def __call__(self, parser: object, namespace: object, *_: object) -> None:
            setattr(namespace, self.dest, True)
            texts.required = False

    parser.add_argument(
        "--sample",
        action=WithoutTexts,
        nargs=0,
        default=False,
        help="write from latents of the prior, without any TEXT",
    )
    parser.add_argument(
        "--interpolate",
        type=positive,
        metavar="STEPS",
        help="write from latents on the way from the first TEXT to the second, in so many steps",
    )
    parser.add_argument(
        "--latent_layers",
        type=positive,
        nargs="+",
        metavar="LAYER",
        help="with --interpolate: which latents go that way, counted from 1, the lowest layer; the "
        "others stay those of the first TEXT. Without this all go",
    )
    parser.add_argument(
        "--count",
        type=positive,
        metavar="N",
        help="texts drawn for each TEXT: by default 10 paraphrases, or 1 of its latents; with "
        "--sample, latents drawn (10)",
    )
    parser.add_argument(
        "--top_k",
        type=positive,
        metavar="K",
        help="draw from the K likeliest tokens alone; from latents the likeliest token is taken "
        "where one text is written and neither this nor --top_p nor --temperature is given",
    )
    parser.add_argument(
        "--top_p",
        type=float,
        metavar="P",
        help="draw from the likeliest tokens that together have this probability; 0.95 without it",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="what logits are divided by; below 1, likelier tokens get likelier. 1 without it",
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
        default=None,
        help="paraphrases: the most similar first, the default, or as they were drawn",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of the computation",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print what was written."""
    from simjax.errors import SimjaxError, UsageError
    from simjax.sentence_encoder import SentenceEncoder

    _check(args)
    try:
        _sampling(args, of_latents=False)  # before a model is loaded
        encoder = SentenceEncoder.from_pretrained(args.model, dtype=args.dtype)
        of_latents = encoder.decoder is not None and encoder.decoder.latents is not None
        wants_latents = args.sample or args.interpolate is not None
        try:
            if of_latents or wants_latents:
                if args.rerank is not None:
                    raise UsageError(
                        "--rerank and --no-rerank are for paraphrases, and this writes from latents"
                    )
                figures = _from_latents(args, encoder)
            else:
                figures = _paraphrases(args, encoder)
        except UsageError:
            raise
        except SimjaxError as error:
            raise SimjaxError(f"{args.model}: {error}") from error
    except UsageError as error:
        name = str(error).split(" ", 1)[0]
        named = name in (*_DRAWS, "latent_layers")
        raise UsageError(f"--{error}" if named else str(error)) from error
    if args.json is not None:
        from simjax.eval.report import write_json

        write_json(args.json, figures)


def _check(args: argparse.Namespace) -> None:
    from simjax.errors import UsageError

    if not all(text.strip() for text in args.texts):
        raise UsageError("TEXT: one is empty")
    if args.latent_layers is not None and args.interpolate is None:
        raise UsageError("--latent_layers is for --interpolate, which is not given")
    if args.sample:
        if args.texts or args.interpolate is not None:
            other = "TEXT" if args.texts else "--interpolate"
            raise UsageError(f"--sample writes from latents of the prior: leave {other} out")
    elif args.interpolate is not None and len(args.texts) != 2:
        raise UsageError(f"--interpolate: give two TEXTs, not {len(args.texts)}")


def _sampling(args: argparse.Namespace, *, of_latents: bool) -> SamplingConfig:
    """What was asked for; what was not is left to the defaults of paraphrases or of latents."""
    from simjax.generate.sampling import SamplingConfig

    given = {name: getattr(args, name) for name in _DRAWS if getattr(args, name) is not None}
    if of_latents:
        drawn = {"top_k", "top_p", "temperature"} & given.keys()
        several = not args.sample and given.get("count", 1) > 1
        given = {"count": 1} | ({} if drawn or several else {"top_k": 1}) | given
    return SamplingConfig(**given)


def _paraphrases(args: argparse.Namespace, encoder: SentenceEncoder) -> dict[str, Any]:
    from simjax.generate.paraphraser import Paraphraser

    sampling = _sampling(args, of_latents=False)
    paraphraser, rerank = Paraphraser(encoder), args.rerank is not False
    found = [paraphraser.similar(text, sampling, rerank=rerank) for text in args.texts]
    for text, written in zip(args.texts, found, strict=True):
        print(text)
        for one in written:
            print(f"  {one.score:.4f}  {one.text}{'' if one.finished else ' ...'}")
        if not written:
            print("  nothing but the text itself")
    entries = [
        {"text": text, "similar": [vars(one) for one in written]}
        for text, written in zip(args.texts, found, strict=True)
    ]
    return {"texts": entries}


def _from_latents(args: argparse.Namespace, encoder: SentenceEncoder) -> dict[str, Any]:
    from simjax.generate.reconstructor import Reconstructor

    sampling = _sampling(args, of_latents=True)
    reconstructor = Reconstructor(encoder)
    if args.sample:
        return _samples(args, sampling, reconstructor)
    if args.interpolate is not None:
        return _interpolation(args, sampling, reconstructor)
    found = reconstructor.reconstruct(args.texts, sampling)
    for text, written in zip(args.texts, found, strict=True):
        print(text)
        for one in written:
            print(f"  {_shown(one)}")
    entries = [
        {"text": text, "reconstructions": [vars(one) for one in written]}
        for text, written in zip(args.texts, found, strict=True)
    ]
    return {"texts": entries}


def _samples(
    args: argparse.Namespace, sampling: SamplingConfig, reconstructor: Reconstructor
) -> dict[str, Any]:
    import dataclasses

    latents = reconstructor.prior(args.count or 10, sampling.seed)
    found = reconstructor.write(latents, dataclasses.replace(sampling, count=1))
    for (one,) in found:
        print(_shown(one))
    return {"samples": [vars(one) for (one,) in found]}


def _interpolation(
    args: argparse.Namespace, sampling: SamplingConfig, reconstructor: Reconstructor
) -> dict[str, Any]:
    import numpy as np

    first, last = (reconstructor.latents(text) for text in args.texts)
    shares = np.linspace(0.0, 1.0, args.interpolate + 1).tolist()
    latents = [reconstructor.between(first, last, share, args.latent_layers) for share in shares]
    found = reconstructor.write(np.stack(latents), sampling)
    for share, written in zip(shares, found, strict=True):
        for one in written:
            print(f"{share:.2f}  {_shown(one)}")
    steps = [
        {"share": share, "written": [vars(one) for one in written]}
        for share, written in zip(shares, found, strict=True)
    ]
    return {"texts": args.texts, "latent_layers": args.latent_layers, "steps": steps}


def _shown(one: Written) -> str:
    return f"{one.text}{'' if one.finished else ' ...'}"
