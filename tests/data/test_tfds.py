import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from simjax.data import tfds as ours
from simjax.data.sources import Example, Source, files, read
from simjax.data.token_store import build
from simjax.data.tokenizer import train_wordpiece
from simjax.errors import SimjaxError, UsageError

TRAIN, TEST = 23, 3


class Questions(tfds.core.GeneratorBasedBuilder):
    """Texts, lists of texts, a class, a score, and what only TensorFlow could decode."""

    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="small"), tfds.core.BuilderConfig(name="large"))

    def _info(self):
        features = {
            "question": tfds.features.Text(),
            "answers": tfds.features.Sequence(tfds.features.Text()),
            "kind": tfds.features.ClassLabel(names=["why", "how"]),
            "score": np.float32,
            "count": np.int64,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(TRAIN), "test": self._generate_examples(TEST)}

    def _generate_examples(self, count):
        for i in range(count):
            yield (
                i,
                {
                    "question": f" quéstion {i}" if i != 4 else " ",
                    "answers": [f"answer {i}", f"or {i}"][: 1 + i % 2],
                    "kind": i % 3 - 1,
                    "score": i / 4,
                    "count": i,
                },
            )


def expected(i):
    answers = (f"answer {i}", f"or {i}")[: 1 + i % 2]
    kind = (None, "why", "how")[i % 3]
    return Example(f"quéstion {i}", answers, label=kind, score=i / 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of data sets with one configuration in array_record."""
    folder = tmp_path_factory.mktemp("tfds")
    builder = Questions(config="small", data_dir=folder, file_format="array_record")
    tfds.disable_progress_bar()
    builder.download_and_prepare()
    return folder


def source(path="questions/small", **options):
    named = {"anchor": "question", "positives": ("answers",), "label": "kind", "score": "score"}
    return Source(format="tfds", path=path, **named | options)


def in_order(examples):
    return sorted(examples, key=lambda example: example.score)


@pytest.mark.parametrize(
    "path", ["questions/small", "questions/small/1.2.0", "questions/small:1.2.0", "questions"]
)
def test_examples_of_a_prepared_data_set(folder, path):
    examples = read(source(path), folder)
    found = list(examples)
    assert in_order(found) == [expected(i) for i in range(TRAIN) if i != 4]
    assert examples.skipped == 1
    assert list(examples) == found


def test_the_environment_says_where_data_sets_are(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    assert len(list(read(source(split="test"), None))) == TEST
    assert len(list(read(source(split="test"), tmp_path))) == TEST


def test_splits_and_slices(folder, monkeypatch):
    monkeypatch.setattr(ours, "ROWS", 7)
    whole = list(read(source(), folder))
    parts = [list(read(source(split=f"train[{part}]"), folder)) for part in (":50%", "50%:")]
    assert parts[0] + parts[1] == whole
    assert len(list(read(source(split="test+train"), folder))) == TEST + TRAIN - 1
    assert in_order(read(source(split="test"), folder)) == [expected(i) for i in range(TEST)]


def test_the_newest_version_is_read(folder, tmp_path):
    for version in ("1.9.0", "1.10.0"):
        shutil.copytree(folder / "questions/small/1.2.0", tmp_path / "questions" / version)
    assert {path.parent.name for path, _ in files(source("questions"), tmp_path)} == {"1.10.0"}


def test_a_split_decides_the_token_store(folder, tmp_path):
    tokenizer = train_wordpiece(["question answer or é 0123456789"] * 2, 60)

    def store(**options):
        return build(source(**options), folder, tokenizer, max_length=16, cache=tmp_path)

    names = {
        store(**options).fingerprint
        for options in ({}, {"split": "test"}, {"split": "train[:50%]"}, {"score": None})
    }
    assert len(names) == 4
    assert store(path="questions").fingerprint in names
    assert store().examples.shape == (TRAIN - 1, 3)
    assert set(store().label_names) == {"why", "how"}
    names = tmp_path / "1.2.0" / "kind.labels.txt"
    shutil.copytree(folder / "questions/small/1.2.0", names.parent)
    assert store(path=str(names.parent)).fingerprint == store().fingerprint
    names.write_text("because\nthus\n")
    assert set(store(path=str(names.parent)).label_names) == {"because", "thus"}


# What is refused


def refuse(folder, *args, **options):
    with pytest.raises(SimjaxError) as caught:
        list(read(source(*args, **options), folder))
    said = str(caught.value).replace(f"{folder}/", "")
    assert "\n" not in said
    return said


def test_faults_name_data_set_split_and_example(folder):
    where = "questions/small/1.2.0 (train): "
    said = refuse(folder, positives=("solutions",))
    assert said.startswith(f"{where}no column 'solutions'; found: ") and "answers" in said
    assert refuse(folder, anchor="count").startswith(f"{where}example 1: 'count' is not a string: ")
    said = refuse(folder, anchor=None, positives=())
    assert said.startswith(f"{where}no columns with usual names (anchor, ")
    said = refuse(folder, split="dev")
    assert said.startswith("questions/small/1.2.0 (dev): Unknown split 'dev'. Should be one of")
    assert "Error parsing split" in refuse(folder, split="train[5")


def test_what_is_not_prepared(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "own"))
    said = refuse(folder, "glue/mrpc")
    assert said.startswith("glue/mrpc: no data set that TFDS has prepared (there is no dataset_inf")
    assert f"none in {tmp_path}/own" in said and "download_and_prepare()" in said
    for config in ("small", "large"):
        shutil.copytree(folder / "questions/small/1.2.0", tmp_path / f"q/{config}/1.2.0")
    assert "holds several data sets (large, small)" in refuse(tmp_path, "q")


def test_a_format_that_cannot_be_read_at_random(folder, tmp_path):
    copy = tmp_path / "1.2.0"
    shutil.copytree(folder / "questions/small/1.2.0", copy)
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert "stored as tfrecord, which cannot be read at random" in refuse(tmp_path, "1.2.0")


@pytest.mark.parametrize("damage", ["cut", "gone", "info"])
def test_damaged_data_sets(folder, tmp_path, damage):
    copy = tmp_path / "1.2.0"
    shutil.copytree(folder / "questions/small/1.2.0", copy)
    shard = next(copy.glob("*train*"))
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:200])
    elif damage == "gone":
        shard.unlink()
    else:
        (copy / "dataset_info.json").write_text("{")
    said = refuse(tmp_path, "1.2.0")
    assert said.startswith("1.2.0 (train): ")
    if damage != "info":
        assert "cannot be read after example 0: " in said


def test_a_split_of_files_and_a_missing_path_are_usage_errors():
    with pytest.raises(
        UsageError, match=r"source's split is 'train'.*only those of tfds and hub have"
    ):
        Source(path="a.csv", split="train")
    with pytest.raises(UsageError, match=r"data\.source\.path is not set"):
        list(read(Source(format="tfds"), None))


def test_classes_and_scores_are_held_to_what_is_declared(folder):
    declared = {"classes": ("how", "why"), "score_range": (0.0, (TRAIN - 1) / 4)}
    found = list(read(source(**declared), folder))
    assert in_order(found) == [expected(i) for i in range(TRAIN) if i != 4]
    for options, said in (
        ({"classes": ("why",)}, "the label 'kind' is 'how', which is none of"),
        ({"score_range": (0.0, 5.0)}, "the score 'score' is 5"),
    ):
        with pytest.raises(SimjaxError, match=rf"\(train\): example \d+: {said}"):
            list(read(source(**options), folder))
