"""YAML texts as nodes, of a size and depth that a recipe may have."""

from __future__ import annotations

import yaml

MOST_VALUES = 100_000
"""A recipe has hundreds. Aliases of aliases make millions of a few lines."""


def compose(text: str) -> yaml.Node | None:
    """The nodes of a YAML text; None where it holds none.

    Raises:
        yaml.YAMLError: It is malformed, nested too deeply, or its aliases multiply.
    """
    try:
        node: yaml.Node | None = yaml.compose(text, yaml.SafeLoader)
        if node is not None and _size(node, {}) > MOST_VALUES:
            mark = node.start_mark
            raise yaml.MarkedYAMLError(
                problem=f"more than {MOST_VALUES:,} values, by its aliases", problem_mark=mark
            )
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        mark = yaml.Mark("", error.position, line, 0, None, 0)
        raise yaml.MarkedYAMLError(
            problem=f"the character #x{error.character:02x} is not allowed", problem_mark=mark
        ) from None
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    return node


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """The values of a node, those behind aliases counted each time; 0 for those it lies in."""
    if id(node) not in known:
        known[id(node)] = 0
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]
