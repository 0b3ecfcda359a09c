"""Parquet files, data sets of TensorFlow Datasets and mixtures that `simjax train` refuses."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow_datasets as tfds
from pyarrow import parquet

from tests.cli.malformed.data_files import PAIRS
from tests.cli.malformed.recipes import GOOD
from tests.cli.malformed.rows import Make, Row, write


def trained(data: str, prepare: Callable[[Path], Any]) -> Make:
    """A run on data that `prepare` writes; `{}` in its configuration is the folder."""

    def make(folder: Path) -> list[str]:
        prepare(folder)
        text = f"{GOOD}data: {{root: '{folder}', {data}}}\n"
        return ["train", str(write(folder / "recipe.yaml", text)), f"--output={folder / 'run'}"]

    return make


def table(columns: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


GOOD_TABLE = table({"anchor": [f"a {i}" for i in range(99)], "positive": ["b"] * 99})


TEXTS = {"anchor": ["a"], "positive": ["b"]}
NO_UTF8 = pa.array([b"\xff"])


def arrow(name: str, content: bytes | dict[str, Any], *says: str, keys: str = "") -> Row:
    """A Parquet file."""
    whole = content if isinstance(content, bytes) else table(content)
    data = f"source: {{path: x.parquet{keys}}}"
    return Row(f"parquet: {name}", trained(data, lambda f: write(f / "x.parquet", whole)), says)


class Texts(tfds.core.GeneratorBasedBuilder):
    """Two texts."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"a": tfds.features.Text(), "n": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": iter([(i, {"a": f"text {i}", "n": i}) for i in range(2)])}

    def _generate_examples(self) -> Any:
        raise NotImplementedError


@cache
def prepared_files() -> dict[str, bytes]:
    """What TFDS writes for it, by name."""
    tfds.disable_progress_bar()
    with TemporaryDirectory() as folder:
        Texts(data_dir=folder, file_format="array_record").download_and_prepare()
        files = sorted((Path(folder) / "texts" / "1.0.0").iterdir())
        return {file.name: file.read_bytes() for file in files}


def prepared(
    name: str,
    change: Callable[[dict[str, bytes]], Any],
    *says: str,
    split: str = "train",
    anchor: str = "a",
) -> Row:
    """A folder of TensorFlow Datasets whose files `change` has spoilt."""

    def prepare(folder: Path) -> None:
        files = dict(prepared_files())
        change(files)
        for file, content in files.items():
            write(folder / "set" / "1.0.0" / file, content)

    data = f"source: {{format: tfds, path: set, split: '{split}', anchor: {anchor}}}"
    return Row(f"tfds: {name}", trained(data, prepare), says)


def put(name: str, content: bytes) -> Callable[[dict[str, bytes]], Any]:
    return lambda files: files.update({name: content})


def unchanged(files: dict[str, bytes]) -> None:
    """Nothing is wrong with the files."""


def mixture(name: str, sources: str, *says: str, data: str = "", status: int = 1) -> Row:
    """Several sources, of which `good.csv` and `small.txt` are there."""

    def prepare(folder: Path) -> None:
        write(folder / "good.csv", PAIRS + "".join(f"a{i},b{i}\n" for i in range(600)))
        write(folder / "small.txt", "one\ntwo\n")
        write(folder / "bad.csv", PAIRS + "c\n")

    return Row(f"mixture: {name}", trained(f"sources: [{sources}]{data}", prepare), says, status)


SHARD = "texts-train.array_record-00000-of-00001"
GOOD_SOURCE = "{path: good.csv}"

ROWS = [
    arrow("empty", b"", "{}/x.parquet: not a Parquet file, or a damaged one: ", "0 bytes"),
    arrow("plain text", b"anchor,positive\na,b\n", "{}/x.parquet: not a Parquet file"),
    arrow("cut off", GOOD_TABLE[:-20], "{}/x.parquet: not a Parquet file, or a damaged one"),
    arrow("a footer that lies", GOOD_TABLE[:-8] + b"\xff\xff\xff\x7fPAR1", "smaller than the size"),
    arrow(
        "zeros for pages",
        GOOD_TABLE[:4] + bytes(200) + GOOD_TABLE[204:],
        "{}/x.parquet: damaged somewhere after row 0",
    ),
    arrow("no rows", {"anchor": pa.array([], pa.string())}, "no text to train a tokenizer on"),
    arrow("no usual column", {"a": ["b"]}, "{}/x.parquet: no columns with usual names"),
    arrow("a column that is not there", TEXTS, "x.parquet: no column 'q'", keys=", anchor: q"),
    arrow("numbers", TEXTS | {"anchor": [1]}, "{}/x.parquet: row 1: 'anchor' is not a string: 1"),
    arrow("bytes", TEXTS | {"anchor": NO_UTF8}, "row 1: 'anchor' is not UTF-8: byte 0xff"),
    arrow(
        "no UTF-8", TEXTS | {"anchor": NO_UTF8.view(pa.string())}, "row 1: 'anchor' is not UTF-8"
    ),
    arrow("lists of numbers", TEXTS | {"positive": [[1]]}, "row 1: 'positive' is not a string or"),
    arrow(
        "a word for a score",
        TEXTS | {"s": ["high"]},
        "{}/x.parquet: row 1: the score 's' is no finite number: high",
        keys=", score: s",
    ),
    prepared("absent", dict.clear, "{}/set: no data set that TFDS has prepared"),
    prepared(
        "no description", put("dataset_info.json", b""), "{}/set/1.0.0 (train): Failed to load JSON"
    ),
    prepared("no features", lambda files: files.pop("features.json"), "(train): Cannot restore"),
    prepared(
        "features that are no JSON",
        put("features.json", b"{"),
        "{}/set/1.0.0/features.json: cannot be read",
    ),
    prepared(
        "somebody else's class",
        put("features.json", b'{"pythonClassName": "os.system"}'),
        "features.json: os.system is no feature of TFDS's own, and is not imported",
    ),
    prepared("no such split", unchanged, "(test): Unknown split 'test'", split="test"),
    prepared("half a slice", unchanged, "(train[): Error parsing split", split="train["),
    prepared("an empty slice", unchanged, "(train[:0]): holds no examples", split="train[:0]"),
    prepared(
        "no such feature", unchanged, "{}/set/1.0.0 (train): no column 'q'; found: ", anchor="q"
    ),
    prepared("numbers", unchanged, "(train): example 1: 'n' is not a string: 0", anchor="n"),
    prepared("no shard", lambda files: files.pop(SHARD), "cannot be read after example 0: open()"),
    prepared("a shard of text", put(SHARD, b"plain\n" * 99), "cannot be read after example 0"),
    prepared("an empty shard", put(SHARD, b""), "(train): cannot be read after example 0"),
    prepared(
        "half a shard",
        lambda files: files.update({SHARD: files[SHARD][: len(files[SHARD]) // 2]}),
        "{}/set/1.0.0 (train): example 1: is empty, so a file is damaged",
    ),
    mixture("a fault in the second", f"{GOOD_SOURCE}, {{path: bad.csv}}", "{}/bad.csv:3: 1 fields"),
    mixture("one that is absent", f"{GOOD_SOURCE}, {{path: nowhere.csv}}", "nowhere.csv: no such"),
    mixture(
        "one weight of two",
        "{path: good.csv, weight: 1}, {path: small.txt}",
        "{}/recipe.yaml:3: data.sources[1].weight is missing",
        status=2,
    ),
    *(
        mixture(
            f"a weight of {weight}",
            f"{{path: good.csv, weight: {weight}}}, {{path: small.txt, weight: 1}}",
            says,
            status=2,
        )
        for weight, says in {
            "0": "a source's weight is 0.0: give a number above 0",
            "-1": "a source's weight is -1.0: give a number above 0",
            ".nan": ":3: data.sources[0].weight must be a number or null, not nan",
            "much": ":3: data.sources[0].weight must be a number or null, not 'much'",
        }.items()
    ),
    mixture(
        "a source beside them",
        GOOD_SOURCE,
        ":3: data.sources is given and data.source is as well",
        data=", source: {path: good.csv}",
        status=2,
    ),
    mixture(
        "one too small for a batch",
        f"{GOOD_SOURCE}, {{path: small.txt}}",
        "{}/small.txt: holds 2 examples, fewer than a batch of 512 needs: lower data.batch_size",
        data=", views: dropout",
    ),
    mixture(
        "no positives in one",
        f"{GOOD_SOURCE}, {{path: small.txt}}",
        "{}/small.txt: the examples have an anchor and no positive",
        "in data.sources[1].positives",
    ),
    mixture(
        "an unknown way to mix",
        GOOD_SOURCE,
        ":3: data.mixing must be one of one_source, mixed, not 'stirred'",
        data=", mixing: stirred",
        status=2,
    ),
]
