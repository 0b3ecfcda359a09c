"""How commands part overrides from their own options, and what `simjax train` prints."""

from pathlib import Path

import pytest
import yaml

from simjax.cli import lab
from simjax.cli.train import split
from simjax.errors import UsageError

RECIPE = "output: runs/first\ntokenizer: {source: train}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("argv", "known", "overrides"),
    [
        (["train", "x.yaml"], ["train", "x.yaml"], []),
        (["train", "--a.b", "1", "x.yaml"], ["train", "x.yaml"], ["--a.b=1"]),
        (["train", "x.yaml", "--a.b=1=2"], ["train", "x.yaml"], ["--a.b=1=2"]),
        (["train", "x.yaml", "--a.b", "-1"], ["train", "x.yaml"], ["--a.b=-1"]),
        (["train", "x.yaml", "--a.b", "--c"], ["train", "x.yaml"], ["--a.b=--c"]),
        (
            ["train", "--print_config", "x.yaml", "--seed", "3", "--traceback"],
            ["train", "--print_config", "x.yaml", "--traceback"],
            ["--seed=3"],
        ),
        (["train", "x.yaml", "--json", "f"], ["train", "x.yaml", "--json", "f"], []),
        (["train", "x.yaml", "--json=f"], ["train", "x.yaml", "--json=f"], []),
        (["train", "x.yaml", "--json"], ["train", "x.yaml", "--json"], []),
        (
            ["train", "x.yaml", "--process_id", "1", "--seed", "2", "--distributed=no"],
            ["train", "x.yaml", "--process_id", "1", "--distributed=no"],
            ["--seed=2"],
        ),
        (["train", "x.yaml", "-h"], ["train", "x.yaml", "-h"], []),
    ],
)
def test_split(argv, known, overrides) -> None:
    assert split(argv) == (known, overrides)


@pytest.mark.parametrize(
    ("argv", "known", "overrides"),
    [
        (
            ["lab", "scaling", "x.yaml", "--a.b", "-1", "--seeds", "0", "1", "--c.d=2"],
            ["lab", "scaling", "x.yaml", "--seeds", "0", "1"],
            ["--a.b=-1", "--c.d=2"],
        ),
        # A dot in a value makes no override of its option.
        (
            ["lab", "scaling", "--output=runs/v1.5", "--root", "./data"],
            ["lab", "scaling", "--output=runs/v1.5", "--root", "./data"],
            [],
        ),
        # An option of a benchmark, which takes no recipe.
        (
            ["lab", "bench", "encode", "--data.root", "scaling"],
            ["lab", "bench", "encode", "--data.root", "scaling"],
            [],
        ),
    ],
)
def test_split_of_studies(argv, known, overrides) -> None:
    assert lab.split(argv) == (known, overrides)


def test_an_override_needs_a_value() -> None:
    for parted, command in ((split, ["train"]), (lab.split, ["lab", "scaling"])):
        with pytest.raises(UsageError, match=r"--a\.b: give it a value"):
            parted([*command, "x.yaml", "--a.b"])


def test_print_config_prints_what_would_be_run(simjax, recipe: Path) -> None:
    status, out, err = simjax("train", recipe, "--objective.temperature", "0.02", "--print_config")
    assert (status, err) == (0, "")
    printed = yaml.safe_load(out)
    assert printed["objective"]["temperature"] == 0.02
    assert printed["output"] == "runs/first"
    recipe.write_text(out, encoding="utf-8")
    assert simjax("train", recipe, "--print_config").out == out


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--objective.temprature", "1"], "did you mean --objective.temperature?"),
        (["--print_confg", "x"], "--print_confg: no such key"),
        (["--train.micro_batch", "100"], "train.micro_batch"),
        (["--process_id", "1"], "--coordinator, --num_processes missing"),
        (
            ["--num_processes=0", "--process_id=0", "--coordinator=here:1"],
            "--num_processes is 0: give at least 1",
        ),
        (["--data.batch_size", "12.5"], "--data.batch_size: data.batch_size must be"),
    ],
)
def test_wrong_overrides_are_wrong_calls(simjax, recipe: Path, arguments, names) -> None:
    status, out, err = simjax("train", recipe, *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and names in err


def test_a_missing_recipe(simjax, tmp_path: Path) -> None:
    status, _, err = simjax("train", tmp_path / "x.yaml")
    assert (status, err) == (2, f"simjax: {tmp_path / 'x.yaml'}: no such file\n")
