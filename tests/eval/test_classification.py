import gzip

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, StratifiedKFold

from simjax.errors import SimjaxError
from simjax.eval import classification as module
from simjax.eval.classification import assign_folds, read_classification, score
from simjax.eval.geometry import unit_rows


def write(path, rows, header="sentence\tlabel"):
    path.write_text("\n".join([header, *(f"{text}\t{label}" for text, label in rows)]) + "\n")
    return path


def some(count, start=0):
    return [(f"text {i}", ("no", "yes", "it depends")[i % 3]) for i in range(start, start + count)]


def embed(data, seed=0):
    """Embeddings that tell the classes apart, badly."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(3, 8)).astype(np.float32)
    rows = rng.normal(size=(len(data.texts), 8)).astype(np.float32)
    rows[data.examples] += 0.7 * centre[data.labels]
    return unit_rows(rows)


def test_files_and_parts(tmp_path):
    data = read_classification(write(tmp_path / "a.tsv", [*some(30), ("text 0", "yes")]))
    assert data.classes == ("it depends", "no", "yes")
    assert data.texts[:2] == ["text 0", "text 1"] and len(data.texts) == 30
    assert data.examples[-1] == 0 and data.labels[[0, -1]].tolist() == [1, 2]
    assert not data.held_out.any() and data.folds == 10
    with gzip.open(tmp_path / "b.tsv.gz", "wt") as file:
        file.write('label\tid\ttext\nyes\t7\t"quoted\nno\t8\ttext 1\n')
    data = read_classification(tmp_path / "a.tsv", tmp_path / "b.tsv")
    assert data.texts[-1] == '"quoted' and data.examples[-1] == 1
    assert data.held_out.tolist() == [False] * 31 + [True] * 2
    assert data.labels[-2:].tolist() == [2, 1]


def test_folds_are_those_of_senteval(tmp_path):
    data = read_classification(write(tmp_path / "a.tsv", some(90)))
    fold = assign_folds(data)
    splitter = StratifiedKFold(n_splits=10, shuffle=True, random_state=1111)
    for number, (_, part) in enumerate(splitter.split(np.zeros(90), data.labels)):
        assert np.flatnonzero(fold == number).tolist() == part.tolist()


def choose(family, strengths, rows, labels, training, chosen_on, tested_on):
    """Accuracy after a choice of the strength, by scikit-learn alone."""
    best, most = None, -1
    for strength in strengths:
        right = np.sum(
            family(strength).fit(rows[training], labels[training]).predict(rows[chosen_on])
            == labels[chosen_on]
        )
        if right > most:
            best, most = strength, right
    whole = np.union1d(training, chosen_on)
    final = family(best).fit(rows[whole], labels[whole])
    return np.mean(final.predict(rows[tested_on]) == labels[tested_on])


def discriminant(shrinkage):
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)


def logistic(inverse):
    return LogisticRegression(C=inverse, max_iter=2000)


@pytest.mark.parametrize("test_part", [False, True])
def test_accuracies_are_those_of_scikit_learn(tmp_path, test_part, monkeypatch):
    monkeypatch.setattr(module, "SHRINKAGES", (0.9, 0.01))
    monkeypatch.setattr(module, "INVERSE_PENALTIES", (0.001, 1.0))
    first = write(tmp_path / "a.tsv", some(150))
    second = write(tmp_path / "b.tsv", some(40, start=150)) if test_part else None
    data = read_classification(first, second)
    unit = embed(data)
    fold = assign_folds(data)
    rows, labels = unit[data.examples].astype(np.float64), data.labels
    where = [np.flatnonzero(fold == number) for number in range(10)]
    if test_part:
        rounds = [(np.concatenate(where[1:]), where[0], np.arange(150, 190))]
    else:
        rounds = [
            (
                np.flatnonzero((fold != test) & (fold != (test + 1) % 10)),
                where[(test + 1) % 10],
                part,
            )
            for test, (_, part) in enumerate(PredefinedSplit(fold).split())
        ]
    expected = [
        100 * np.mean([choose(family, strengths, rows * scale, labels, *turn) for turn in rounds])
        for family, strengths, scale in (
            (discriminant, (0.9, 0.01), 1.0),
            (logistic, (0.001, 1.0), 8**0.5),
        )
    ]
    found = score(data, unit, logistic=True)
    assert found == pytest.approx(expected)
    assert score(data, unit) == found[:1]
    assert 50 < found[0] < 90


def test_small_classes_make_fewer_folds(tmp_path):
    data = read_classification(write(tmp_path / "a.tsv", [*some(30), ("x", "odd"), ("y", "odd")]))
    assert data.folds == 2
    assert 0 <= score(data, embed_any(data))[0] <= 100


def embed_any(data):
    return unit_rows(np.random.default_rng(0).normal(size=(len(data.texts), 4)))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("sentence\tscore\na\t1\n", r"a\.tsv:1: no column 'label'; the first line"),
        ("words\tlabel\na\t1\n", r"a\.tsv:1: no column 'sentence' or 'text'; .* sentence or text"),
        ("sentence\tlabel\na\t1\n \t1\n", r"a\.tsv:3: the text is empty"),
        ("sentence\tlabel\na\t1\nb\t \n", r"a\.tsv:3: no label"),
        ("sentence\tlabel\na\t1\nb\n", r"a\.tsv:3: 1 tab-separated fields, the header has 2"),
        ("sentence\tlabel\na\t1\nb\t1\n", r"a\.tsv: 1 classes; a probe needs at least 2"),
        ("", r"a\.tsv: 0 classes"),
        ("sentence\tlabel\na\t1\nb\t1\nc\t2\n", r"a\.tsv: class '2' has 1 example; at least 2"),
    ],
)
def test_malformed_files_name_the_line(tmp_path, content, complaint):
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(SimjaxError, match=complaint):
        read_classification(tmp_path / "a.tsv")


def test_labels_that_training_lacks(tmp_path):
    first = write(tmp_path / "a.tsv", some(30))
    with pytest.raises(SimjaxError, match=r"b\.tsv:3: no training example has the label 'maybe'"):
        read_classification(first, write(tmp_path / "b.tsv", [("x", "no"), ("y", "maybe")]))
    with pytest.raises(SimjaxError, match=r"b\.tsv: no examples"):
        read_classification(first, write(tmp_path / "b.tsv", []))
    with pytest.raises(SimjaxError, match=r"c\.tsv: no such file"):
        read_classification(first, tmp_path / "c.tsv")
