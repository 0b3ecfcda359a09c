import os
import sys

import datasets
import pytest

from simjax.data import hub
from simjax.data.sources import Example, Source, files, read
from simjax.data.token_store import build
from simjax.data.tokenizer import train_wordpiece
from simjax.errors import SimjaxError, UsageError

ROWS = 21


def rows(begin, end):
    kinds = datasets.ClassLabel(names=["why", "how"])
    several = datasets.List(datasets.Value("string"))
    text = datasets.Value("string")
    types = {"query": text, "pos": several, "kind": kinds, "score": datasets.Value("float32")}
    columns = {
        "query": [f" quéry {i}" if i != 4 else None for i in range(begin, end)],
        "pos": [[f"answer {i}", f"or {i}"][: 1 + i % 2] for i in range(begin, end)],
        "kind": [i % 3 - 1 for i in range(begin, end)],
        "score": [i / 4 for i in range(begin, end)],
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(types))


def expected(begin, end):
    return [
        Example(
            f"quéry {i}",
            (f"answer {i}", f"or {i}")[: 1 + i % 2],
            label=(None, "why", "how")[i % 3],
            score=i / 4,
        )
        for i in range(begin, end)
        if i != 4
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    datasets.disable_progress_bars()
    rows(0, ROWS).save_to_disk(folder / "one")
    splits = {"train": rows(0, ROWS), "test": rows(30, 33)}
    datasets.DatasetDict(splits).save_to_disk(folder / "two")
    for split, part in splits.items():
        part.to_parquet(folder / "someone" / "things" / "data" / f"{split}.parquet")
    return folder


def source(path="one", **options):
    named = {"anchor": "query", "positives": ("pos",), "label": "kind", "score": "score"}
    return Source(format="hub", path=path, **named | options)


@pytest.mark.parametrize("path", ["one", "two"])
def test_examples_of_a_saved_data_set(folder, path, monkeypatch):
    monkeypatch.setattr(hub, "ROWS", 8)
    examples = read(source(path), folder)
    assert list(examples) == expected(0, ROWS)
    assert examples.skipped == 1
    assert list(read(source(str(folder / path)), None)) == expected(0, ROWS)


def test_a_split_of_a_saved_data_set(folder):
    assert list(read(source("two", split="test"), folder)) == expected(30, 33)
    assert {path.name for path, _ in files(source("two", split="test"), folder)} == {
        "data-00000-of-00001.arrow"
    }


def test_a_data_set_by_its_name(folder, tmp_path, monkeypatch):
    """The library's own loader, with a folder in the place of the hub, which no test can reach."""
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, *args, **kw: load(str(folder / name), *args, **kw)
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hub, "_saved", None)
    name = "someone/things"
    assert list(read(source(name), tmp_path)) == expected(0, ROWS)
    assert list(read(source(name, split="train[:50%]"), tmp_path)) == expected(0, 10)
    assert list(read(source(name, split="test[1:]"), tmp_path)) == expected(31, 33)

    tokenizer = train_wordpiece(["quéry answer or 0123456789"] * 2, 60)
    prints = {
        build(
            source(name, split=split), tmp_path, tokenizer, max_length=16, cache=tmp_path
        ).fingerprint
        for split in ("train", "train", "test", "train[:50%]")
    }
    assert len(prints) == 3


# What is refused


def test_a_folder_here_is_not_taken_for_a_data_set_of_the_hub(folder, tmp_path, monkeypatch):
    """The library would, and the same recipe would then read other data elsewhere."""
    monkeypatch.chdir(folder)
    with pytest.raises(SimjaxError, match=r"someone/things: an id of the hub, but also a folder"):
        list(read(source("someone/things"), tmp_path))


def refuse(folder, *args, **options):
    with pytest.raises(SimjaxError) as caught:
        list(read(source(*args, **options), folder))
    said = str(caught.value).replace(f"{folder}/", "")
    assert "\n" not in said
    return said


def test_a_data_set_that_is_not_there_and_must_not_be_fetched(folder):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    said = refuse(folder, "nobody/nothing")
    assert said.startswith("nobody/nothing (train): not in the cache of the library datasets, and ")
    assert "HF_HUB_OFFLINE" in said
    said = refuse(folder, "nobody/nothing", subset="en", split="dev")
    assert said.startswith("nobody/nothing (en, dev): ")
    assert refuse(folder, "a/b/c").startswith("a/b/c: no such folder, and no id of a data set")
    assert refuse(folder, "../x").startswith("../x: no such folder, and no id of a data set")


def test_without_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    said = refuse(folder)
    assert "data.source.format hub needs the library datasets" in said
    assert said.endswith("pip install 'simjax[hub]'")


def test_faults_name_data_set_split_and_row(folder):
    assert refuse(folder, anchor="q") == "one: no column 'q'; found: query, pos, kind, score"
    said = refuse(folder, "two", anchor="score", score=None)
    assert said == "two (train): row 1: 'score' is not a string: 0.0"
    assert refuse(folder, "two", split="dev") == "two: no split 'dev'; it has train, test"
    assert refuse(folder, split="train") == "one: has no splits; leave out data.source.split"
    assert "has no subset" in refuse(folder, subset="en")
    said = refuse(folder, "someone")
    assert said.startswith("someone: not a data set that save_to_disk wrote: ")


def test_a_damaged_file(folder, tmp_path):
    rows(0, ROWS).save_to_disk(tmp_path / "one")
    shard = next((tmp_path / "one").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:300])
    assert refuse(tmp_path).startswith("one: ")


def test_a_subset_of_files_is_a_usage_error():
    with pytest.raises(UsageError, match=r"source's subset is 'en'.*only those of hub"):
        Source(format="tfds", path="a", subset="en")


def test_classes_and_scores_are_held_to_what_is_declared(folder):
    declared = {"classes": ("how", "why"), "score_range": (0.0, 5.0)}
    assert list(read(source(**declared), folder)) == expected(0, ROWS)
    for options, said in (
        ({"classes": ("why",)}, "one: row 3: the label 'kind' is 'how', which is none of"),
        ({"score_range": (0.0, 4.0)}, "one: row 18: the score 'score' is 4.25, out of"),
    ):
        assert refuse(folder, **options).startswith(said)
