"""The reader of recipes, held to what must be true of any recipe."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal

import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simjax.data.augment import Synonyms
from simjax.errors import SimjaxError, UsageError
from simjax.eval.tasks import Task
from simjax.objectives.config import DistillationConfig, MatryoshkaConfig
from simjax.train import config as run_config
from simjax.train.config import RunConfig, TokenizerConfig

on_files = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
    deadline=None,
    max_examples=settings.default.max_examples // 2,
)
RECIPE = """\
output: run
tokenizer: {source: train}
data:
  source:
    positives: [a, b]
train:
  steps: 3
"""
GOOD = RunConfig(output="run", tokenizer=TokenizerConfig("train"))

# What YAML reads as something else than text, or cannot hold without an escape.
hostile = st.sampled_from(
    ["null", "~", "yes", "1", "1e5", ".nan", "0x1f", "a: b", "# a", "- a", "", " ", "'", '"', "\\",
     "2024-01-01", "!!int 1", "&a", "*a", "{", "[", "\x00", "\x85", "\u2028", "\ufeff", "=", "<<"]
)  # fmt: skip
words = hostile | st.text(st.characters(codec="utf-8"), max_size=12)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values(part) for part in parts])
    if origin is Literal:
        return st.sampled_from(parts)
    if origin is tuple:
        return st.lists(values(parts[0]), max_size=2).map(tuple)
    if dataclasses.is_dataclass(hint) and hint is not Task:
        inner = {name: values(part) for name, part in typing.get_type_hints(hint).items()}
        return st.fixed_dictionaries({}, optional=inner).map(lambda given: valid(hint, given))
    return {
        int: st.integers(-2, 600) | st.integers(),
        float: st.floats(0, 1) | st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        str: words,
        type(None): st.none(),
        Task: st.builds(Task, st.sampled_from(["sts", "builtin"]), words, words),
    }[hint]


# Of what has no default that is right.
SOME = {
    MatryoshkaConfig: MatryoshkaConfig((4, 2)),
    DistillationConfig: DistillationConfig(teacher="some"),
    Synonyms: Synonyms(path="some"),
}


def valid(cls: Any, given: dict[str, Any]) -> Any:
    try:
        return cls(**given)
    except (TypeError, UsageError):
        return SOME[cls] if cls in SOME else cls()


def fields(cls: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for name, hint in typing.get_type_hints(cls).items():
        inner = hint if dataclasses.is_dataclass(hint) else None
        found |= fields(inner, (*prefix, name)) if inner else {(*prefix, name): hint}
    return found


FIELDS = fields(RunConfig)


def changed(config: Any, path: tuple[str, ...], value: Any) -> Any:
    first, *rest = path
    inner = changed(getattr(config, first), tuple(rest), value) if rest else value
    return dataclasses.replace(config, **{first: inner})


@settings(on_files, max_examples=settings.default.max_examples // 5)
@given(st.data())
def test_what_is_dumped_is_read_back(tmp_path: Path, data: st.DataObject) -> None:
    config = GOOD
    for path in data.draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=5)):
        value = data.draw(values(FIELDS[path]))
        try:
            candidate = changed(config, path, value)
            run_config.validate(candidate)
        except UsageError:
            continue
        config = candidate
    file = tmp_path / "recipe.yaml"
    file.write_text(run_config.dump(config), encoding="utf-8")
    assert run_config.load(file) == config


def refused_or_read(file: Path, overrides: tuple[str, ...] = ()) -> None:
    """The only errors are those that a user can mend."""
    try:
        config = run_config.load(file, overrides)
    except SimjaxError as error:
        assert str(error)
    else:
        assert isinstance(config, RunConfig)


@on_files
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="ignore")))
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    refused_or_read(file)


@on_files
@given(st.data())
def test_a_recipe_with_a_few_other_characters_is_read_or_refused(
    tmp_path: Path, data: st.DataObject
) -> None:
    text = RECIPE
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        new = data.draw(hostile | st.sampled_from([":", "\n", "\t", "  ", ",", "]", "}", "?", "|"]))
        text = text[:start] + new + text[start + data.draw(st.integers(0, 3)) :]
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8", errors="replace")
    refused_or_read(file)


plain = st.none() | st.booleans() | st.integers() | st.floats() | words | st.dates()
trees = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3)
)


@on_files
@given(st.sampled_from(sorted(FIELDS)), trees)
def test_any_value_at_any_key_is_read_or_refused(
    tmp_path: Path, path: tuple[str, ...], value: object
) -> None:
    tree: Any = {"output": "run", "tokenizer": {"source": "train"}}
    inner = tree
    for part in path[:-1]:
        inner = inner.setdefault(part, {})
    inner[path[-1]] = value
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    refused_or_read(file)


@on_files
@given(st.sampled_from(sorted(FIELDS)), words | st.text(max_size=12), st.integers(0, 3))
def test_any_override_is_read_or_refused(
    tmp_path: Path, path: tuple[str, ...], value: str, kept: int
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    key = ".".join(path[: kept or None])
    refused_or_read(file, (f"--{key}={value}",))
    assume(value)
    refused_or_read(file, (f"--{key}{value}=1", f"--{value}"))


def test_every_key_of_a_recipe_can_be_changed_here() -> None:
    assert len(FIELDS) > 50
    for hint in FIELDS.values():
        values(hint)


def test_the_long_run_is_long() -> None:
    assert settings.get_profile("fuzz").max_examples >= 1000
