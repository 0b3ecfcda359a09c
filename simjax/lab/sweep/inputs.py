"""What all runs of a sweep read: one tokenizer, one token store, one evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from simjax.data import corpus
from simjax.errors import UsageError
from simjax.eval import tasks
from simjax.eval.classification import ClassificationSet
from simjax.eval.labels import LabelledSet
from simjax.eval.paraphrases import ParaphraseSet
from simjax.eval.reconstruction import TextSet
from simjax.eval.sts import StsSet
from simjax.eval.tasks import Tasks
from simjax.lab.folder import STUDY
from simjax.train.config import RunConfig, TokenizerConfig
from simjax.train.setup import load_run_tokenizer, make_tokenizer

LEARNED = "tokenizer"


def with_tokenizer(recipe: RunConfig, folder: Path) -> RunConfig:
    """The same with a tokenizer that is there: one that is learned is learned once, in the folder.

    Args:
        recipe: That runs start from.
        folder: Of the study.

    Raises:
        SimjaxError: There is none, or the texts to learn it from cannot be read.
    """
    if recipe.tokenizer.source != "train":
        return recipe
    learned = folder / LEARNED
    # Without a study it was learned for one that came to nothing, maybe by another recipe.
    if not (learned.is_dir() and (folder / STUDY).exists()):
        make_tokenizer(dataclasses.replace(recipe, output=str(folder)))
    return dataclasses.replace(recipe, tokenizer=TokenizerConfig(source=str(learned)))


def digest(config: RunConfig) -> str:
    """Differs where training texts, evaluation or tokenizer do; builds the token store.

    Args:
        config: Of the run with the largest batch.

    Raises:
        SimjaxError: Something is missing or malformed.
        UsageError: There are fewer examples than a batch.
    """
    store = corpus.prepare(config.data, load_run_tokenizer(config))
    largest = config.data.batch_size
    if len(store.examples) < largest:
        raise UsageError(
            f"a batch of {largest}: the recipe has {len(store.examples)} examples to train on"
        )
    found = tasks.load(config.evaluation, config.data.root_path)
    return _fingerprint(store.fingerprint, found)


def _fingerprint(store: str, evaluation: Tasks) -> str:
    whole = hashlib.sha256(store.encode())
    for task in evaluation.loaded:
        data = task.data
        judged: object
        if isinstance(data, StsSet):
            judged = data.gold.tolist()
        elif isinstance(data, ClassificationSet):
            judged = [part.tolist() for part in (data.examples, data.labels, data.held_out)]
        elif isinstance(data, LabelledSet):
            judged = [data.pairs, data.labels]
        elif isinstance(data, ParaphraseSet):
            judged = data.pairs
        elif isinstance(data, TextSet):
            judged = data.texts
        else:
            judged = data.relevant
        text = repr((task.name, task.texts, judged))
        whole.update(text.encode("utf-8", "surrogatepass"))
    return whole.hexdigest()[:12]
