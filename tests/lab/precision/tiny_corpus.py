"""Texts and settings with which a run takes no time."""

import itertools

import numpy as np

from simjax.eval.sts import StsSubset, sts_set
from simjax.lab.precision.settings import ArithmeticSettings, TrainingSettings
from simjax.lab.precision.texts import Corpus

WORDS = ("cat", "dog", "sun", "sea", "man", "red", "tea", "fog")
TEXTS = [" ".join(words) for words in itertools.permutations(WORDS, 3)]
CORPUS = Corpus(
    "made-up words",
    tuple((text, f"{text} again") for text in TEXTS[:40]),
    tuple((text, f"{text} once more") for text in TEXTS[40:52]),
    sts_set((StsSubset("made up", TEXTS[60:72], TEXTS[61:73], np.arange(12.0) % 5),)),
)
TINY = TrainingSettings(
    batches=(4,),
    dtypes=("float32",),
    optimizers=("sgd",),
    seeds=2,
    sgd_rates=(1e-3,),
    sgd_infonce_rates=(0.01,),
    easy_batches=(),
    easy_rates=(0.01,),
    examples=8,
    least_steps=2,
    most_steps=2,
    warm_up_steps=1,
    warm_up_batch=4,
    width=8,
    heads=2,
    intermediate=8,
    vocabulary=200,
    max_length=8,
    row_length=16,
)
TINY_ARITHMETIC = ArithmeticSettings((4,), (0.05,), (0.3,), draws=2, width=8, pooled=4)
