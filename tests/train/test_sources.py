"""Runs from Parquet, from TensorFlow Datasets and from a mixture of both, from file to export."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tensorflow_datasets as tfds
from pyarrow import csv, parquet
from rich.console import Console

from simjax.data.sources import Source
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import loop
from simjax.train.config import RunConfig
from tests.train.tiny_run import (
    BATCH,
    EXAMPLES,
    STOPPED,
    TOTAL,
    StopAfter,
    assert_same_bits,
    config_for,
    figures,
    state_at,
    train,
)

PARQUET = Source(
    path="triples.parquet", anchor="one", positives=("several",), negatives=("negative",)
)
TFDS = Source(
    format="tfds",
    path="triples/1.0.0",
    anchor="anchor",
    positives=("positive",),
    negatives=("negative",),
)


class Triples(tfds.core.GeneratorBasedBuilder):
    """The triples of a CSV file in their order."""

    VERSION = tfds.core.Version("1.0.0")
    rows: tuple[dict[str, str], ...] = ()

    def _info(self) -> tfds.core.DatasetInfo:
        texts = dict.fromkeys(("anchor", "positive", "negative"), tfds.features.Text())
        features = tfds.features.FeaturesDict(texts)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        yield from enumerate(self.rows)


@pytest.fixture(scope="module")
def prepared(data: Path) -> Path:
    """The tiny triples in other formats, in the folder of the CSV file."""
    table = csv.read_csv(data / "triples.csv")
    lists = pa.array([[text] for text in table["positive"].to_pylist()])
    other = pa.table({"one": table["anchor"], "several": lists, "negative": table["negative"]})
    parquet.write_table(other, data / "triples.parquet", row_group_size=40)
    Triples.rows = tuple(table.to_pylist())
    tfds.disable_progress_bar()
    Triples(data_dir=data, file_format="array_record").download_and_prepare()
    return data


def run(data: Path, output: Path, **changes: Any) -> RunConfig:
    """A run that is not evaluated, which would take longest, and saved at its end."""
    config = config_for(data, output)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def updates(output: Path) -> list[dict[str, Any]]:
    """Loss, gradient norm and the like of every step."""
    found = [line for line in figures(output) if "loss" in line]
    assert len(found) == TOTAL
    return found


@pytest.mark.parametrize("source", [PARQUET, TFDS], ids=["parquet", "tfds"])
def test_a_run_is_the_same_from_every_format(whole, prepared, tmp_path, source):
    train(run(prepared, tmp_path / "run", source=source))
    assert updates(tmp_path / "run") == updates(Path(whole[0].output))
    encoder = SentenceEncoder.from_pretrained(tmp_path / "run" / "export")
    assert encoder.encode(["ba"]).shape == (1, 16)


@pytest.fixture(scope="module")
def mixed(prepared: Path) -> RunConfig:
    """A mixture of both, in which every text comes twice, trained without interruption."""
    sources = tuple(
        dataclasses.replace(source, weight=weight) for source, weight in ((PARQUET, 2), (TFDS, 1))
    )
    config = run(
        prepared,
        prepared / "mixed",
        source=Source(),
        sources=sources,
        mixing="mixed",
        no_duplicates=True,
    )
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=TOTAL))
    console = Console(file=io.StringIO(), width=200)
    train(config, console)
    said = console.file.getvalue()
    assert f"{2 * EXAMPLES} examples of 2 sources, {TOTAL} steps of {BATCH} (6 an epoch)" in said
    return config


def test_a_mixture_is_learned(mixed):
    losses = [line["loss"] for line in updates(Path(mixed.output))]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.slow
def test_a_mixture_goes_on_bit_for_bit_where_it_was_stopped(mixed, tmp_path, monkeypatch):
    config = dataclasses.replace(mixed, output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter)
        assert train(config) == {"steps": STOPPED, "stopped": "SIGTERM"}
    train(config)
    assert updates(tmp_path / "run") == updates(Path(mixed.output))
    assert_same_bits(state_at(config), state_at(mixed))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"mixing": "one_source"}, "data.mixing"),
        ({"no_duplicates": False}, "data.no_duplicates"),
        ({"weights": (1, 1)}, "data.weights"),
        ({"weights": (1,)}, "token_store"),
    ],
)
def test_what_decides_the_mixture_cannot_be_changed_on_the_way(mixed, tmp_path, changes, key):
    from simjax.errors import SimjaxError

    weights = changes.pop("weights", (2, 1))
    sources = tuple(
        dataclasses.replace(source, weight=weight)
        for source, weight in zip(mixed.data.sources, weights, strict=False)
    )
    shutil.copytree(mixed.output, tmp_path / "run")
    data = dataclasses.replace(mixed.data, sources=sources, **changes)
    with pytest.raises(SimjaxError) as caught:
        train(dataclasses.replace(mixed, output=str(tmp_path / "run"), data=data))
    assert key in str(caught.value)
