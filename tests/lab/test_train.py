import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from simjax.errors import UsageError
from simjax.lab.bench import peers, texts, train
from simjax.lab.bench.trainer import Shape, Trainer, run_config

SMALL = ("--batch_size", 8, "--block_size", 4, "--row_length", 32, "--max_length", 32)


@pytest.mark.slow
def test_figures_agree_with_each_other(run, model: Path, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    figures = run(
        train,
        *(model, "--data.root", root, "--batches", 3, *SMALL),
        *("--dtype", "float32", "--json", file),
    )
    assert json.loads(file.read_text()) == figures
    assert set(figures["contenders"]) == {"simjax float32", "sentence-transformers float32"}
    ours, peer = figures["contenders"].values()
    for row in (ours, peer):
        assert len(row["seconds"]) == len(row["loss"]) == 3
        assert row["total_seconds"] == pytest.approx(sum(row["seconds"]))
        assert np.isfinite(row["loss"]).all()
    parts = [ours[f"{part}_seconds"] for part in ("tokenise", "assemble", "update")]
    assert sum(parts) == pytest.approx(ours["total_seconds"])
    assert ours["fill"] == pytest.approx(ours["real_tokens"] / ours["computed_tokens"])
    assert ours["real_tokens"] <= peer["computed_tokens"]
    ratio = figures["ratios"]["speed of simjax float32 over sentence-transformers float32"]
    assert ratio["value"] == pytest.approx(peer["total_seconds"] / ours["total_seconds"])
    assert ratio["goal"] == "at least 3"


@pytest.mark.slow
def test_without_peer_in_bfloat16(run, model, root) -> None:
    figures = run(
        train,
        *(model, "--data.root", root, "--batches", 1, *SMALL, "--dtype", "bfloat16", "--no_peer"),
    )
    assert set(figures["contenders"]) == {"simjax bfloat16"}
    assert figures["ratios"] == {}


def test_both_sides_compute_one_loss_on_one_batch(model, root, tmp_path) -> None:
    options = peers.StepOptions(max_length=32)
    config = run_config(model, texts.triples(root), "float32", Shape(8, 4, 32), options, tmp_path)
    still = dataclasses.replace(config.model, dropout=0.0)
    ours = Trainer(dataclasses.replace(config, model=still), texts.triples(root))
    torch = peers.find_sentence_transformers([])
    assert torch is not None
    peer = peers.PeerTrainer(torch, model, "float32", options)
    peer.model.eval()
    before = jax.device_get(ours.params)
    # The second loss also tells that both updates were alike.
    for number in range(2):
        assert ours.step(number)[0] == pytest.approx(peer.step(ours.texts(number)), rel=1e-4)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, jax.device_get(ours.params))
    assert max(jax.tree.leaves(moved)) > 1e-5


def test_peer_counts_the_tokens_that_it_pads(model) -> None:
    torch = peers.find_sentence_transformers([])
    assert torch is not None
    peer = peers.PeerTrainer(torch, model, "bfloat16", peers.StepOptions(max_length=6))
    peer.step([("cat", "fish"), ("the man run the park the fish", "man")])
    assert peer.tokens == 4 * 6


@pytest.mark.slow
def test_cache_figures_agree_with_each_other(run, model, root, tmp_path) -> None:
    file = tmp_path / "figures.json"
    figures = run(
        train,
        *(model, "--data.root", root, *SMALL, "--dtype", "float32", "--json", file),
        *("--cache", "--cache_batch_size", 32, "--rounds", 2),
    )
    assert json.loads(file.read_text()) == figures
    contenders = figures["contenders"]
    assert set(contenders) == {f"batch {size} float32" for size in (8, 16, 32)}
    small, large = contenders["batch 8 float32"], contenders["batch 32 float32"]
    assert small["examples"] == large["examples"] == 32
    for row in (small, large):
        assert len(row["seconds"]) == 2
        assert row["seconds_per_example"] == pytest.approx(sum(row["seconds"]) / 2 / 32)
    ratio = figures["ratios"]["time per example, cached over uncached, float32"]
    rounds = np.divide(large["seconds"], small["seconds"])
    assert ratio["value"] == pytest.approx(np.median(rounds))
    assert ratio["goal"] == "at most 1.4"
    growth = figures["ratios"]["temporary memory of a further example over its embeddings, float32"]
    sizes = [contenders[f"batch {size} float32"]["temporary_bytes"] for size in (16, 32)]
    assert growth["value"] == pytest.approx((sizes[1] - sizes[0]) / 16 / (4 * 3 * 32))


def test_cache_batches_must_divide(run, model, root) -> None:
    with pytest.raises(UsageError, match="--cache_batch_size 20 is no multiple of --batch_size 8"):
        run(
            train,
            *(model, "--data.root", root, *SMALL, "--cache", "--cache_batch_size", 20),
        )
