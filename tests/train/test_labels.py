"""A run is measured by the classes that its own layer finds for pairs it has not seen."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from simjax.errors import SimjaxError, UsageError
from simjax.eval.tasks import EvalConfig, Task
from simjax.inference.pair_classifier import PairClassifier
from simjax.objectives.classification import SoftmaxClassification
from simjax.objectives.config import CosentConfig, SoftmaxConfig
from simjax.train.config import RunConfig, validate
from simjax.train.loop import train
from simjax.train.setup import set_up
from tests.train.systems import STEPS, config_of, write_scored
from tests.train.tiny_run import figures, saved_steps, state_at

WHO = ["the cat", "a dog", "the man", "a woman", "the fish"]
WHAT = ["sits", "runs in the park", "eats fish", "and the dog", "on the mat"]
TEXTS = [f"{who} {what}" for who in WHO for what in WHAT]
PAIRS = [
    (TEXTS[place], TEXTS[-1 - 3 * place % len(TEXTS)], "no" if place % 3 else "yes")
    for place in range(len(TEXTS))
]


def labelled(data: Path, output: Path, *, rows=PAIRS, **changes) -> RunConfig:
    """Softmax over the classes yes and no, measured by `rows`."""
    path = output.parent / "dev.tsv"
    lines = [("sentence1", "sentence2", "label"), *rows]
    path.write_text("\n".join("\t".join(line) for line in lines) + "\n")
    tasks = (Task("labels", str(path), "dev"),)
    evaluation = EvalConfig(tasks=tasks, every=3, metric="dev/accuracy")
    return config_of("softmax", data, output, "", evaluation=evaluation, **changes)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    write_scored(data)
    config = labelled(data, tmp_path_factory.mktemp("run") / "run")
    train(config)
    return config


def logits_by_numpy(run, params) -> np.ndarray:
    """W (u, v, |u - v|) + b, written out."""
    encode = run.encoder_of(params).encode
    u, v = (encode([row[side] for row in PAIRS], normalize=False) for side in (0, 1))
    layer = params["objective"]["classifier"]
    return np.hstack([u, v, np.abs(u - v)]) @ layer["kernel"] + layer["bias"]


def by_numpy(run, params) -> list[str]:
    names = run.source.store.label_names
    return [names[place] for place in logits_by_numpy(run, params).argmax(axis=1)]


def test_it_is_the_accuracy_of_the_layer_that_was_trained(whole):
    found = {
        line["step"]: line["eval/dev/accuracy"]
        for line in figures(Path(whole.output))
        if "eval/dev/accuracy" in line
    }
    assert sorted(found) == [0, 3, STEPS] and len(set(found.values())) > 1
    expected = by_numpy(set_up(whole), state_at(whole, STEPS).params)
    right = [name == label for name, (_, _, label) in zip(expected, PAIRS, strict=True)]
    assert found[STEPS] == pytest.approx(100 * np.mean(right))


def test_both_texts_and_their_difference_tell_the_class(whole):
    """By weights that find both classes, as six steps do not."""
    run, params = set_up(whole), state_at(whole, STEPS).params
    random, shape = np.random.default_rng(3), params["objective"]["classifier"]["kernel"].shape
    layer = {"kernel": random.normal(size=shape).astype(np.float32), "bias": np.zeros(2, "f")}
    params = params | {"objective": {"classifier": layer}}
    # No pair's class hangs on rounding: they part between the neighbours that are furthest apart.
    by_margin = np.sort(logits_by_numpy(run, params) @ [-1, 1])[6:-6]
    widest = np.diff(by_margin).argmax()
    layer["bias"][0] = by_margin[widest : widest + 2].mean()
    expected = by_numpy(run, params)
    assert 5 < expected.count("yes") < len(PAIRS) - 5
    pairs, labels = [row[:2] for row in PAIRS], [row[2] for row in PAIRS]
    assert run.pair_classifier(run.encoder_of(params), params)(pairs, labels) == expected


def test_of_many_classes_a_complaint_lists_some(whole):
    run = set_up(whole)
    encoder = run.encoder_of(state_at(whole, STEPS).params)
    many = SoftmaxClassification(SoftmaxConfig(), tuple(map(str, range(20))))
    with pytest.raises(SimjaxError, match=r"are learned: '0', .*, '7' and 12 more$"):
        PairClassifier(encoder, many, {})([("a", "b")], ["x"])


def test_only_classes_of_the_labels_space_compete(whole):
    """A class alone in its space is always found, whatever the layer says."""
    run = set_up(whole)
    params = state_at(whole, STEPS).params
    apart = SoftmaxConfig(label_spaces=(("yes",), ("no",)))
    run = dataclasses.replace(run, config=dataclasses.replace(whole, objective=apart))
    pairs, labels = [row[:2] for row in PAIRS], [row[2] for row in PAIRS]
    assert run.pair_classifier(run.encoder_of(params), params)(pairs, labels) == labels
    run = dataclasses.replace(run, config=whole)
    together = run.pair_classifier(run.encoder_of(params), params)
    assert together(pairs, labels) == together(pairs, labels[::-1]) != labels


def test_a_label_that_is_no_class_is_told_before_the_first_step(data, whole, tmp_path):
    config = labelled(data, tmp_path / "run", rows=[*PAIRS, ("a", "b", "perhaps")])
    with pytest.raises(
        SimjaxError, match=re.escape("dev: the label 'perhaps' is none of the classes")
    ):
        train(config)
    assert saved_steps(config) == set() and not figures(tmp_path / "run")


def test_objectives_that_learn_no_classes_are_refused(data, tmp_path):
    config = labelled(data, tmp_path / "run", objective=CosentConfig())
    with pytest.raises(UsageError, match=r"kind labels and objective\.name is cosent"):
        validate(config)
