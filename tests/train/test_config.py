"""Recipes: what is read, what is refused, and that each complaint names its place."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from simjax.errors import UsageError
from simjax.train import config as run_config
from simjax.train.config import RunConfig

MINIMAL = "output: runs/first\ntokenizer:\n  source: train\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        run_config.load(written(folder, text), overrides)
    return str(caught.value)


def test_a_file_gives_what_it_says_and_defaults_for_the_rest(tmp_path: Path) -> None:
    config = run_config.load(
        written(
            tmp_path,
            MINIMAL
            + """\
data:
  source: {format: csv, path: en/nli/triples.csv.gz, positives: [sent1], negatives: [hard_neg]}
  batch_size: 1024
optimizer: {learning_rate: 5e-5, clip_norm: null}
evaluation:
  tasks:
  - {kind: sts, path: en/stsb/dev.tsv}
  - kind: builtin
""",
        )
    )
    assert config.output == "runs/first"
    assert config.data.source.positives == ("sent1",)
    assert config.data.batch_size == 1024
    # YAML 1.1 reads 5e-5 as text.
    assert config.optimizer.learning_rate == 5e-5
    assert config.optimizer.clip_norm is None
    assert [task.kind for task in config.evaluation.tasks] == ["sts", "builtin"]
    assert config.objective == type(config.objective)()


def test_overrides_win_in_their_order(tmp_path: Path) -> None:
    config = run_config.load(
        written(tmp_path, MINIMAL + "objective: {temperature: 0.1}\nseed: 3\n"),
        [
            "--objective.temperature=0.5",
            "--objective.temperature=0.02",
            "--objective.false_negatives=none",
            "--output=2024",
            "--data.source.positives=[a, b]",
            "--data.root=/x=y",
            "--train.steps=7",
            "--optimizer.clip_norm=null",
            "--evaluation.tasks=[{kind: builtin, name: mine}]",
        ],
    )
    assert config.objective.temperature == 0.02
    assert config.objective.false_negatives == "none"
    assert config.output == "2024"
    assert config.seed == 3
    assert config.data.source.positives == ("a", "b")
    assert config.data.root == "/x=y"
    assert config.train.steps == 7
    assert config.optimizer.clip_norm is None
    assert config.evaluation.tasks[0].name == "mine"


def test_dump_is_read_back(tmp_path: Path) -> None:
    config = run_config.load(
        written(tmp_path, MINIMAL),
        ["--optimizer.eps=1e-9", "--output=true", "--evaluation.tasks=[{kind: builtin}]"],
    )
    again = run_config.load(written(tmp_path, run_config.dump(config)))
    assert again == config
    assert again.output == "true"


def test_dump_writes_every_key(tmp_path: Path) -> None:
    text = run_config.dump(run_config.load(written(tmp_path, MINIMAL)))
    assert list(yaml.safe_load(text)) == [field.name for field in dataclasses.fields(RunConfig)]
    assert yaml.safe_load(text)["model"]["encoder"]["hidden_size"] == 256


@pytest.mark.parametrize(
    ("text", "line", "names"),
    [
        ("objective:\n  temprature: 0.1\n", 5, "did you mean objective.temperature?"),
        ("temperature: 0.1\n", 4, "did you mean objective.temperature?"),
        ("qqqq: 0.1\n", 4, "the top level has output"),
        ("data:\n  source:\n    pth: x\n", 6, "did you mean data.source.path?"),
        ("evaluation:\n  tasks:\n  - kind: sts\n    pat: x\n", 7, "path"),
        ("data:\n  batch_size: many\n", 5, "data.batch_size must be a whole number, not 'many'"),
        ("data:\n  batch_size: 1.5\n", 5, "data.batch_size must be a whole number, not 1.5"),
        ("data:\n  batch_size: true\n", 5, "data.batch_size must be a whole number, not True"),
        ("data:\n  batch_size:\n", 5, "data.batch_size must be a whole number"),
        ("data:\n  batch_size: [1]\n", 5, "not a list"),
        ("data:\n  batch_size: {a: 1}\n", 5, "not a group of keys"),
        ("data: 5\n", 4, "data must hold keys"),
        ("seed: .nan\n", 4, "seed must be a whole number"),
        ("objective: {temperature: .inf}\n", 4, "objective.temperature must be a number"),
        ("objective: {loss: triplet}\n", 4, "one of infonce, flatnce, dcl, not 'triplet'"),
        ("data: {root: 5}\n", 4, "data.root must be text or null, not 5"),
        (
            "evaluation: {tasks: sts}\n",
            4,
            "evaluation.tasks must be a list of groups of keys, not 'sts'",
        ),
        ("evaluation:\n  tasks:\n  - kind: sts\n  - kind: zts\n", 7, "evaluation.tasks[1].kind"),
        ("evaluation:\n  tasks:\n  - path: x\n", 6, "evaluation.tasks[0].kind"),
        ("output: again\n", 4, "'output' is given twice"),
        ("data: &x\n  source: *x\n", 4, "contains itself"),
        ("? [a]\n: 1\n", 4, "a key must be a name"),
        ("seed: [1\n", 5, "not valid YAML"),
        ("seed: !!python/object:os.system 1\n", 4, "not a plain value"),
    ],
)
def test_faults_of_the_file_are_placed(tmp_path: Path, text: str, line: int, names: str) -> None:
    message = complaint(tmp_path, MINIMAL + text)
    assert message.startswith(f"{tmp_path / 'recipe.yaml'}:{line}: ")
    assert names in message


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("--objective.temprature=0.1", "did you mean --objective.temperature?"),
        ("--temperature=0.1", "did you mean --objective.temperature?"),
        ("--data.source.pth=x", "did you mean --data.source.path?"),
        ("--seed=x", "seed must be a whole number, not 'x'"),
        ("--seed=", "seed must be a whole number, not ''"),
        ("--seed.x=1", "seed has no keys"),
        ("--data=5", "data must hold keys"),
        ("--data={batch_size: x}", "data.batch_size must be a whole number"),
        ("--evaluation.tasks=[{kind: sts", "not valid YAML"),
        ("--objective.temperature=0", "objective.temperature"),
    ],
)
def test_faults_of_an_override_name_its_flag(tmp_path: Path, override: str, names: str) -> None:
    message = complaint(tmp_path, MINIMAL, override)
    assert message.startswith(f"{override.partition('=')[0]}: ")
    assert names in message


@pytest.mark.parametrize(
    ("text", "names"),
    [("", "'output' is missing"), ("- a\n", "expected keys"), ("seed: 1\n", "'output' is missing")],
)
def test_files_that_hold_no_run(tmp_path: Path, text: str, names: str) -> None:
    message = complaint(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'recipe.yaml'}:1: ")
    assert names in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.yaml: no such file"):
        run_config.load(tmp_path / "absent.yaml")
    with pytest.raises(UsageError, match="is a folder"):
        run_config.load(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"output: a\nmodel: caf\xe9\n")
    with pytest.raises(UsageError, match=r"latin\.yaml:2: not valid UTF-8"):
        run_config.load(path)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["--tokenizer.source=null"], ["tokenizer.source", "model.pretrained"]),
        (["--model.pretrained=x"], ["tokenizer.source is train", "model.pretrained"]),
        (
            ["--model.pretrained=x", "--tokenizer.source=null", "--model.encoder.num_layers=2"],
            ["model.encoder", "model.pretrained"],
        ),
        (["--model.dropout=1"], ["model.dropout"]),
        (["--model.dropout=0.001"], ["model.dropout"]),
        (["--tokenizer.vocab_size=3"], ["tokenizer.vocab_size"]),
        (
            ["--model.encoder.max_positions=64"],
            ["data.max_length is 128", "model.encoder.max_positions 64"],
        ),
        (["--data.views=dropout", "--model.dropout=0"], ["data.views", "model.dropout"]),
        (
            [
                "--data.views=dropout",
                "--model.encoder.hidden_dropout=0",
                "--model.encoder.attention_dropout=0",
            ],
            ["data.views", "model.dropout"],
        ),
        (["--objective.false_negatives=label"], ["data.source.label"]),
        (["--train.epochs=0"], ["train.epochs"]),
        (["--train.steps=0"], ["train.steps"]),
        (["--train.log_every=0"], ["train.log_every"]),
        (["--checkpoint.keep=1"], ["checkpoint.keep", "at least 2"]),
        (["--train.micro_batch=96"], ["train.micro_batch", "data.block_size"]),
        (["--train.micro_batch=0"], ["train.micro_batch", "data.block_size"]),
        (["--train.micro_batch=1024"], ["train.micro_batch", "data.batch_size"]),
        (["--evaluation.metric=stsb-dev/spearman"], ["evaluation.metric", "evaluation.tasks"]),
        (["--train.ema=1"], ["train.ema"]),
        (
            ["--train.ema=0.9", "--optimizer.name=schedule_free_adamw"],
            ["train.ema", "schedule_free_adamw"],
        ),
        (
            ["--train.evaluate=newest", "--optimizer.name=schedule_free_adamw"],
            ["train.evaluate", "schedule_free_adamw"],
        ),
        (["--train.patience=2"], ["train.patience", "evaluation.metric is null"]),
        (
            [
                "--train.patience=2",
                "--evaluation.metric=x/spearman",
                "--evaluation.tasks=[{kind: builtin}]",
            ],
            ["train.patience", "evaluation.every is 0"],
        ),
        (["--train.patience=0"], ["train.patience"]),
        (["--train.min_change=-1"], ["train.min_change"]),
        (["--train.profile=[3]"], ["train.profile is [3]"]),
        (["--train.profile=[]"], ["train.profile is []"]),
        (["--train.profile=[0, 3]"], ["train.profile is [0, 3]"]),
        (["--train.profile=[4, 3]"], ["train.profile is [4, 3]"]),
        # These are the parts' own, and are placed like the others.
        (["--data.batch_size=500", "--data.block_size=64"], ["data.batch_size", "data.block_size"]),
        (["--data.row_length=64"], ["data.row_length", "data.max_length"]),
        (
            ["--objective.loss=dcl", "--objective.learnable_temperature=true"],
            ["objective.learnable_temperature"],
        ),
        (["--objective.temperature=0.001"], ["objective.temperature", "objective.max_scale"]),
        (["--model.encoder.num_heads=3"], ["encoder.num_heads"]),
    ],
)
def test_values_at_odds_are_refused(tmp_path: Path, overrides: list[str], names: list[str]) -> None:
    message = complaint(tmp_path, MINIMAL, *overrides)
    assert all(name in message for name in names)
    assert message.startswith((f"{tmp_path / 'recipe.yaml'}:", "--"))


MIXTURE = """\
data:
  mixing: mixed
  sources:
  - path: nli.parquet
    weight: 2
    anchor: premise
    positives: [entailed]
    anchor_prefix: "query: "
  - format: tfds
    path: glue/mrpc
    split: train[:50%]
    weight: 0.5
"""


def test_sources_of_a_mixture(tmp_path: Path) -> None:
    config = run_config.load(written(tmp_path, MINIMAL + MIXTURE))
    first, second = config.data.all_sources
    assert (first.path, first.weight, first.positives) == ("nli.parquet", 2.0, ("entailed",))
    assert first.anchor_prefix == "query: "
    assert (second.format, second.split, second.weight) == ("tfds", "train[:50%]", 0.5)
    again = tmp_path / "again.yaml"
    again.write_text(run_config.dump(config))
    assert run_config.load(again) == config
    overridden = run_config.load(again, ["--data.sources=[{path: a.csv}, {path: b.csv}]"])
    assert [source.path for source in overridden.data.all_sources] == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("before", "after", "line", "names"),
    [
        ("weight: 2", "weight: -2", 7, "a source's weight is -2.0"),
        ("weight: 2", "split: test", 7, "a source's split is 'test' and its format auto"),
        ("weight: 2", "wieght: 2", 8, "no such key 'data.sources[0].wieght'; did you mean"),
        ("    weight: 0.5\n", "", 5, "data.sources[1].weight is missing"),
        ("  mixing: mixed", "  source: {path: a.csv}", 7, "data.sources is given and data.source"),
        ("  mixing: mixed", "  mixing: shuffled", 5, "one of one_source, mixed, not 'shuffled'"),
    ],
)
def test_faults_of_a_mixture_are_placed(
    tmp_path: Path, before: str, after: str, line: int, names: str
) -> None:
    assert before in MIXTURE
    message = complaint(tmp_path, MINIMAL + MIXTURE.replace(before, after))
    assert names in message
    assert message.startswith(f"{tmp_path / 'recipe.yaml'}:{line}: ")


def test_dropout_views_need_only_one_rate_above_zero(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "data: {views: dropout}\n")
    run_config.load(path, ["--model.encoder.hidden_dropout=0"])
    # A pretrained encoder brings rates of its own.
    run_config.load(path, ["--model.pretrained=x", "--tokenizer.source=null"])


def test_recipes_of_the_repository_are_valid() -> None:
    recipes = sorted((Path(__file__).parents[2] / "configs").glob("**/*.yaml"))
    assert recipes, "no recipe in configs/"
    for recipe in recipes:
        run_config.load(recipe)
