"""Runs whose folder is lost, and that go on from the copies of their checkpoints."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import fsspec
import jax.numpy as jnp
import pytest
from rich.console import Console

from simjax import remote
from simjax.checkpoint.config import CheckpointConfig
from simjax.checkpoint.mirror_place import WHOLE
from simjax.cli.main import main
from simjax.mesh import MeshConfig
from simjax.train import config as run_config
from simjax.train import loop, resume
from simjax.train.config import RunConfig, TokenizerConfig, TrainConfig
from simjax.train.finish import open_checkpoints
from simjax.train.folder import open_folder
from simjax.train.setup import make_tokenizer
from tests.processes.started import started
from tests.train.tiny_run import (
    BLOCK,
    EPOCHS,
    EVALUATED,
    SAVED,
    STOPPED,
    TOTAL,
    StopAfter,
    assert_same_bits,
    figures,
    recipe,
    state_at,
    train,
)


def mirrored(config: RunConfig, url: object, output: Path | None = None) -> RunConfig:
    checkpoint = dataclasses.replace(config.checkpoint, mirror=str(url))
    output = Path(config.output) if output is None else output
    return dataclasses.replace(config, output=str(output), checkpoint=checkpoint)


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory) -> Path:
    """The mirror of a run that was stopped in the middle, and whose folder is gone."""
    folder = tmp_path_factory.mktemp("stopped")
    config = mirrored(recipe(data, folder / "run"), folder / "there")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter)
        assert train(config) == {"steps": STOPPED, "stopped": "SIGTERM"}
    shutil.rmtree(folder / "run")
    return folder / "there"


@pytest.fixture
def there(stopped, tmp_path) -> Path:
    """A copy of that mirror."""
    shutil.copytree(stopped, tmp_path / "there")
    return tmp_path / "there"


def steps(there: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in there.glob(f"*/{WHOLE}"))


def test_a_run_whose_folder_is_lost_ends_as_one_that_was_not_disturbed(
    data, whole, there, tmp_path
):
    assert steps(there) == [EVALUATED, STOPPED]
    config = mirrored(recipe(data, tmp_path / "elsewhere"), there)
    said = io.StringIO()
    returned = train(config, Console(file=said, width=500))
    assert returned == whole[1]
    lines = said.getvalue().splitlines()
    assert lines[0] == f"checkpoint of step {STOPPED} fetched from {there}"
    assert any(line.startswith(f"going on from step {STOPPED} of") for line in lines)
    assert_same_bits(state_at(config), state_at(whole[0]))
    assert figures(tmp_path / "elsewhere") == figures(Path(whole[0].output))
    exported = Path("export", "model.safetensors")
    assert (
        Path(config.output, exported).read_bytes() == Path(whole[0].output, exported).read_bytes()
    )
    # And once more, when there is nothing left to train.
    shutil.rmtree(tmp_path / "elsewhere")
    assert train(config) == whole[1]
    assert (
        Path(config.output, exported).read_bytes() == Path(whole[0].output, exported).read_bytes()
    )


def test_another_run_is_refused(data, there, tmp_path, capfd):
    path = tmp_path / "recipe.yaml"
    path.write_text(run_config.dump(mirrored(recipe(data, tmp_path / "run"), there)))
    before = {p: p.read_bytes() for p in there.rglob("*") if p.is_file()}
    assert main(["train", str(path), "--seed=1"]) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith(
        f"simjax: {there}: these checkpoints belong to another run; refused: seed (0 there, 1 here)"
    )
    assert {p: p.read_bytes() for p in there.rglob("*") if p.is_file()} == before
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def test_a_mirror_that_fails_at_the_end_is_an_error_with_everything_here(
    data, whole, tmp_path, capfd, monkeypatch
):
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    config = mirrored(recipe(data, tmp_path / "run"), "memory://bucket/m")
    path = tmp_path / "recipe.yaml"
    path.write_text(run_config.dump(config))
    upload, calls = remote.upload, []

    def full(filesystem, files):
        calls.append(files)
        if len(calls) > 2:  # the marks at the start
            raise OSError("no room")
        upload(filesystem, files)

    monkeypatch.setattr(remote, "upload", full)
    assert main(["train", str(path)]) == 1
    err = capfd.readouterr().err
    assert f"checkpoint of step {SAVED} not copied to memory://bucket/m (no room); " in err
    assert err.splitlines()[-1].startswith(
        f"simjax: checkpoint.mirror: the checkpoint of step {TOTAL} could not be copied"
    )
    assert_same_bits(state_at(config), state_at(whole[0]))
    assert (tmp_path / "run" / "export" / "config.json").exists()
    assert (tmp_path / "run" / "summary.md").exists()
    # The same command tries again.
    monkeypatch.setattr(remote, "upload", upload)
    assert main(["train", str(path)]) == 0
    found = {p.removeprefix("/bucket/m/") for p in filesystem.find("/bucket/m")}
    steps = {int(name.split("/")[0]) for name in found if name.endswith(WHOLE)}
    assert steps == {TOTAL, whole[1]["best_step"]}
    beside = {n for n in found if n.startswith(f"{TOTAL}/") and "/checkpoints/" not in n}
    assert beside == {f"{TOTAL}/{name}" for name in ("config.yaml", "metrics.jsonl", WHOLE)}


def test_a_mirror_that_cannot_be_reached_is_an_error_at_the_start(data, tmp_path, capfd):
    path = tmp_path / "recipe.yaml"
    path.write_text(run_config.dump(recipe(data, tmp_path / "run")))
    assert main(["train", str(path), "--checkpoint.mirror=gs://bucket/m"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("simjax: gs://bucket/m: cannot be reached (") and "gcsfs" in line


def test_what_is_read_beside_a_checkpoint_goes_along(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "export").mkdir()
    for name in ("config.yaml", "wandb.id", "tokenizer/tokenizer.json", "export/config.json"):
        (tmp_path / name).write_text(name)
    lines = [json.dumps({"step": step, "loss": 0.5}) for step in (0, 1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "lo')
    assert resume.beside(tmp_path, 2) == {
        "config.yaml": b"config.yaml",
        "wandb.id": b"wandb.id",
        "tokenizer/tokenizer.json": b"tokenizer/tokenizer.json",
        "metrics.jsonl": ("\n".join(lines[:3]) + "\n").encode(),
    }
    assert resume.beside(tmp_path / "empty", 2) == {"metrics.jsonl": b""}


def test_a_learned_tokenizer_comes_back(data, tmp_path, monkeypatch):
    learned = TokenizerConfig(source="train", vocab_size=300)
    config = mirrored(recipe(data, tmp_path / "a", tokenizer=learned), tmp_path / "there")
    for output in ("a", "b"):
        config = dataclasses.replace(config, output=str(tmp_path / output))
        folder = open_folder(config.output)
        with resume.open_mirror(folder, config, print) as mirror:
            mirror.fetch()
            tokenizer = make_tokenizer(config)
            mirror.identify({}, {})
            with open_checkpoints(folder, config, mirror=mirror) as checkpoints:
                checkpoints.save(1, {"x": jnp.ones(1)}, {})
        # One that is learned again might be another.
        monkeypatch.delattr("simjax.train.setup.train_wordpiece", raising=False)
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / output / "tokenizer").iterdir()}
        for output in ("a", "b")
    )
    assert one == other and len(tokenizer) <= 300


def test_what_has_changed_is_told_without_passwords(tmp_path):
    config = RunConfig(output="x", checkpoint=CheckpointConfig(mirror="ftp://me:secret@host/m"))
    (tmp_path / "config.yaml").write_text(run_config.dump(config))
    told = resume.changed(tmp_path, RunConfig(output="x"))
    assert told == {"checkpoint.mirror": 'checkpoint.mirror ("ftp://host/m" there, null here)'}


@pytest.mark.multiprocess
def test_of_two_processes_one_fetches(data, there, tmp_path):
    plan = TrainConfig(epochs=EPOCHS, micro_batch=BLOCK, log_every=1)
    config = recipe(data, tmp_path / "run", mesh=MeshConfig(2, 2), train=plan)
    with started(mirrored(config, there), tmp_path / "printed", 2) as processes:
        assert [one.ended() for one in processes] == [0, 0], processes[0].said()
    said = [one.said() for one in processes]
    assert f"checkpoint of step {STOPPED} fetched from {there}" in said[0]
    assert f"going on from step {STOPPED} of {TOTAL}" in said[0]
    assert "fetched" not in said[1]
    assert steps(there)[-1] == TOTAL
    state = state_at(dataclasses.replace(config, mesh=MeshConfig(4, 2)))
    assert int(state.step) == TOTAL
