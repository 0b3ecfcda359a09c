"""Transfer: can classes of sentences be read off their embeddings by a linear probe?

The protocol is SentEval's (Conneau & Kiela 2018): a set with a test part of its own, as TREC, is
trained on one and scored on the other; others, as MR, CR and MPQA, are scored in ten stratified
folds, each in turn the test part, with SentEval's shuffle. The strength of regularisation is chosen
on a tenth of the training part (SentEval takes ten inner folds), and the probe is then fitted to
all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from simjax.data.records import plain_or_gzip
from simjax.errors import SimjaxError
from simjax.eval.lines import read_columns
from simjax.eval.moments import Moments
from simjax.eval.probe import LinearDiscriminant, logistic_predictions

FOLDS = 10
SEED = 1111
"""Of the folds; the one that SentEval takes."""

SHRINKAGES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001)
"""Of the covariance in the closed-form probe, the strongest first, which ties go to."""

INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""scikit-learn's `C` of logistic regression, the strongest penalty first."""


@dataclass(frozen=True)
class ClassificationSet:
    """Sentences in classes.

    Attributes:
        texts: Distinct sentences.
        examples: For each example, its place in `texts`.
        labels: Its class, from 0.
        classes: Names of the classes, in order.
        held_out: Whether an example is of the test part; all False for a set that has none.
    """

    texts: list[str]
    examples: Int[np.ndarray, "N"]
    labels: Int[np.ndarray, "N"]
    classes: tuple[str, ...]
    held_out: Bool[np.ndarray, "N"]

    @property
    def folds(self) -> int:
        """Parts that the training examples fall into: ten, or as the smallest class allows."""
        return min(FOLDS, int(np.bincount(self.labels[~self.held_out]).min()))


def _read_file(path: Path) -> list[tuple[int, str, str]]:
    found = []
    for number, (sentence, label) in read_columns(path, ("sentence", "text"), ("label",)):
        if not sentence.strip():
            raise SimjaxError(f"{path}:{number}: the text is empty")
        if not label.strip():
            raise SimjaxError(f"{path}:{number}: no label")
        found.append((number, sentence, label.strip()))
    return found


def read_classification(path: Path | str, test: Path | str | None = None) -> ClassificationSet:
    """Read TSV files with the columns ``sentence`` (or ``text``) and ``label``, and no quoting.

    Args:
        path: All examples, or those for training.
        test: Examples for testing; without them `path` is cross-validated.

    Raises:
        SimjaxError: With file and line, for a missing column, text or label, a row with the wrong
            number of fields, or a class of the test part that training does not have; or there are
            fewer than two classes, or fewer than two training examples of one.
    """
    path = plain_or_gzip(Path(path))
    rows = _read_file(path)
    count = Counter(label for _, _, label in rows)
    if len(count) < 2:
        raise SimjaxError(f"{path}: {len(count)} classes; a probe needs at least 2")
    rarest = min(count, key=lambda label: (count[label], label))
    if count[rarest] < 2:
        raise SimjaxError(f"{path}: class {rarest!r} has 1 example; at least 2 are needed of each")
    classes = {label: number for number, label in enumerate(sorted(count))}
    training = len(rows)
    if test is not None:
        test = plain_or_gzip(Path(test))
        tested = _read_file(test)
        if not tested:
            raise SimjaxError(f"{test}: no examples")
        for number, _, label in tested:
            if label not in classes:
                raise SimjaxError(
                    f"{test}:{number}: no training example has the label {label!r}; {path} has "
                    f"{', '.join(classes)}"
                )
        rows += tested
    index: dict[str, int] = {}
    examples = [index.setdefault(sentence, len(index)) for _, sentence, _ in rows]
    return ClassificationSet(
        list(index),
        np.asarray(examples, np.int64),
        np.asarray([classes[label] for _, _, label in rows], np.int64),
        tuple(classes),
        np.arange(len(rows)) >= training,
    )


@dataclass(frozen=True)
class _Round:
    """What a probe is tested on, and what it is fitted to: folds of the training examples."""

    tested_on: Int[np.ndarray, "n"]
    """Examples."""
    chosen_on: int
    """The fold on which the strength of regularisation is chosen."""
    fitted_to: tuple[int, ...]
    """The others, which the fold above is added to for the final fit."""


Predict: TypeAlias = Callable[
    [tuple[int, ...], Int[np.ndarray, "n"], Sequence[float]], list[Int[np.ndarray, "n"]]
]
"""Folds to fit, examples to classify, strengths: the predicted classes for each strength."""


def assign_folds(data: ClassificationSet) -> Int[np.ndarray, "N"]:
    """The fold of each training example, -1 for those of the test part."""
    from sklearn.model_selection import StratifiedKFold

    fold = np.full(len(data.labels), -1, np.int64)
    training = np.flatnonzero(~data.held_out)
    splitter = StratifiedKFold(data.folds, shuffle=True, random_state=SEED)
    for number, (_, part) in enumerate(splitter.split(training, data.labels[training])):
        fold[training[part]] = number
    return fold


def _rounds(data: ClassificationSet, fold: Int[np.ndarray, "N"]) -> list[_Round]:
    numbers = range(data.folds)
    if data.held_out.any():
        return [_Round(np.flatnonzero(data.held_out), 0, tuple(numbers[1:]))]
    found = []
    for tested in numbers:
        chosen_on = (tested + 1) % len(numbers)
        rest = tuple(number for number in numbers if number not in (tested, chosen_on))
        # Of two folds none is left: the choice is then made on what is fitted.
        found.append(_Round(np.flatnonzero(fold == tested), chosen_on, rest or (chosen_on,)))
    return found


def _closed_form(
    data: ClassificationSet, rows: Float[np.ndarray, "N D"], fold: Int[np.ndarray, "N"]
) -> Predict:
    parts = [
        Moments.of(rows[fold == number], data.labels[fold == number], len(data.classes))
        for number in range(data.folds)
    ]

    def predict(
        fitted: tuple[int, ...], asked: Int[np.ndarray, "n"], strengths: Sequence[float]
    ) -> list[Int[np.ndarray, "n"]]:
        moments = reduce(Moments.merge, (parts[number] for number in fitted))
        return [probe.predict(rows[asked]) for probe in LinearDiscriminant.path(moments, strengths)]

    return predict


def _by_iterations(
    data: ClassificationSet, rows: Float[np.ndarray, "N D"], fold: Int[np.ndarray, "N"]
) -> Predict:
    def predict(
        fitted: tuple[int, ...], asked: Int[np.ndarray, "n"], strengths: Sequence[float]
    ) -> list[Int[np.ndarray, "n"]]:
        own = np.isin(fold, fitted)
        return [
            logistic_predictions(rows[own], data.labels[own], rows[asked], strength)
            for strength in strengths
        ]

    return predict


def _accuracy(
    data: ClassificationSet,
    fold: Int[np.ndarray, "N"],
    predict: Predict,
    strengths: Sequence[float],
) -> float:
    shares = []
    for turn in _rounds(data, fold):
        chosen_on = np.flatnonzero(fold == turn.chosen_on)
        right = [
            np.count_nonzero(classes == data.labels[chosen_on])
            for classes in predict(turn.fitted_to, chosen_on, strengths)
        ]
        best = strengths[int(np.argmax(right))]
        whole = tuple({*turn.fitted_to, turn.chosen_on})
        (classes,) = predict(whole, turn.tested_on, [best])
        shares.append(np.mean(classes == data.labels[turn.tested_on]))
    return 100.0 * float(np.mean(shares))


def score(
    data: ClassificationSet, unit: Float[np.ndarray, "T D"], *, logistic: bool = False
) -> list[float]:
    """Accuracies times 100, the mean over folds where there is no test part.

    Args:
        data: The set.
        unit: Unit embeddings of `data.texts`.
        logistic: Score scikit-learn's logistic regression as well, which takes far longer.

    Returns:
        That of the closed-form probe, then that of logistic regression if it was asked for.
    """
    rows, fold = unit[data.examples], assign_folds(data)
    found = [_accuracy(data, fold, _closed_form(data, rows, fold), SHRINKAGES)]
    if logistic:
        predict = _by_iterations(data, rows, fold)
        found.append(_accuracy(data, fold, predict, INVERSE_PENALTIES))
    return found
