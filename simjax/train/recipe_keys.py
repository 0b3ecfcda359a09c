"""The keys of a recipe: what the fields of its dataclasses may hold, and how to say so.

A field may hold one of several dataclasses. A key that each of them has, with one word of its own
(`name: Literal["adamw"]`), tells which.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal


def members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; any other type by itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def is_tuple(hint: Any) -> bool:
    """Whether a field holds a list."""
    return typing.get_origin(hint) is tuple


def dataclasses_in(hint: Any) -> tuple[type, ...]:
    """The dataclasses that a field may hold, perhaps besides None; none for plain values."""
    found = (member for member in members(hint) if isinstance(member, type))
    return tuple(member for member in found if dataclasses.is_dataclass(member))


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_PLURAL = {int: "whole numbers", float: "numbers", str: "texts"}


def describe(hint: Any) -> str:
    """What a field may hold, for a complaint: `a number or null`."""
    words: list[str] = []
    literals = [m for m in members(hint) if typing.get_origin(m) is Literal]
    options = list(dict.fromkeys(str(word) for m in literals for word in typing.get_args(m)))
    if options:
        words.append(options[0] if len(options) == 1 else f"one of {', '.join(options)}")
    for member in members(hint):
        if member in literals:
            continue
        if is_tuple(member):
            item = typing.get_args(member)[0]
            words.append(f"a list of {_several(item)}")
        elif member is type(None):
            words.append("null")
        else:
            words.append(_NAMES.get(member, "a group of keys"))
    return " or ".join(words)


def _several(hint: Any) -> str:
    if is_tuple(hint):
        return f"lists of {_several(typing.get_args(hint)[0])}"
    return _PLURAL.get(hint, "groups of keys" if dataclasses_in(hint) else f"{describe(hint)} each")


def suggest(
    parts: list[str], depth: int, sections: tuple[type, ...], top: type, prefix: str
) -> str:
    """What to write instead of the unknown key `parts[depth]` of a section."""
    siblings = list(keys_of(sections))
    parents = parts[:depth]
    near = difflib.get_close_matches(parts[depth], siblings, n=1, cutoff=0.6)
    if near:
        return f"did you mean {prefix}{'.'.join([*parents, near[0]])}?"
    everything = list(_all_keys(top, ""))
    ends = {name.rsplit(".", 1)[-1]: name for name in reversed(everything)}
    near = difflib.get_close_matches(parts[-1], list(ends), n=1, cutoff=0.75)
    if near:
        return f"did you mean {prefix}{ends[near[0]]}?"
    return f"{'.'.join(parents) or 'the top level'} has {', '.join(siblings)}"


def _all_keys(hint: Any, prefix: str) -> Iterator[str]:
    for name, inner in keys_of(dataclasses_in(hint)).items():
        yield prefix + name
        yield from _all_keys(inner, f"{prefix}{name}.")


def keys(
    hint: Any, prefix: str = "", told: dict[tuple[type, ...], str] | None = None
) -> Iterator[tuple[str, str, str]]:
    """Every key of a dataclass: its dotted name, what it may be, and its default.

    Behind a key that may hold a group or null, or a list of groups, follow the keys of these, as
    those of `key` or of item `key[n]`; where such groups have been told of before, where that was.

    Of several dataclasses that a key may hold, the keys of all: those whose defaults differ, and
    those that not all of them have, with the word that each default belongs to.
    """
    sections, told = dataclasses_in(hint), {} if told is None else told
    for name, inner in keys_of(sections).items():
        key = f"{prefix}{name}"
        items = dataclasses_in(typing.get_args(inner)[0]) if is_tuple(inner) else ()
        groups = items or dataclasses_in(inner)
        if type(None) in members(inner) or not groups or items:
            before = told.get(groups) if groups else None
            allowed = describe(inner) + (f", as {before}" if before else "")
            yield key, allowed, _defaults(sections, name)
            if before or not groups:
                continue
        told[groups] = key
        yield from keys(typing.Union[groups], f"{key}{'[n]' * bool(items)}.", told)  # noqa: UP007


def _defaults(sections: tuple[type, ...], name: str) -> str:
    told: dict[str, list[str]] = {}
    words = tags(sections)[1] if len(sections) > 1 else [""]
    if len(sections) > 1 and name == tags(sections)[0]:
        return json.dumps(words[0])
    for word, cls in zip(words, sections, strict=True):
        for field in dataclasses.fields(typing.cast(Any, cls)):
            if field.name == name:
                told.setdefault(_default(field), []).append(word)
    if len(told) == 1 and len(next(iter(told.values()))) == len(sections):
        return next(iter(told))
    return "; ".join(f"{default} for {', '.join(who)}" for default, who in told.items())


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if value is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return "needed" if value is dataclasses.MISSING else json.dumps(plain(value))


def tags(sections: tuple[type, ...]) -> tuple[str, list[str]]:
    """The key that tells dataclasses apart, and what it holds in each."""
    hints = [typing.get_type_hints(cls) for cls in sections]
    for name in hints[0]:
        words = [typing.get_args(each.get(name)) for each in hints]
        if all(len(word) == 1 for word in words) and len({*words}) == len(words):
            return name, [word[0] for word in words]
    raise TypeError(f"{sections}: no key tells these dataclasses apart")


def keys_of(sections: tuple[type, ...]) -> dict[str, Any]:
    """What the keys of one of these dataclasses may hold; a key of several, any of it."""
    merged: dict[str, Any] = {}
    for cls in sections:
        for name, hint in typing.get_type_hints(cls).items():
            merged[name] = merged[name] | hint if name in merged else hint
    return merged


def plain(value: Any) -> Any:
    """A value as YAML and JSON hold it: tuples are lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
