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
VARIANTS: dict[str, tuple[Any, Source]] = {
    "flatnce": (ContrastiveConfig(loss="flatnce"), TRIPLES),
    "masked": (ContrastiveConfig(mlm=MaskedLmConfig(weight=1.0, rate=0.3)), TRIPLES),
    "guided": (ContrastiveConfig(guide=GuideConfig(model=TEACHER)), TRIPLES),
    "augmented": (ContrastiveConfig(), TRIPLES),
    "paraphrases": (
        ContrastiveConfig(directions="views", seq2seq=Seq2SeqConfig(corrupted=0.5)),
        LABELLED,
    ),
    "reconstruction": (VaeConfig(), TRIPLES),
}
"""Those that differ from the default in what they take or learn beside it."""
SYSTEMS = OBJECTIVES | VARIANTS


def write_scored(data: Path) -> None:
    """The triples' pairs, with classes and scores."""
    rows = (data / "triples.csv").read_text().splitlines()[1:]
    random = np.random.default_rng(1)
    with (data / "scored.csv").open("w") as file:
        file.write("anchor,positive,label,score\n")
        for row in rows:
            anchor, positive, _ = row.split(",")
            score = int(random.integers(0, 6))
            file.write(f"{anchor},{positive},{'yes' if score > 2 else 'no'},{score}\n")


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
    model = config.model
    views, augment, row_length = "columns", (), config.data.row_length
    if name.startswith("tension"):
        views = "single"
    elif name == "augmented":
        views, augment = "dropout", (Delete(rate=0.2),)
    elif name == "paraphrases":
        views, model = "paraphrases", dataclasses.replace(model, pooling="cls_linear")
    elif name == "reconstruction":
        views, row_length = "reconstruction", 32
        latents = LatentsConfig(layers=1, size=4, kappa=20.0)
        model = dataclasses.replace(model, latents=latents)
    found = dataclasses.replace(
        config.data,
        source=source,
        views=views,
        augment=augment,
        batch_size=BATCH,
        block_size=BLOCK,
        row_length=row_length,
    )
    return dataclasses.replace(config, data=found, model=model)
