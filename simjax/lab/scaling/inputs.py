"""What all runs of a study read: one tokenizer, one token store, one evaluation."""

from __future__ import annotations

import dataclasses
import hashlib

from simjax.data import pipeline
from simjax.errors import UsageError
from simjax.eval import tasks
from simjax.eval.paraphrases import ParaphraseSet
from simjax.eval.sts import StsSet
from simjax.eval.tasks import Tasks
from simjax.lab.scaling.grid import Grid, RunKey
from simjax.lab.scaling.recipe import Plan
from simjax.lab.scaling.study import STUDY
from simjax.train.config import TokenizerConfig
from simjax.train.setup import load_run_tokenizer, make_tokenizer

LEARNED = "tokenizer"


def with_tokenizer(plan: Plan) -> Plan:
    """The same with a tokenizer that is there: one that is learned is learned once, in the folder.

    Raises:
        SimjaxError: There is none, or the texts to learn it from cannot be read.
    """
    if plan.recipe.tokenizer.source != "train":
        return plan
    folder = plan.folder / LEARNED
    # Without a study it was learned for one that came to nothing, maybe by another recipe.
    if not (folder.is_dir() and (plan.folder / STUDY).exists()):
        make_tokenizer(dataclasses.replace(plan.recipe, output=str(plan.folder)))
    learned = TokenizerConfig(source=str(folder))
    return dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, tokenizer=learned))


def digest(plan: Plan, grid: Grid) -> str:
    """Differs where training texts, evaluation or tokenizer do; builds the token store.

    Raises:
        SimjaxError: Something is missing or malformed.
        UsageError: There are fewer examples than a batch.
    """
    largest = max(grid.batch_sizes)
    key = RunKey(grid.objectives[0], largest, largest, "constant", 0)
    config = plan.config(key)
    store = pipeline.prepare(config.data, load_run_tokenizer(config))
    if len(store.examples) < largest:
        raise UsageError(
            f"--batch_sizes {largest}: the recipe has {len(store.examples)} examples to train on"
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
        else:
            judged = data.pairs if isinstance(data, ParaphraseSet) else data.relevant
        text = repr((task.name, task.texts, judged))
        whole.update(text.encode("utf-8", "surrogatepass"))
    return whole.hexdigest()[:12]
