"""A run from a CSV file to an export: what it leaves behind, and how it is gone on with."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from simjax.errors import SimjaxError, UsageError
from simjax.mesh import MeshConfig, make_mesh
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import config as run_config
from simjax.train import finish, loop
from simjax.train.config import RunConfig, TokenizerConfig, TrainConfig
from simjax.train.folder import locked
from simjax.train.setup import set_up
from simjax.train.signals import StopRequest
from simjax.train.stop_agreement import StopAgreement
from tests.train.tiny_run import (
    BATCH,
    BLOCK,
    EPOCHS,
    EVALUATED,
    EXAMPLES,
    SAVED,
    STOPPED,
    TOTAL,
    WORDS,
    StopAfter,
    assert_same_bits,
    config_for,
    figures,
    lines,
    recipe,
    saved_steps,
    state_at,
    train,
)


@pytest.fixture(scope="module")
def stopped(data) -> RunConfig:
    """The same run, stopped after a few steps."""
    config = recipe(data, data / "stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter)
        assert train(config) == {"steps": STOPPED, "stopped": "SIGTERM"}
    return config


def test_a_signal_is_known_to_all_a_step_later_by_its_name(monkeypatch):
    """No process acts upon what the others do not know yet."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    stop = StopRequest()
    agreement = StopAgreement(make_mesh(MeshConfig(4, 2)), stop)
    assert [agreement.reached(), agreement.reached()] == [None, None]
    stop.name = "SIGINT"
    assert agreement.reached() is None
    assert agreement.reached() == "SIGINT"


def copied(config: RunConfig, to: Path, **changes: Any) -> RunConfig:
    shutil.copytree(config.output, to)
    return dataclasses.replace(config, output=str(to), **changes)


def test_every_step_has_its_line_of_metrics(whole):
    config, _ = whole
    steps = [line for line in lines(Path(config.output)) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, TOTAL + 1))
    wanted = {
        "loss",
        "alignment",
        "uniformity",
        "uniformity_cross",
        "accuracy",
        "mean_v",
        "without_negatives",
        "grad_norm",
        "learning_rate",
        "scale",
        "pairs_per_second",
        "tokens_per_second",
        "mfu",
        "memory_peak",
        "fill",
        "data_wait",
        "compile_seconds",
    }
    for line in steps:
        assert line.keys() == wanted | {"step"}
        assert all(math.isfinite(value) for value in line.values())
        assert line["fill"] == 1.0  # rows of 16 hold two texts of 6 words and 2 special tokens
        assert line["pairs_per_second"] > 0 and line["mfu"] > 0
        assert 0 <= line["data_wait"] < 1
        assert line["tokens_per_second"] == pytest.approx(line["pairs_per_second"] * 3 * 8)
        assert line["memory_peak"] > 2**20
    # All batches have one shape, and one program.
    compiled = [line["compile_seconds"] for line in steps]
    assert compiled[0] > 0 and not any(compiled[1:])
    # Two steps of warm-up to 0.02, then linearly to 0.
    rates = [0, 0.01, *(0.02 * (TOTAL - n) / (TOTAL - 2) for n in range(2, TOTAL))]
    np.testing.assert_allclose([line["learning_rate"] for line in steps], rates, rtol=1e-6)


def test_an_export_has_the_folder_for_itself_and_outlives_a_signal(whole, tmp_path, monkeypatch):
    config, exported = copied(whole[0], tmp_path / "run"), finish.export_model

    def disturbed(*args: Any, **options: Any) -> None:
        with pytest.raises(SimjaxError, match="another process"), locked(tmp_path / "run"):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        exported(*args, **options)

    monkeypatch.setattr(finish, "export_model", disturbed)
    shutil.rmtree(tmp_path / "run" / "export")
    assert train(config)["steps"] == TOTAL
    assert (tmp_path / "run" / "export" / "model.safetensors").exists()


def test_the_loss_falls(whole):
    config, _ = whole
    losses = [line["loss"] for line in lines(Path(config.output)) if "loss" in line]
    assert np.mean(losses[:2]) > 2.5 and np.mean(losses[-3:]) < 0.5


def test_scores_before_during_and_after(whole):
    config, returned = whole
    scores = {
        line["step"]: line["eval/sts-dev/spearman"]
        for line in lines(Path(config.output))
        if "eval/sts-dev/spearman" in line
    }
    assert list(scores) == [0, *range(EVALUATED, TOTAL + 1, EVALUATED)]
    assert len(set(scores.values())) > 1
    assert returned["steps"] == TOTAL
    assert returned["before"]["sts-dev/spearman"] == scores.pop(0)
    assert returned["best_step"] == max(scores, key=lambda step: scores[step])
    best = scores[returned["best_step"]]
    assert returned["after"]["sts-dev/spearman"] == pytest.approx(best, abs=1e-3)


def test_the_last_checkpoints_and_the_best_one_are_kept(whole):
    config, returned = whole
    assert saved_steps(config) == {TOTAL - SAVED, TOTAL, returned["best_step"]}
    assert returned["best_step"] < TOTAL - SAVED  # else this shows nothing


def test_a_run_says_what_is_trained_on_what(whole):
    run = set_up(whole[0])
    size = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    epoch = EXAMPLES // BATCH
    steps = f"{TOTAL} steps of {BATCH} ({epoch} an epoch)"
    rest = f"{steps}; {size:,} parameters; devices: data 4 x fsdp 2"
    assert run.summary() == f"{EXAMPLES} examples, {rest}"
    run.source.store = dataclasses.replace(run.source.store, skipped=3)
    assert run.summary() == f"{EXAMPLES} examples (3 left out: a text is empty), {rest}"


def test_the_export_is_the_best_step(whole):
    from simjax.eval import tasks
    from simjax.sentence_encoder import SentenceEncoder

    config, returned = whole
    encoder = SentenceEncoder.from_pretrained(str(Path(config.output) / "export"))
    found = tasks.run(tasks.load(config.evaluation, config.data.root_path), encoder.encode)
    for name, score in found.items():
        assert score == pytest.approx(returned["after"][name], abs=1e-3)


def test_tensorboard_reads_the_events(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config, _ = whole
    events = EventAccumulator(str(Path(config.output) / "tensorboard"))
    events.Reload()
    written = lines(Path(config.output))
    assert set(events.Tags()["scalars"]) == {name for line in written for name in line} - {"step"}
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(line["step"], np.float32(line["loss"])) for line in written if "loss" in line]


def test_a_summary_is_left_behind(whole):
    config, returned = whole
    page = (Path(config.output) / "summary.md").read_text()
    assert f"| steps | {TOTAL} of {TOTAL} |" in page
    assert f"| score | before | step {returned['best_step']} |" in page
    after = returned["after"]["sts-dev/spearman"]
    assert f"| {returned['before']['sts-dev/spearman']:.2f} | {after:.2f} |" in page
    assert (Path(config.output) / "summary.png").read_bytes()[1:4] == b"PNG"


def test_a_trace_that_would_begin_after_the_end_is_refused(data, tmp_path):
    plan = TrainConfig(epochs=EPOCHS, micro_batch=BLOCK, profile=(TOTAL + 1, TOTAL + 2))
    with pytest.raises(UsageError, match=f"begins at step {TOTAL + 1} and the run has {TOTAL}"):
        set_up(config_for(data, tmp_path / "run", train=plan))


def test_the_configuration_is_kept(whole):
    config, _ = whole
    assert run_config.load(Path(config.output) / "config.yaml") == config


def test_a_stop_saves_at_once(stopped):
    assert STOPPED in saved_steps(stopped)
    assert [line["step"] for line in lines(Path(stopped.output)) if "loss" in line] == [
        *range(1, STOPPED + 1)
    ]
    assert not (Path(stopped.output) / "export").exists()


def test_a_run_gone_on_with_ends_bit_for_bit_where_an_uninterrupted_one_does(
    whole, stopped, tmp_path
):
    config = copied(stopped, tmp_path / "run")
    returned = train(config)
    assert returned == whole[1]
    assert_same_bits(state_at(config), state_at(whole[0]))
    # Every batch in its turn: the losses of other batches would differ.
    assert figures(Path(config.output)) == figures(Path(whole[0].output))
    assert saved_steps(config) == saved_steps(whole[0])


@pytest.mark.parametrize(
    ("mesh", "micro"),
    [
        (MeshConfig(1, 1), None),
        pytest.param(MeshConfig(1, 8), None, marks=pytest.mark.slow),
        pytest.param(MeshConfig(2, 4, gather="layer"), 4, marks=pytest.mark.slow),
    ],
)
def test_on_another_mesh_it_ends_there_but_for_rounding(whole, stopped, tmp_path, mesh, micro):
    plan = TrainConfig(epochs=4.0, micro_batch=micro, log_every=1)
    config = copied(stopped, tmp_path / "run", mesh=mesh, train=plan)
    train(config)
    got, wanted = state_at(config), state_at(whole[0])
    rate = config.optimizer.learning_rate
    for left, right in zip(
        jax.tree.leaves(got.params), jax.tree.leaves(wanted.params), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-3 * rate)
    losses = [
        [line["loss"] for line in lines(Path(run.output)) if "loss" in line]
        for run in (config, whole[0])
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_finished_run_is_not_trained_again(whole, tmp_path):
    config = copied(whole[0], tmp_path / "run")
    before = figures(Path(config.output))
    shutil.rmtree(Path(config.output) / "export")
    said = Console(file=io.StringIO(), width=200)
    assert train(config, console=said) == whole[1]
    best = f"the model of step {whole[1]['best_step']} is in {config.output}/export"
    assert f"step {TOTAL} of {TOTAL}: done; {best}" in said.file.getvalue()
    assert figures(Path(config.output)) == before
    assert (Path(config.output) / "export" / "model.safetensors").exists()


def test_training_goes_on_from_the_model_of_another_run(whole, tmp_path):
    config = dataclasses.replace(
        whole[0],
        output=str(tmp_path / "second"),
        model=dataclasses.replace(whole[0].model, pretrained=whole[0].output),
        tokenizer=TokenizerConfig(),
    )
    run, first = set_up(config), SentenceEncoder.from_pretrained(whole[0].output)
    np.testing.assert_array_equal(run.encoder.encode(WORDS), first.encode(WORDS))


def test_nothing_is_lost_to_a_run_that_was_cut_off_before_its_first_checkpoint(
    whole, stopped, tmp_path
):
    config = copied(stopped, tmp_path / "run")
    shutil.rmtree(Path(config.output) / "checkpoints")
    train(config)
    assert_same_bits(state_at(config), state_at(whole[0]))
    assert figures(Path(config.output)) == figures(Path(whole[0].output))


def test_lines_are_written_every_so_many_steps(data, tmp_path):
    plan = TrainConfig(steps=TOTAL, micro_batch=BLOCK, log_every=5)
    config = config_for(data, tmp_path / "run", train=plan)

    def prepare(config):
        return dataclasses.replace(set_up(config), compile_seconds=1000.0)

    returned = loop.train(config, console=Console(file=io.StringIO()), prepare=prepare)
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found] == [5, 10, TOTAL]
    # To see whether a step fits, before the first of them.
    assert [line["compile_seconds"] > 1000 for line in found] == [True, False, False]
    assert returned == {"steps": TOTAL, "best_step": TOTAL, "before": {}, "after": {}}
    assert saved_steps(config) == {TOTAL}
