"""Every published system as a run of seconds, over the data of `tiny_run`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from simjax.data.augment import Delete
from simjax.data.sources import Source
from simjax.mesh import MeshConfig
from simjax.models.latents import LatentsConfig
from simjax.objectives.config import (
    AngleConfig,
    ContrastiveConfig,
    CosentConfig,
    CosineConfig,
    DistillationConfig,
    GuideConfig,
    InBatchTensionConfig,
    MaskedLmConfig,
    MatryoshkaConfig,
    RDropConfig,
    Seq2SeqConfig,
    SigmoidConfig,
    SoftmaxConfig,
    TensionConfig,
    TripletConfig,
    VaeConfig,
)
from simjax.train.config import RunConfig, TrainConfig
from tests.train.tiny_run import config_for

BATCH, BLOCK, STEPS = 32, 8, 6
LABELLED = Source(
    path="scored.csv",
    anchor="anchor",
    positives=("positive",),
    label="label",
    score="score",
)
TRIPLES = Source(
    path="triples.csv", anchor="anchor", positives=("positive",), negatives=("negative",)
)
RELATIONS = ("entailment", "neutral", "contradiction")
RELATED = dataclasses.replace(LABELLED, label="relation", classes=RELATIONS, score=None, weight=2.0)
CUT = dataclasses.replace(LABELLED, label=None, label_above=2.5, weight=1.0)
"""Both of one mixture, whose classes do not compete."""
TEACHER = "teacher"
OBJECTIVES = {
    "cosine": (CosineConfig(score_range=(0.0, 5.0)), LABELLED),
    "cosent": (CosentConfig(), LABELLED),
    "angle": (AngleConfig(), LABELLED),
    "softmax": (SoftmaxConfig(r_drop=RDropConfig()), LABELLED),
    "triplet": (TripletConfig(), TRIPLES),
    "sigmoid": (SigmoidConfig(), TRIPLES),
    "tension": (TensionConfig(negatives=3), TRIPLES),
    "tension_in_batch": (InBatchTensionConfig(), TRIPLES),
    "matryoshka": (ContrastiveConfig(matryoshka=MatryoshkaConfig((16, 8))), TRIPLES),
    "views": (ContrastiveConfig(directions="views"), LABELLED),
    "similarity": (DistillationConfig(teacher=TEACHER), TRIPLES),
    "margin": (DistillationConfig(teacher=TEACHER, target="margin"), TRIPLES),
    "kl": (DistillationConfig(teacher=TEACHER, target="kl", temperature=0.1), TRIPLES),
    "embedding": (DistillationConfig(teacher=TEACHER, target="embedding"), TRIPLES),
}
"""Those that `objective.name` or an option of it tells apart."""
VARIANTS: dict[str, tuple[Any, Source | tuple[Source, ...]]] = {
    "dcl": (ContrastiveConfig(loss="dcl"), TRIPLES),
    "flatnce": (ContrastiveConfig(loss="flatnce"), TRIPLES),
    "joint": (ContrastiveConfig(directions="joint"), TRIPLES),
    "masked": (ContrastiveConfig(mlm=MaskedLmConfig(weight=1.0, rate=0.3)), TRIPLES),
    "guided": (ContrastiveConfig(guide=GuideConfig(model=TEACHER)), TRIPLES),
    "simcse": (ContrastiveConfig(), TRIPLES),
    "augmented": (ContrastiveConfig(), TRIPLES),
    "paraphrases": (
        ContrastiveConfig(directions="views", seq2seq=Seq2SeqConfig(corrupted=0.5)),
        LABELLED,
    ),
    "distilled_paraphrases": (
        DistillationConfig(teacher=TEACHER, weight=100.0, seq2seq=Seq2SeqConfig(corrupted=0.5)),
        LABELLED,
    ),
    "distilled_cosine": (DistillationConfig(teacher=TEACHER, target="cosine"), TRIPLES),
    "label_spaces": (
        SoftmaxConfig(use_bias=False, label_spaces=(("0", "1"), RELATIONS)),
        (RELATED, CUT),
    ),
    "reconstruction": (VaeConfig(), TRIPLES),
    "gaussian": (VaeConfig(kl_weight=0.5, kl_warmup=4), TRIPLES),
}
"""Those that differ from the default in what they take or learn beside it, and further options."""
SYSTEMS = OBJECTIVES | VARIANTS
VIEWS: dict[str, Any] = {
    "tension": "single",
    "tension_in_batch": "single",
    "simcse": "dropout",
    "augmented": "dropout",
    "paraphrases": "paraphrases",
    "distilled_paraphrases": "paraphrases",
    "reconstruction": "reconstruction",
    "gaussian": "reconstruction",
}
"""Of those that do not have an example's columns for views."""
POOLINGS: dict[str, Any] = {"simcse": "cls_mlp", "paraphrases": "cls_linear"}
"""Of those whose papers have a layer over the first token."""
LATENTS = {
    "reconstruction": LatentsConfig(layers=1, size=4, kappa=20.0),
    "gaussian": LatentsConfig("gaussian", layers=1, size=4),
}


def write_scored(data: Path) -> None:
    """The triples' pairs, with two classes, scores, and three classes of another kind."""
    rows = (data / "triples.csv").read_text().splitlines()[1:]
    random, others = np.random.default_rng(1), np.random.default_rng(2)
    with (data / "scored.csv").open("w") as file:
        file.write("anchor,positive,label,score,relation\n")
        for row in rows:
            anchor, positive, _ = row.split(",")
            score = int(random.integers(0, 6))
            relation = RELATIONS[others.integers(0, len(RELATIONS))]
            label = "yes" if score > 2 else "no"
            file.write(f"{anchor},{positive},{label},{score},{relation}\n")


def config_of(name: str, data: Path, output: Path, teacher: str, **changes: Any) -> RunConfig:
    """A run of six steps in two micro-batches on each of two devices.

    Args:
        name: One of `SYSTEMS`.
        data: Folder of `tiny_run.write_data` and `write_scored`.
        output: Of the run.
        teacher: An exported model of the same width, for those that learn from one.
        changes: Of the configuration.
    """
    objective, source = SYSTEMS[name]
    if isinstance(objective, DistillationConfig):
        objective = dataclasses.replace(objective, teacher=teacher)
    elif getattr(objective, "guide", None) is not None:
        guide = dataclasses.replace(objective.guide, model=teacher)
        objective = dataclasses.replace(objective, guide=guide)
    config = config_for(
        data,
        output,
        **{
            "objective": objective,
            "train": TrainConfig(steps=STEPS, micro_batch=BLOCK, log_every=1),
            "mesh": MeshConfig(data=2),
        }
        | changes,
    )
    views = VIEWS.get(name, "columns")
    found = dataclasses.replace(
        config.data,
        source=source if isinstance(source, Source) else Source(),
        sources=() if isinstance(source, Source) else source,
        mixing="one_source" if isinstance(source, Source) else "mixed",
        views=views,
        augment=(Delete(rate=0.2),) if name == "augmented" else (),
        batch_size=BATCH,
        block_size=BLOCK,
        row_length=32 if views == "reconstruction" else config.data.row_length,
    )
    model = dataclasses.replace(config.model, pooling=POOLINGS.get(name), latents=LATENTS.get(name))
    return dataclasses.replace(config, data=found, model=model)
