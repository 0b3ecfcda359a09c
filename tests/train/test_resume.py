"""Going on with a run whose checkpoints are damaged, recipe has changed, or disk is full."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from simjax.checkpoint.config import CheckpointConfig
from simjax.checkpoint.manager import Checkpoints
from simjax.cli.main import main
from simjax.eval import tasks
from simjax.train import config as run_config
from simjax.train import loop, resume
from simjax.train.config import RunConfig, TrainConfig
from tests.train.tiny_run import (
    BLOCK,
    EPOCHS,
    EVALUATED,
    SAVED,
    TOTAL,
    StopAfter,
    assert_same_bits,
    environment,
    figures,
    recipe,
    state_at,
    train,
)


def copied(config: RunConfig, to: Path) -> RunConfig:
    shutil.copytree(config.output, to)
    return dataclasses.replace(config, output=str(to))


def flip_a_bit(step: Path) -> Path:
    path = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_gone_on_from(whole, tmp_path):
    config = copied(whole[0], tmp_path / "run")
    damaged = flip_a_bit(tmp_path / "run" / "checkpoints" / str(TOTAL))
    said = io.StringIO()
    assert train(config, Console(file=said, width=100))["steps"] == TOTAL
    lines = said.getvalue().splitlines()
    assert f"checkpoint of step {TOTAL} left out: {damaged}: damaged, its SHA-256 is" in lines[0]
    assert any(line.startswith(f"going on from step {TOTAL - SAVED}") for line in lines)
    assert_same_bits(state_at(config), state_at(whole[0]))
    assert figures(tmp_path / "run") == figures(Path(whole[0].output))


def test_an_export_leaves_damaged_checkpoints_out(whole, tmp_path, capfd):
    config = copied(whole[0], tmp_path / "run")
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        steps = checkpoints.steps()
    for step in steps[1:]:
        flip_a_bit(tmp_path / "run" / "checkpoints" / str(step))
    assert main(["export", config.output, str(tmp_path / "model")]) == 0
    out, err = capfd.readouterr()
    assert [line.split(":")[0] for line in err.splitlines()] == [
        f"checkpoint of step {step} left out" for step in steps[1:]
    ]
    assert out == f"{tmp_path / 'model'}: the model of step {steps[0]}\n"


@pytest.mark.slow
def test_what_has_changed_and_may_is_said(whole, tmp_path):
    config = copied(whole[0], tmp_path / "run")
    flip_a_bit(tmp_path / "run" / "checkpoints" / str(TOTAL))
    config = dataclasses.replace(
        config,
        train=TrainConfig(epochs=EPOCHS, micro_batch=2 * BLOCK, log_every=1),
        checkpoint=CheckpointConfig(every=1, keep=2),
    )
    said = io.StringIO()
    train(config, Console(file=said, width=1000))
    told = next(line for line in said.getvalue().splitlines() if line.startswith("changed since"))
    assert told == (
        f"changed since the last start: checkpoint.every ({SAVED} there, 1 here), "
        f"train.micro_batch ({BLOCK} there, {2 * BLOCK} here)"
    )
    # Now it is what the last start had.
    assert resume.changed(tmp_path / "run", config) == {}


def test_what_has_changed_and_may_not_is_told_apart(whole, tmp_path, capfd):
    config = copied(whole[0], tmp_path / "run")
    path = tmp_path / "recipe.yaml"
    path.write_text(run_config.dump(config), encoding="utf-8")
    assert main(["train", str(path), "--seed=1", "--train.log_every=2"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert (
        "refused: seed (0 there, 1 here); changed as well: train.log_every (1 there, 2 here)"
        in (line)
    )


class StopAtEvaluation(StopAfter):
    """A signal during a step behind which the model is evaluated."""

    steps = 2 * EVALUATED


class StopAtEnd(StopAfter):
    steps = TOTAL


class Ended(BaseException):
    """The process is gone."""


@pytest.mark.parametrize(
    ("stop", "step"), [(StopAtEvaluation, 2 * EVALUATED), (StopAtEnd, TOTAL), (None, TOTAL)]
)
def test_a_step_is_saved_before_it_is_evaluated(stop, step, data, whole, tmp_path, monkeypatch):
    """A stop does not wait for an evaluation, and what dies in one goes on with that."""
    config = recipe(data, tmp_path / "run")
    evaluated, run = [], tasks.run

    def noted(*args):
        evaluated.append(len(evaluated))
        if stop is None and len(evaluated) == 1 + TOTAL // EVALUATED:
            raise Ended
        return run(*args)

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "run", noted)
        if stop is None:
            with pytest.raises(Ended):
                train(config)
        else:
            patch.setattr(loop, "StopRequest", stop)
            assert train(config) == {"steps": step, "stopped": "SIGTERM"}
            assert len(evaluated) == step // EVALUATED  # before the first step, not behind the last
        assert not (tmp_path / "run" / "export").exists()
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest() == step
    said = io.StringIO()
    assert train(config, Console(file=said, width=100)) == whole[1]
    assert f"going on from step {step} of {TOTAL}" in said.getvalue()
    assert figures(tmp_path / "run") == figures(Path(whole[0].output))
    assert_same_bits(state_at(config), state_at(whole[0]))
    for left, right in zip(*(saved(c) for c in (config, whole[0])), strict=True):
        assert left == right


def saved(config: RunConfig) -> list[tuple[int, dict[str, float]]]:
    with Checkpoints(Path(config.output, "checkpoints"), read_only=True) as checkpoints:
        return [(step, checkpoints.metrics(step)) for step in checkpoints.steps()]


@pytest.mark.parametrize("content", [b"", b"- a\n", b"seed: [1\n", b"\xff"])
def test_a_damaged_record_of_the_last_start_is_no_hindrance(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    assert list(resume.changed(tmp_path, RunConfig(output="x"))) == ["config.yaml"]


ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$1",mode=777 tmpfs "$2" || exit 77
shift
disk=$1; kept=$2; shift 2
"$@"
status=$?
cp -a "$disk"/. "$kept"
exit $status
"""


@pytest.mark.faults
def test_a_full_disk_stops_the_run_and_leaves_the_last_good_checkpoint(data, whole, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    files = list((Path(whole[0].output) / "checkpoints" / str(TOTAL)).rglob("*"))
    step = sum(4096 * (1 + path.stat().st_size // 4096) for path in files)
    config = recipe(data, disk / "run", checkpoint=CheckpointConfig(every=1, keep=TOTAL))
    path = tmp_path / "recipe.yaml"
    path.write_text(run_config.dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "simjax", "train", str(path)]
    arguments = [str(int(3.5 * step)), str(disk), str(kept)]
    try:
        run = subprocess.run(
            ["unshare", "-rm", "sh", "-c", ON_A_SMALL_DISK, "sh", *arguments, *command],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare to mount a small disk with")
    if run.returncode == 77 or "unshare:" in run.stderr:
        pytest.skip(f"this host mounts no disk for tests: {run.stderr.strip()}")
    assert run.returncode == 1, run.stderr
    message = run.stderr.splitlines()[-1]
    assert re.match(rf"simjax: {disk}/run/\S+: ", message) and "o space left" in message, message
    assert "Traceback" not in run.stderr

    config = dataclasses.replace(config, output=str(kept / "run"))
    with Checkpoints(kept / "run" / "checkpoints", read_only=True) as checkpoints:
        faults: list[str] = []
        checkpoints.check(faults.append)
        last = checkpoints.latest()
        assert last is not None and 0 < last < TOTAL and not faults
    assert f"last complete checkpoint: step {last}" in message
    # With room again, the same command goes on.
    assert train(config)["steps"] == TOTAL
    assert_same_bits(state_at(config), state_at(whole[0]))
    assert figures(kept / "run") == figures(Path(whole[0].output))
    assert not [name for name in os.listdir(kept / "run" / "checkpoints") if "tmp" in name]
