"""What a run is evaluated on: configuration, loading once, running often."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from simjax.errors import SimjaxError, UsageError
from simjax.eval import geometry
from simjax.eval.classification import ClassificationSet, read_classification
from simjax.eval.classification import score as score_classification
from simjax.eval.labels import read_labelled
from simjax.eval.paraphrases import read_paraphrases
from simjax.eval.predictions import NOTHING, PredictionSet, Predictors, measure, size
from simjax.eval.predictions import score as score_predictions
from simjax.eval.reconstruction import read_text_set
from simjax.eval.retrieval import (
    CUTOFFS,
    RetrievalScores,
    RetrievalSet,
    read_retrieval,
    tfidf_baseline,
)
from simjax.eval.retrieval import score as score_retrieval
from simjax.eval.sts import Encode, StsSet, read_sts
from simjax.eval.sts import score as score_sts
from simjax.ops import align_uniform, alignment

GEOMETRY_TEXTS = 20_000
"""Most texts that uniformity, whose cost is quadratic, is taken over."""


@dataclass(frozen=True)
class Task:
    """One evaluation set.

    Attributes:
        kind: `sts` (a TSV file of pairs with scores or labels 0 and 1, or a folder of them),
            `retrieval` (a folder in the layout of BEIR), `classification` (a TSV file of sentences
            with labels), `labels` (a TSV file of pairs with labels, for the classes that
            `objective.name softmax` trains), `paraphrases` (a TSV file of pairs, for models that
            predict texts), `reconstruction` (a TSV file with columns of sentences, or a file of
            lines, for models that predict a text from its latents) or `builtin` (the built-in
            corpus: which text stands under which title, over the pairs that no training sees;
            needs no path).
        path: File or folder, relative to the data root.
        name: First part of the metric names; by default taken from the path, so that
            `en/sts12` is `sts12` and `en/stsb/dev.tsv` is `stsb-dev`.
        qrels: For retrieval, the file of relevance judgements inside the folder, where it has
            several.
        test: For classification, the file of test examples; `path` is then for training alone.
            Without it `path` is cross-validated.
    """

    kind: Literal[
        "sts",
        "retrieval",
        "classification",
        "labels",
        "paraphrases",
        "reconstruction",
        "builtin",
    ]
    path: str | None = None
    name: str | None = None
    qrels: str | None = None
    test: str | None = None


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate, when, and which score names the best checkpoint.

    Attributes:
        tasks: The evaluation sets.
        every: Steps between evaluations; 0 evaluates before the first step and after the last.
        metric: The score that selects the best checkpoint, such as `stsb-dev/spearman`; null
            keeps no best checkpoint.
        alignment_above: STS pairs with a gold score above this are alignment's positives; of a
            set whose scores are all 0 or 1, those with 1.
        uniformity_t: `t` of the uniformity metric.
        logistic: Score scikit-learn's logistic regression beside the closed-form probe of
            classification, which takes minutes.
    """

    tasks: tuple[Task, ...] = ()
    every: int = 0
    metric: str | None = None
    alignment_above: float = 4.0
    uniformity_t: float = 2.0
    logistic: bool = False


Data: TypeAlias = StsSet | RetrievalSet | ClassificationSet | PredictionSet
Sides: TypeAlias = tuple[Encode, Encode]
"""What encodes queries, and what encodes documents."""


@dataclass(frozen=True)
class LoadedTask:
    """An evaluation set in memory.

    Attributes:
        name: First part of its metric names.
        data: The set.
        texts: Its distinct texts, each of which is encoded once.
        positives: Pairs of texts that mean the same, for alignment.
        queries: For retrieval, place of each query in `texts`.
        documents: For retrieval, place of each document in `texts`.
    """

    name: str
    data: Data
    texts: list[str]
    positives: Int[np.ndarray, "N 2"]
    queries: Int[np.ndarray, "Q"]
    documents: Int[np.ndarray, "N"]


@dataclass(frozen=True)
class Tasks:
    """Every evaluation set of a configuration, read once."""

    loaded: tuple[LoadedTask, ...]
    config: EvalConfig


@dataclass
class Results:
    """Scores under flat names; per task the singular values, for the plot, and unit embeddings.

    Embeddings, of a task's distinct texts, are there only if `evaluate` was asked to keep them.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    spectra: dict[str, Float[np.ndarray, "D"]] = field(default_factory=dict)
    embeddings: dict[str, Float[np.ndarray, "T D"]] = field(default_factory=dict)


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of the named metric is the better one."""
    return metric.rsplit("/", 1)[-1] not in ("alignment", "uniformity", "perplexity")


def task_name(task: Task) -> str:
    """The first part of the task's metric names (see `Task.name`)."""
    if task.name is not None:
        return task.name
    if task.path is None:
        return task.kind
    path = Path(task.path)
    stem = path.name.removesuffix(".gz").removesuffix(".tsv").removesuffix(".txt")
    if stem in ("train", "dev", "test", "validation"):
        return f"{path.parent.name}-{stem}"
    return stem


def _read(task: Task, root: Path | None) -> Data:
    if task.kind == "builtin":
        from simjax.data.builtin import corpus

        held_out = corpus().held_out
        return RetrievalSet(
            [entry.title for entry in held_out],
            [entry.body for entry in held_out],
            [{place: 1.0} for place in range(len(held_out))],
        )
    if task.path is None:
        raise UsageError(f"evaluation task of kind {task.kind!r}: give it a path")
    for key, value, kind in (
        ("qrels", task.qrels, "retrieval"),
        ("test", task.test, "classification"),
    ):
        if value is not None and task.kind != kind:
            raise UsageError(f"evaluation task {task.path}: {key} is for tasks of kind {kind}")
    place = root or Path()
    path = place / task.path
    match task.kind:
        case "sts":
            return read_sts(path)
        case "retrieval":
            return read_retrieval(path, task.qrels)
        case "labels":
            return read_labelled(path)
        case "paraphrases":
            return read_paraphrases(path)
        case "reconstruction":
            return read_text_set(path)
        case "classification":
            return read_classification(path, None if task.test is None else place / task.test)


def load(config: EvalConfig, root: Path | str | None = None) -> Tasks:
    """Read every evaluation set.

    Args:
        config: What to evaluate.
        root: Folder that relative paths start from; None is the working directory.

    Raises:
        SimjaxError: A set is missing or malformed.
        UsageError: Two tasks share a name, or `metric` is no score of any of them.
    """
    loaded: list[LoadedTask] = []
    for task in config.tasks:
        name = task_name(task)
        if any(name == other.name for other in loaded):
            raise UsageError(f"two evaluation tasks are named {name!r}; give one a name of its own")
        data = _read(task, None if root is None else Path(root))
        loaded.append(prepare(name, data, config))
    tasks = Tasks(tuple(loaded), config)
    if config.metric is not None and config.metric not in metric_names(tasks):
        known = metric_names(tasks)
        near = difflib.get_close_matches(config.metric, known, n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]!r}?" if near else "; there are no evaluation tasks"
        raise UsageError(f"evaluation.metric: no score is named {config.metric!r}{hint}")
    return tasks


def prepare(name: str, data: Data, config: EvalConfig) -> LoadedTask:
    """Number the distinct texts of a set and find its positive pairs."""
    nothing = np.zeros(0, np.int64)
    if isinstance(data, ClassificationSet):
        return LoadedTask(name, data, data.texts, nothing.reshape(0, 2), nothing, nothing)
    if isinstance(data, PredictionSet):
        return LoadedTask(name, data, [], nothing.reshape(0, 2), nothing, nothing)
    if isinstance(data, StsSet):
        above = 0.0 if set(np.unique(data.gold)) <= {0.0, 1.0} else config.alignment_above
        return LoadedTask(name, data, data.texts, data.pairs[data.gold > above], nothing, nothing)
    index: dict[str, int] = {}
    queries = np.asarray([index.setdefault(text, len(index)) for text in data.queries])
    documents = np.asarray([index.setdefault(text, len(index)) for text in data.documents])
    positives = np.asarray(
        [(queries[q], documents[d]) for q, judged in enumerate(data.relevant) for d in judged]
    )
    return LoadedTask(name, data, list(index), positives, queries, documents)


def _names(task: LoadedTask, config: EvalConfig) -> list[str]:
    if isinstance(task.data, PredictionSet):
        return [measure(task.data)]
    if isinstance(task.data, StsSet):
        names = ["spearman", "pearson"]
        if len(task.data.subsets) > 1:
            names += ["spearman_mean", "pearson_mean"]
            names += [f"{subset.name}/spearman" for subset in task.data.subsets]
    elif isinstance(task.data, ClassificationSet):
        names = ["accuracy", "accuracy_logistic"] if config.logistic else ["accuracy"]
    else:
        names = ["ndcg@10", "mrr@10", *(f"recall@{k}" for k in CUTOFFS)]
    if len(task.positives):
        names.append("alignment")
    if len(task.texts) > 1:
        names += ["uniformity", "effective_rank"]
    return names


def metric_names(tasks: Tasks) -> list[str]:
    """Names of the scores that `run` returns, in its order."""
    return [f"{task.name}/{name}" for task in tasks.loaded for name in _names(task, tasks.config)]


def sizes(tasks: Tasks) -> dict[str, str]:
    """How much each task has of what its scores are taken over, by the task's name."""
    found = {}
    for task in tasks.loaded:
        if isinstance(task.data, PredictionSet):
            found[task.name] = size(task.data)
        else:
            found[task.name] = f"{len(task.texts)} texts, {len(task.positives)} positives"
    return found


def _sts_values(data: StsSet, unit: Float[np.ndarray, "T D"]) -> list[float]:
    scores = score_sts(data, unit)
    values = [scores.overall.spearman, scores.overall.pearson]
    if len(data.subsets) > 1:
        values += [scores.mean.spearman, scores.mean.pearson]
        values += [subset.spearman for subset in scores.subsets.values()]
    return values


def _retrieval_values(scores: RetrievalScores) -> list[float]:
    return [scores.ndcg_at_10, scores.mrr_at_10, *(scores.recall[k] for k in CUTOFFS)]


def _by_side(task: LoadedTask) -> tuple[LoadedTask, int]:
    """A retrieval task whose queries come before its documents, and how many they are.

    A text that is both is there twice.
    """
    queries, query_of = np.unique(task.queries, return_inverse=True)
    documents, document_of = np.unique(task.documents, return_inverse=True)
    count = len(queries)
    first = np.searchsorted(queries, task.positives[:, 0])
    second = np.searchsorted(documents, task.positives[:, 1])
    split = replace(
        task,
        texts=[task.texts[place] for place in (*queries, *documents)],
        positives=np.stack([first, count + second], axis=1),
        queries=query_of,
        documents=count + document_of,
    )
    return split, count


def _encoded(
    task: LoadedTask, encode: Encode, sides: Sides | None
) -> tuple[LoadedTask, Float[np.ndarray, "T D"]]:
    """The embeddings of a task's texts, and the task that counts them as they stand there."""
    if sides is None or not isinstance(task.data, RetrievalSet):
        return task, encode(task.texts)
    task, count = _by_side(task)
    parts = (task.texts[:count], task.texts[count:])
    return task, np.concatenate([side(part) for side, part in zip(sides, parts, strict=True)])


def evaluate(
    tasks: Tasks,
    encode: Encode,
    predictors: Predictors = NOTHING,
    sides: Sides | None = None,
    *,
    keep: bool = False,
) -> Results:
    """Run every task.

    Correlations, retrieval scores and accuracies are times 100. Uniformity and the singular values
    are taken over the distinct texts of a set (at most `GEOMETRY_TEXTS` of them, evenly spaced);
    alignment over STS pairs above the configured score, or queries and their relevant documents.

    Args:
        tasks: From `load`.
        encode: Texts to embeddings.
        predictors: What else the model can do, for the sets that ask it.
        sides: What encodes the queries and what encodes the documents of retrieval, where they are
            not encoded as other texts are; a text that is both then counts as two.
        keep: Give the embeddings back as well, for `comparison.compare_tasks`.

    Raises:
        NotFiniteError: `encode` returned something that is not finite, or a perplexity is not.
        SimjaxError: It returned not one row per text; or a set asks for what is not predicted.
    """
    results = Results()
    for loaded in tasks.loaded:
        if isinstance(loaded.data, PredictionSet):
            found = score_predictions(loaded.name, loaded.data, predictors)
            results.metrics[f"{loaded.name}/{measure(loaded.data)}"] = found
            continue
        task, embeddings = _encoded(loaded, encode, sides)
        if len(embeddings) != len(task.texts):
            raise SimjaxError(
                f"{task.name}: the encoder returned {len(embeddings)} embeddings for"
                f" {len(task.texts)} texts"
            )
        try:
            unit = geometry.unit_rows(embeddings)
        except SimjaxError as error:
            raise type(error)(f"{task.name}: {error}") from error
        if isinstance(loaded.data, StsSet):
            values = _sts_values(loaded.data, unit)
        elif isinstance(loaded.data, ClassificationSet):
            values = score_classification(loaded.data, unit, logistic=tasks.config.logistic)
        else:
            values = _retrieval_values(
                score_retrieval(loaded.data, unit[task.queries], task.documents, unit)
            )
        if len(task.positives):
            first, second = (unit[column] for column in task.positives.T)
            values.append(float(alignment(first, second)[0]))
        sample = unit[:: -(-len(unit) // GEOMETRY_TEXTS)]
        spectrum = geometry.singular_values(sample)
        if len(loaded.texts) > 1:
            values += [
                float(align_uniform(sample, t=[tasks.config.uniformity_t]).uniformity[0]),
                geometry.effective_rank(spectrum),
            ]
        names = [f"{task.name}/{name}" for name in _names(loaded, tasks.config)]
        results.metrics.update(zip(names, values, strict=True))
        results.spectra[task.name] = spectrum
        if keep:
            results.embeddings[task.name] = unit
    return results


def run(
    tasks: Tasks,
    encode: Encode,
    predictors: Predictors = NOTHING,
    sides: Sides | None = None,
) -> dict[str, float]:
    """The scores of `evaluate`, under names such as `stsb-dev/spearman`."""
    return evaluate(tasks, encode, predictors, sides).metrics


def baseline(tasks: Tasks) -> dict[str, float]:
    """TF-IDF's retrieval scores, under the names that `run` uses."""
    found: dict[str, float] = {}
    for task in tasks.loaded:
        if isinstance(task.data, RetrievalSet):
            values = _retrieval_values(tfidf_baseline(task.data))
            names = _names(task, tasks.config)
            found.update(zip([f"{task.name}/{name}" for name in names], values, strict=False))
    return found
