"""Frozen dataclasses from a YAML file and command-line overrides.

Every complaint names the key and where it was written: ``file:line`` or the override's flag.
jsonargparse decides what a value of each type may look like.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from simjax.errors import SimjaxError, UsageError
from simjax.train.recipe_keys import (
    dataclasses_in,
    describe,
    is_tuple,
    keys_of,
    members,
    plain,
    suggest,
    tags,
)
from simjax.train.yaml_nodes import compose

T = TypeVar("T")


@dataclass(frozen=True)
class _Leaf:
    """A scalar. On the command line `value` is the text as typed, whatever it looks like."""

    value: Any
    where: str
    typed: bool = False


@dataclass(frozen=True)
class _Items:
    items: list[_Node]
    where: str


@dataclass(frozen=True)
class _Section:
    fields: dict[str, _Node]
    where: str


_Node = _Leaf | _Items | _Section


def read(cls: type[T], path: Path, overrides: Sequence[str] = ()) -> tuple[T, Located]:
    """Read a dataclass from a YAML file.

    Args:
        cls: The dataclass; its fields may be dataclasses and tuples of dataclasses again.
        path: The file. Keys that it leaves out keep their defaults.
        overrides: Each `--dotted.key=VALUE`; later ones win.

    Returns:
        The value, and what adds positions to later complaints about it.

    Raises:
        UsageError: Unreadable file, malformed YAML, an unknown, repeated or missing key, a value
            of the wrong type or refused by a dataclass.
    """
    root = _read_file(path)
    for override in overrides:
        _apply(root, cls, override)
    located = Located(dict(_positions(root, "")))
    return _build(cls, root, "", cls, located), located


@dataclass(frozen=True)
class Located:
    """Where keys were written, to complete complaints that start with a key."""

    positions: dict[str, str]

    def complete(self, error: SimjaxError, default: str | None = None) -> UsageError:
        """The same complaint, led by where the first key that it names was written."""
        message = str(error)
        for word in message.split():
            where = self._find(word.strip(":,;'\"()"))
            if where is not None:
                return UsageError(f"{where}: {message}")
        return UsageError(message if default is None else f"{default}: {message}")

    def _find(self, word: str) -> str | None:
        """Parts name their keys from their own section on: `encoder.num_heads`."""
        if word in self.positions:
            return self.positions[word]
        found = [key for key in self.positions if "." in word and key.endswith(f".{word}")]
        return self.positions[found[0]] if len(found) == 1 else None


def _read_file(path: Path) -> _Section:
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give a YAML file")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}: not valid UTF-8; convert the file to UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        node = compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UsageError(f"{where}: not valid YAML ({error.problem or error.context})") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML ({error})") from None
    if node is None:
        return _Section({}, f"{path}:1")
    root = _convert_node(node, str(path), ())
    if not isinstance(root, _Section):
        raise UsageError(f"{root.where}: expected keys with values, such as `output: runs/first`")
    return root


def _convert_node(node: yaml.Node, source: str, parents: tuple[int, ...]) -> _Node:
    where = f"{source}:{node.start_mark.line + 1}"
    if id(node) in parents:
        raise UsageError(f"{where}: an alias that contains itself")
    parents = (*parents, id(node))
    if isinstance(node, yaml.SequenceNode):
        return _Items([_convert_node(item, source, parents) for item in node.value], where)
    if isinstance(node, yaml.MappingNode):
        fields: dict[str, _Node] = {}
        for key, value in node.value:
            line = f"{source}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"{line}: a key must be a name")
            if key.value in fields:
                raise UsageError(f"{line}: the key {key.value!r} is given twice; remove one")
            fields[key.value] = _convert_node(value, source, parents)
        return _Section(fields, where)
    loader: Any = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node, deep=True)
        str(value).encode()  # an escape in quotes may be half of a surrogate pair
        return _Leaf(value, where)
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or error
        raise UsageError(f"{where}: not a plain value ({problem})") from None


def _apply(root: _Section, cls: type, override: str) -> None:
    """Put one override into the tree."""
    flag, _, text = override.partition("=")
    parts = flag.removeprefix("--").split(".")
    hint: Any = cls
    fields = root.fields
    for depth, part in enumerate(parts):
        sections = dataclasses_in(hint)
        if not sections:
            raise UsageError(
                f"{flag}: {'.'.join(parts[:depth])} has no keys that can be given one by one; "
                "give its whole value as YAML"
            )
        # Which of several dataclasses it is may be said by a later override.
        hints = keys_of(sections)
        if part not in hints:
            raise UsageError(f"{flag}: no such key; {suggest(parts, depth, sections, cls, '--')}")
        hint = hints[part]
        if depth + 1 < len(parts):
            inner = fields.get(part)
            if not isinstance(inner, _Section):
                inner = fields[part] = _Section({}, flag)
            fields = inner.fields
    fields[parts[-1]] = _override_value(text, hint, flag)


def _override_value(text: str, hint: Any, flag: str) -> _Node:
    nested = dataclasses_in(hint) or any(is_tuple(part) for part in members(hint))
    if not nested:
        return _Leaf(text, flag, typed=True)
    try:
        node = compose(text)
    except yaml.YAMLError:
        raise UsageError(f"{flag}: {text[:60]!r} is not valid YAML") from None
    if node is None:
        return _Leaf(None, flag)
    return _move(_convert_node(node, flag, ()), flag)


def _move(node: _Node, where: str) -> _Node:
    if isinstance(node, _Section):
        return _Section({key: _move(value, where) for key, value in node.fields.items()}, where)
    if isinstance(node, _Items):
        return _Items([_move(item, where) for item in node.items], where)
    return _Leaf(node.value, where)


def _positions(node: _Node, key: str) -> Iterator[tuple[str, str]]:
    if key:
        yield key, node.where
    if isinstance(node, _Section):
        for name, value in node.fields.items():
            yield from _positions(value, f"{key}.{name}" if key else name)
    elif isinstance(node, _Items):
        for index, item in enumerate(node.items):
            yield from _positions(item, f"{key}[{index}]")


def _build(cls: type[T], section: _Section, key: str, top: type, located: Located) -> T:
    """Make a dataclass of a section whose own key is `key`."""
    hints = typing.get_type_hints(cls)
    path = key.split(".") if key else []
    for name, node in section.fields.items():
        if name not in hints:
            parts = [*path, name]
            raise UsageError(
                f"{node.where}: no such key {'.'.join(parts)!r}; "
                f"{suggest(parts, len(path), (cls,), top, '')}"
            )
    values: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, cls)):
        name = ".".join([*path, field.name])
        if field.name in section.fields:
            node = section.fields[field.name]
            values[field.name] = _value(hints[field.name], node, name, top, located)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{section.where}: the key {name!r} is missing; add it")
    try:
        return cls(**values)
    except SimjaxError as error:
        raise located.complete(error, section.where) from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{section.where}: {key or 'the configuration'}: {error}") from error


def _value(hint: Any, node: _Node, key: str, top: type, located: Located) -> Any:
    sections = dataclasses_in(hint)
    if _is_null(node):
        if type(None) in members(hint):
            return None
        raise UsageError(f"{node.where}: {key} must be {describe(hint)}, and is empty (null)")
    if sections:
        if isinstance(node, _Section):
            return _build(_chosen(sections, node, key), node, key, top, located)
        names = ", ".join(keys_of(sections))
        raise UsageError(f"{node.where}: {key} must hold keys (of {names}), not a single value")
    for member in members(hint):
        if not is_tuple(member) or not isinstance(node, _Items):
            continue
        item_hint = typing.get_args(member)[0]
        return tuple(
            _value(item_hint, item, f"{key}[{index}]", top, located)
            for index, item in enumerate(node.items)
        )
    if not isinstance(node, _Leaf):
        kind = "a list" if isinstance(node, _Items) else "a group of keys"
        raise UsageError(f"{node.where}: {key} must be {describe(hint)}, not {kind}")
    return _convert(hint, node, key)


def _chosen(sections: tuple[type, ...], node: _Section, key: str) -> type:
    """The one of several dataclasses that a section names, or the first of them.

    They are told apart by a key that holds one word in each.
    """
    if len(sections) == 1:
        return sections[0]
    tag, words = tags(sections)
    chosen = sections[0]
    if tag in node.fields:
        word = node.fields[tag]
        if not isinstance(word, _Leaf) or word.value not in words:
            said = word.value if isinstance(word, _Leaf) else "keys"
            raise UsageError(
                f"{word.where}: {key}.{tag} must be one of {', '.join(words)}, not {said!r}"
            )
        chosen = sections[words.index(word.value)]
    held = {word: typing.get_type_hints(cls) for word, cls in zip(words, sections, strict=True)}
    for name, inner in node.fields.items():
        owners = [word for word in words if name in held[word]]
        if owners and name not in typing.get_type_hints(chosen):
            raise UsageError(
                f"{inner.where}: {key}.{name} is a key of {', '.join(owners)}, and {key}.{tag} is "
                f"{words[sections.index(chosen)]}; remove it, or choose another {tag}"
            )
    return chosen


def _is_null(node: _Node) -> bool:
    if not isinstance(node, _Leaf):
        return False
    return node.value is None or (node.typed and node.value in ("null", "~"))


def _convert(hint: Any, leaf: _Leaf, key: str) -> Any:
    """A scalar of the type that is asked for."""
    import jsonargparse

    value = leaf.value
    complaint = UsageError(f"{leaf.where}: {key} must be {describe(hint)}, not {value!r}")
    if any(is_tuple(member) for member in members(hint)):
        raise complaint
    if isinstance(value, str) and set(members(hint)) <= {str, type(None)}:
        return value  # jsonargparse would take the text 'null' for nothing
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        converted = parser.parse_object({"value": value}, defaults=False)["value"]
    except (jsonargparse.ArgumentError, TypeError, ValueError, OverflowError):
        raise complaint from None
    if converted is None or (isinstance(converted, float) and not math.isfinite(converted)):
        raise complaint
    return converted


def to_yaml(value: Any) -> str:
    """A dataclass as YAML text that `read` takes."""
    return yaml.dump(
        plain(dataclasses.asdict(value)),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )


class _Dumper(yaml.SafeDumper):
    """Escapes what YAML takes for the end of a line and folds into a blank."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if any(end in text for end in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
