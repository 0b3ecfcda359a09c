"""`simjax plan`: what it prints, what it writes, and what it says of what cannot be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from simjax.cli.main import main
from simjax.eval.tasks import EvalConfig
from simjax.plan import planning, topology
from simjax.plan.collectives import Collective
from simjax.plan.compiled import Compiled
from simjax.plan.layout import layout_of
from simjax.plan.parts import memory
from simjax.train import config as run_config
from simjax.train.config import TrainConfig
from tests.plan.small import recipe
from tests.train import tiny_run

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(run_config.dump(recipe(mesh=run_config.MeshConfig())))
    return path


def test_gpus_are_planned_by_formula_and_it_says_so(small, tmp_path, capsys):
    figures = tmp_path / "plan.json"
    arguments = ["--topology", "h100:8", "--tokens", "20", "--json", str(figures)]
    assert main(["plan", str(small), *arguments, "--mesh.fsdp", "2"]) == 0
    told = capsys.readouterr().out
    for wanted in ("by formula alone", "data 4 x fsdp 2", "optimiser state", "bound by", "pairs/s"):
        assert wanted in told
    found = json.loads(figures.read_text())
    assert found["mesh"] == {"data": 4, "fsdp": 2, "tensor": 1}
    memory = found["memory"]
    assert memory["formula"] == sum(memory["parts"][name] for name in memory["at_the_peak"])
    assert memory["compiler"] is None and memory["fits"]
    assert found["largest_batch"] > found["batch_size"] == 64
    assert found["rows"]["tokens_of_a_text"] == pytest.approx(20, abs=0.1)
    slow, fast = found["pairs_per_second"]
    assert slow < fast < 64 / found["seconds"]["at_least"] * 1.001


def test_a_published_recipe_for_more_devices_than_it_has_blocks(capsys):
    recipe_file = str(CONFIGS / "simcse_unsup_bert_base.yaml")
    assert main(["plan", recipe_file, "--topology", "v5e:16x16", "--no_compile"]) == 0
    told = capsys.readouterr().out
    assert "data.batch_size 64 is fewer blocks of 16 than there are devices" in told
    assert "planned is 4,096" in told
    assert "109,482,240 parameters" in told
    assert "texts of data.max_length, 32 tokens: at most" in told


def test_a_million_pairs_fit_256_chips_on_the_ring(tmp_path):
    figures = tmp_path / "plan.json"
    arguments = ["--topology", "v5e:16x16", "--tokens", "32", "--no_compile"]
    arguments += ["--json", str(figures)]
    assert main(["plan", str(CONFIGS / "million.yaml"), *arguments]) == 0
    found = json.loads(figures.read_text())
    assert found["batch_size"] == 2**20 and found["keys"] == "ring"
    assert found["memory"]["fits"] and found["memory"]["parts"]["keys on the ring"] < 1e9


def test_a_search_writes_the_recipe_with_another_layout(small, tmp_path, capsys):
    path = tmp_path / "found.yaml"
    arguments = ["--topology", "h100:4", "--search", "--write", str(path), "--tokens", "20"]
    assert main(["plan", str(small), *arguments]) == 0
    assert f"written: {path}" in capsys.readouterr().out.replace("\n", "")
    found, asked = run_config.load(path), run_config.load(small)
    assert (found.model, found.data, found.objective) == (asked.model, asked.data, asked.objective)
    share = 64 // (4 // found.mesh.tensor)
    assert found.train.micro_batch and share % found.train.micro_batch == 0
    assert found.mesh.keys in ("all_gather", "ring")


@pytest.mark.slow
def test_what_a_search_writes_trains(tmp_path):
    """On as many devices as it was searched for."""
    output, path, asked = tmp_path / "run", tmp_path / "found.yaml", tmp_path / "asked.yaml"
    (tmp_path / "data").mkdir()
    train = TrainConfig(steps=2, log_every=1)
    config = tiny_run.recipe(tiny_run.write_data(tmp_path / "data"), output, train=train)
    asked.write_text(run_config.dump(dataclasses.replace(config, evaluation=EvalConfig())))
    arguments = ["--topology", "h100:8", "--search", "--write", str(path), "--tokens", "8"]
    assert main(["plan", str(asked), *arguments]) == 0
    assert main(["train", str(path)]) == 0
    assert [line["step"] for line in tiny_run.lines(output)] == [1, 2]
    assert run_config.load(output / "config.yaml").mesh == run_config.load(path).mesh


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--topology", "v9:2x2"], "no such accelerator"),
        (["--topology", "v5e:2x2x2"], "such as v5e:4x4"),
        (["--topology", "h100:3"], "do not divide by 3 devices"),
        (["--topology", "h100:8", "--mesh.fsdp", "3"], "mesh.fsdp: 3 does not divide"),
        (["--topology", "h100:8", "--mesh.tensor", "8"], "mesh.tensor: 8 does not divide"),
        (["--topology", "h100:8", "--tokens", "999"], "--tokens 999"),
        (["--topology", "h100:8", "--objective.temprature", "1"], "objective.temperature"),
        (["--topology", "h100:8", "--mesh.tensor", "0"], "mesh.tensor: 0 does not divide"),
        (["--topology", "h100:8", "--write", "x.yaml"], "--write x.yaml: only --search"),
        (["--topology", "h100:8", "--search", "--write", "none/x.yaml"], "--write none/x.yaml"),
        (["--topology", "h100:8", "--objective.negative_group", "8"], "negative_group is for"),
        ([], "--topology"),
    ],
)
def test_what_cannot_be_is_one_line(small, arguments, wanted, capsys):
    assert main(["plan", str(small), *arguments]) == 2
    told = capsys.readouterr().err
    assert wanted in told and told.count("\n") == 1


def test_what_the_compiler_says_is_set_beside_the_formula(small, tmp_path, monkeypatch, capsys):
    beyond = 3_210_000
    monkeypatch.setattr(planning, "tpu_devices", lambda name: jax.devices())
    monkeypatch.setattr(topology, "tpu_devices", lambda name: jax.devices())

    def compiled(program):
        formula = memory(layout_of(program), "tpu").total
        found = (
            Collective("all-gather", (("f32", 2_000_000),), 1, 8, 0),
            Collective("collective-permute", (("f32", 500_000),), 7, 8, 1),
        )
        return Compiled(formula - 1_000_000 + beyond, 1_000_000, 0, None, found, 2.0)

    monkeypatch.setattr(planning, "compile_step", compiled)
    figures = tmp_path / "plan.json"
    arguments = ["--topology", "v5e:2x4", "--tokens", "20", "--json", str(figures)]
    assert main(["plan", str(small), *arguments]) == 0
    told = capsys.readouterr().out
    rows = [line.split("│") for line in told.splitlines()]
    remainder = next(row for row in rows if len(row) > 1 and row[1].strip() == "remainder")
    assert remainder[-2].strip() == "3.2 MB"
    found = json.loads(figures.read_text())
    assert found["memory"]["compiler"] == found["memory"]["formula"] + beyond
    assert found["sent"]["compiler"] == {"all-gather": 7e6, "collective-permute": 14e6}
    assert found["seconds"]["links"] == pytest.approx(7e6 / 200e9 + 14e6 / 50e9)
    assert "200 GB/s sent, 50 to one neighbour" in told
    assert "is taken to use one of a chip's 4 links" in told

    def too_large(program):
        return Compiled(0, 0, 0, 20 * 2**30, (), 2.0)

    monkeypatch.setattr(planning, "compile_step", too_large)
    assert main(["plan", str(small), *arguments]) == 0
    told = capsys.readouterr().out
    assert "does not fit: the compiler asks for 21.47 GB" in told
    assert "no global batch fits" in told
    path = tmp_path / "found.yaml"
    assert main(["plan", str(small), *arguments[:4], "--search", "--write", str(path)]) == 1
    told = capsys.readouterr()
    assert "nothing that was compiled fits v5e:2x4, and no recipe is written" in told.err
    assert "does not" in told.out and not path.exists()


def test_machines_of_gpus_that_are_linked_by_a_network(small, capsys):
    for name, wanted in (("h100:8", False), ("h100:16", True)):
        assert main(["plan", str(small), "--topology", name, "--tokens", "20"]) == 0
        told = capsys.readouterr().out
        assert ("between machines of 8 the network is taken to be as fast" in told) is wanted
        assert "450 GB/s sent " in told and "neighbour" not in told


def test_without_libtpu(small, monkeypatch, capsys):
    monkeypatch.setattr(topology, "find_spec", lambda name: None)
    topology.tpu_devices.cache_clear()
    assert main(["plan", str(small), "--topology", "v5e:2x4"]) == 1
    assert "libtpu, the TPU's compiler, is not installed" in capsys.readouterr().err
