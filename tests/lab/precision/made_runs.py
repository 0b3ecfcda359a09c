"""Runs and measurements that were made up."""

import itertools

from simjax.lab.precision.comparisons import choose
from simjax.lab.precision.settings import LOGGED, RunKey
from simjax.lab.records import Record

NOISE = (0.3, -0.2, 0.1, -0.4, 0.2)
"""What the seeds of an arm differ by, the same for all arms."""


def run(
    arm,
    seed,
    score,
    *,
    rate=0.1,
    select=None,
    batch=4,
    dtype="float32",
    optimizer="adamw",
    block="corpus",
):
    scores = {
        "select/ndcg@10": score if select is None else select,
        "ndcg@10": score,
        "alignment": 0.5,
        "uniformity": -2.0,
    }
    key = {"block": block, "arm": arm, "optimizer": optimizer, "rate": rate, "batch": batch}
    history = {name: [1.0, 2.0] for name in LOGGED}
    values = {"scores": scores, "diverged": False, "history": history, "dropped": 0}
    return Record({**key, "dtype": dtype, "seed": seed}, values)


def diverge(record):
    """The same run, lost."""
    record.values["scores"] = dict.fromkeys(record.values["scores"])
    record.values["diverged"] = True


def chosen(records, metric="ndcg@10", planned=None):
    """What is compared where these are all the runs that were asked for, or where others were."""
    every = records if planned is None else planned
    return choose(records, [RunKey(**record.key) for record in every], metric)


def runs(means, *, batches=(4, 8), seeds=5, wobble=0.0):
    """Runs of arms whose scores have these means; `wobble` is what seeds differ by unlike."""
    arms = list(means)
    return [
        run(
            arm,
            seed,
            means[arm] + 5 * NOISE[seed] + wobble * NOISE[(seed + arms.index(arm)) % 5],
            batch=batch,
            optimizer=optimizer,
        )
        for arm, batch, optimizer, seed in itertools.product(
            arms, batches, ("adamw", "sgd"), range(seeds)
        )
    ]


def measurement(written, stable, flat, *, ratio=1e-3, cosine=0.5, draw=0, batch=4, **more):
    """One input of part one with these errors in each arithmetic."""
    forms = {
        "cross_entropy": written,
        "lse_minus_positive": written,
        "softplus": stable,
        "dcl": flat,
        "flatnce": flat,
    }
    ways = {"dense": {form: [error, 0.9, 1.0] for form, error in forms.items()}}
    exact = {"mean_v": -7.0, "mean_weight": ratio, "weight_cv": 0.5}
    return Record(
        {"batch": batch, "temperature": 0.05, "noise": 0.3, "draw": draw} | more,
        {
            "errors": dict.fromkeys(("float32", "bfloat16", "float16"), ways),
            "exact": exact | {"length_ratio": ratio, "cosine": cosine},
            "dcl_apart": 0.0,
        },
    )
