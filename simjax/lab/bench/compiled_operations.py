"""Operations of the matrix products of a compiled program, read off its text, loops as they turn.

XLA's own count takes the body of a loop once, however often it turns.
"""

from __future__ import annotations

import math
import re
from typing import Any

from simjax.plan.collectives import computations_run

_SHAPED = re.compile(r"^\s*(?:ROOT )?(%\S+) = \w+\[([\d,]*)\]")
_DOT = re.compile(r" dot\((?:\w+\[[\d,]*\]\S* )?(%[^,\s)]+), .*lhs_contracting_dims=\{([\d,]*)\}")


def product_operations(program: Any) -> int:
    """Two for each multiplication of matrices' elements, of one device in one run.

    Args:
        program: Compiled; its text has matrix products as `dot`, as that for CPUs does.

    Raises:
        ValueError: there is no product in it.
    """
    total = 0
    for body, turns, _ in computations_run(program.as_text()):
        lines = body.splitlines()
        found = (match for line in lines if (match := _SHAPED.match(line)))
        shapes = {match[1]: _sizes(match[2]) for match in found}
        for line in lines:
            product, result = _DOT.search(line), _SHAPED.match(line)
            if product is not None and result is not None:
                left = shapes[product[1]]
                inner = math.prod(left[axis] for axis in _sizes(product[2]))
                total += 2 * turns * inner * math.prod(_sizes(result[2]))
    if not total:
        raise ValueError("the compiled program's text shows no matrix product")
    return total


def _sizes(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
