"""Runs and measurements that were made up."""

import itertools

from simjax.lab.precision.records import Record
from simjax.lab.precision.training import LOGGED

NOISE = (0.3, -0.2, 0.1, -0.4, 0.2)
"""What the seeds of an arm differ by, the same for all arms."""


def run(arm, seed, score, *, rate=0.1, select=None, batch=4, dtype="float32", optimizer="adamw"):
    scores = {
        "select/ndcg@10": score if select is None else select,
        "ndcg@10": score,
        "alignment": 0.5,
        "uniformity": -2.0,
    }
    key = {"arm": arm, "optimizer": optimizer, "rate": rate, "batch": batch, "dtype": dtype}
    history = {name: [1.0, 2.0] for name in LOGGED}
    return Record({**key, "seed": seed}, {"scores": scores, "history": history, "dropped": 0})


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
