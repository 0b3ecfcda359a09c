"""Runs whose views are changed: what is refused, what they are known by, and resuming one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from simjax import mesh as meshes
from simjax.cli.main import main
from simjax.data import corpus
from simjax.data.augment import FeatureCutoff, Mask, Shuffle, Synonyms, TokenCutoff
from simjax.data.pipeline import BatchSource
from simjax.data.views import make_augmenter
from simjax.errors import UsageError
from simjax.train import config as run_config
from simjax.train import loop
from simjax.train.config import RunConfig
from simjax.train.setup import Run, load_run_tokenizer, set_up
from simjax.train.system import cutoffs_of
from tests.train.tiny_run import (
    STOPPED,
    TOTAL,
    WORDS,
    StopAfter,
    assert_same_bits,
    config_for,
    figures,
    recipe,
    state_at,
    train,
)

RECIPE = """\
output: runs/first
tokenizer: {source: train}
model: {dropout: 0}
data:
  views: dropout
  augment:
  - kind: delete
    rate: 0.2
    views: all
  - {kind: token_cutoff}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_views_that_are_changed_need_no_dropout(tmp_path: Path) -> None:
    config = run_config.load(written(tmp_path, RECIPE))
    assert [change.kind for change in config.data.augment] == ["delete", "token_cutoff"]
    assert run_config.load(written(tmp_path, run_config.dump(config))) == config
    with pytest.raises(UsageError, match="views of a text would be equal"):
        run_config.load(tmp_path / "recipe.yaml", ["--data.augment=[]"])
    # Who says so gets equal ones.
    run_config.load(tmp_path / "recipe.yaml", ["--data.augment=[]", "--data.dropout_masks=none"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate: 0.2", "rate: 2", r":7: rate of a delete view is 2"),
        ("rate: 0.2", "unit: word", r":8: data.augment\[0\].unit is a key of repeat, mask, shuf"),
        ("kind: delete", "kind: erase", r":7: data.augment\[0\].kind must be one of crop, delete"),
        ("kind: delete", "kind: synonyms", r":7: the key 'data.augment\[0\].path' is missing"),
        ("views: all", "views: some", r":9: data.augment\[0\].views must be one of positives, all"),
    ],
)
def test_faulty_views_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_config.load(written(tmp_path, RECIPE.replace(old, new)))


def test_the_help_names_the_keys_of_views(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "data.augment[n].kind: one of crop, delete, repeat, synonyms, mask, shuffle, " in str(
        lines
    )
    assert any(
        line.startswith("data.augment[n].path: text (needed for synonyms)") for line in lines
    )


def test_what_the_encoder_cuts_follows_from_the_recipe() -> None:
    changes = (Shuffle(), FeatureCutoff(rate=0.3), TokenCutoff(views="all"))
    features, tokens = cutoffs_of(changes, 3, 1)
    assert (features.of, features.rate, features.views) == ("features", 0.3, (False, True, False))
    assert (tokens.of, tokens.rate, tokens.views) == ("tokens", 0.15, (True, True, True))


def changed(config: RunConfig, **options: Any) -> RunConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **options))


CHANGES = (
    Shuffle(views="all"),
    Mask(rate=0.3),
    FeatureCutoff(rate=0.25),
    TokenCutoff(rate=0.3, views="anchor"),
)


def identity(config: RunConfig) -> dict[str, Any]:
    """What a run is known by, of its data; the parts that do not count are left out."""
    tokenizer = load_run_tokenizer(config)
    store = corpus.prepare(config.data, tokenizer)
    augmenter = make_augmenter(config.data, tokenizer)
    source = BatchSource(store, config.data, augmenter=augmenter)
    parts: Any = (None, source, None, None, None, None, None)
    return Run(config, *parts, total_steps=1).identity["data"]


def test_a_run_is_known_by_its_views(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.tsv"
    table.write_text(f"{WORDS[0]}\t{WORDS[1]}\n")
    plain = config_for(data, tmp_path / "run")
    own = identity(plain)
    assert not {"augment", "synonyms", "dropout_masks"} & own.keys()

    def known(*augment: Any, **options: Any) -> dict[str, Any]:
        return identity(changed(plain, augment=augment, **options))

    one = known(Synonyms(path=str(table)), dropout_masks="shared")
    other_place = tmp_path / "other.tsv"
    other_place.write_bytes(table.read_bytes())
    assert known(Synonyms(path=str(other_place)), dropout_masks="shared") == one
    table.write_text(f"{WORDS[0]}\t{WORDS[2]}\n")
    assert known(Synonyms(path=str(table)), dropout_masks="shared") != one
    assert known(Synonyms(path=str(other_place), rate=0.2), dropout_masks="shared") != one
    assert known(Synonyms(path=str(other_place))) != one


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(name: str) -> RunConfig:
        return changed(
            recipe(data, tmp_path / name),
            **{"views": "dropout", "augment": CHANGES, "dropout_masks": "shared"},
        )

    assert train(config("whole"))["steps"] == TOTAL
    with monkeypatch.context() as patched:
        patched.setattr(loop, "StopRequest", StopAfter)
        assert train(config("stopped"))["steps"] == STOPPED
    assert train(config("stopped"))["steps"] == TOTAL
    assert_same_bits(state_at(config("stopped")), state_at(config("whole")))
    assert figures(tmp_path / "stopped") == figures(tmp_path / "whole")


@pytest.mark.slow
def test_without_dropout_or_with_one_mask_the_views_are_equal(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path / "x")
    for masks in ("own", "shared", "none"):
        run = set_up(changed(config, views="dropout", dropout_masks=masks))
        batch = jax.device_put(run.source[0].batch, meshes.batch_sharding(run.mesh))
        _, metrics = run.step(run.init_state(), batch)
        alike = float(metrics["alignment"]) < 1e-6
        assert alike == (masks != "own"), masks
        assert np.isfinite(float(metrics["loss"]))
