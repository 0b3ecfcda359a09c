"""What a paired difference says, in words."""

from __future__ import annotations

import math

from simjax.lab.statistics import LEVEL, Difference


def signed(value: float) -> str:
    """Two places, and as many more as a small number needs."""
    if value and abs(value) < 0.095:
        return f"{value:+.2g}"
    return f"{value:+.2f}"


def interval(difference: Difference) -> str:
    """Mean and 95 % interval of a difference."""
    if not math.isfinite(difference.low):
        return f"{signed(difference.mean)} (one seed: no interval)"
    ends = f"{signed(difference.low)} to {signed(difference.high)}"
    return f"{signed(difference.mean)} (95 % interval {ends})"


def p_value(p: float) -> str:
    """Three digits, or that there was no test."""
    return "no test" if math.isnan(p) else f"{p:.3g}"


def verdict(
    difference: Difference, *, higher_is_better: bool = True, matters: float | None = None
) -> str:
    """What the seeds say about a difference.

    Args:
        difference: Its `holm` is corrected already.
        higher_is_better: Else lower.
        matters: A difference that a reader would care about: where the interval covers 0, it is
            said whether it rules this out.
    """
    if difference.equal:
        return "equal with every seed"
    if difference.count == 1:
        return "cannot tell: one seed"
    side = "better" if (difference.mean > 0) == higher_is_better else "worse"
    if math.isnan(difference.t_test):
        return f"{side} by the same amount with every seed: no test"
    if not difference.within_spread:
        kept = difference.holm < LEVEL
        return side if kept else f"{side} by itself, not after Holm's correction"
    if matters is not None and max(-difference.low, difference.high) < matters:
        return f"no difference of {matters:g} or more"
    return (
        "within the spread of the seeds (only a difference of "
        f"{difference.detectable:.2g} or more would show)"
    )
