"""Part one's three questions, answered in words from the numbers that were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.lab.precision.records import Record

WRONG = 0.1
"""A gradient that is off by more than this share of its length is called wrong."""

ROUNDOFF = {
    "float32": 2.0**-24,
    "tf32": 2.0**-11,
    "bfloat16 operands": 2.0**-8,
    "float16 operands": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float16": 2.0**-11,
}
"""Half the distance from 1 to the next number of the coarsest type that an arithmetic rounds to."""


@dataclass(frozen=True)
class Middle:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Middle:
        """Of at least one number, linear between the two nearest."""
        low, median, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))

    def __str__(self) -> str:
        return f"{number(self.median)} (middle half {number(self.low)} to {number(self.high)})"


def number(value: float) -> str:
    """Two digits, in words that people read: 0.85, 12, 3.4e-06."""
    if value != 0 and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.1e}"
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def errors(records: Sequence[Record], arithmetic: str, way: str, form: str) -> list[float]:
    """Relative errors of a form over all inputs, in the order of the records."""
    return [
        record.values["errors"][arithmetic][way][form][0]
        for record in records
        if way in record.values["errors"].get(arithmetic, {})
    ]


def measured(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The arithmetics that were measured, each with `dense` or `tiled`."""
    found: dict[tuple[str, str], None] = {}
    for record in records:
        for arithmetic, ways in record.values["errors"].items():
            found.update(dict.fromkeys((arithmetic, way) for way in ways))
    return [(name, way) for name in ROUNDOFF for way in ("dense", "tiled") if (name, way) in found]


def cancelled(records: Sequence[Record], arithmetic: str, way: str) -> list[float]:
    """Of each input, the share of cross-entropy's error that softplus(v) does not have.

    1 - error(softplus) / error(cross-entropy), 0 where softplus(v) is no better.
    """
    written = errors(records, arithmetic, way, "cross_entropy")
    stable = errors(records, arithmetic, way, "softplus")
    return [max(0.0, 1 - b / a) if a else 0.0 for a, b in zip(written, stable, strict=True)]


def _wrong(values: Sequence[float]) -> int:
    return sum(value > WRONG for value in values)


def cancellation(records: Sequence[Record]) -> list[str]:
    """How much of InfoNCE's trouble is cancellation."""
    said = []
    for arithmetic, way in measured(records):
        written = errors(records, arithmetic, way, "cross_entropy")
        stable = errors(records, arithmetic, way, "softplus")
        share = Middle.of(cancelled(records, arithmetic, way))
        before, after, count = _wrong(written), _wrong(stable), len(written)
        if before == 0:
            verdict = "cancellation does no harm on these inputs"
        elif after == 0:
            verdict = "every one of these wrong gradients is cancellation's"
        elif after >= before:
            verdict = "cancellation explains none of them"
        else:
            verdict = (
                f"cancellation explains {before - after} of these {before} wrong gradients; the "
                "others have another cause"
            )
        said.append(
            f"{arithmetic}, {way}: the gradient of cross-entropy is wrong (off by more than "
            f"{WRONG:.0%}) on {before} of {count} inputs, that of softplus(v) on {after}: "
            f"{verdict}. Softplus(v) is free of {_percent(share)} of cross-entropy's error."
        )
    return said


def _percent(share: Middle) -> str:
    return f"a median of {share.median:.1%} (middle half {share.low:.1%} to {share.high:.1%})"


def exact_figures(records: Sequence[Record], name: str) -> list[float]:
    """A figure of `simjax.lab.precision.arithmetic` that no rounding touches."""
    return [record.values["exact"][name] for record in records]


def vanishing(records: Sequence[Record]) -> list[str]:
    """How much is the vanishing factor sigmoid(v)."""
    ratio = Middle.of(exact_figures(records, "length_ratio"))
    cosine = Middle.of(exact_figures(records, "cosine"))
    dispersion = Middle.of(exact_figures(records, "weight_cv"))
    if ratio.median < WRONG:
        verdict = "The factor all but removes the gradient on most inputs"
    else:
        verdict = "The factor leaves most of the gradient on most inputs"
    if cosine.median > 0.9:
        weighting = "nearly all of it is one factor for the whole batch, which Adam cancels"
    else:
        weighting = "no factor for the whole batch makes up for it: it weights examples unequally"
    said = [
        f"{verdict}: without any rounding, InfoNCE's gradient has {ratio} of the length of "
        f"FlatNCE's. This is no error of arithmetic: softplus(v) has it too.",
        f"The cosine between the two exact gradients is {cosine}, and sigmoid(v) varies over the "
        f"anchors of a batch by {dispersion} of its mean: {weighting}.",
    ]
    for arithmetic in ("float16 operands", "float16"):
        if (arithmetic, "dense") in measured(records):
            stable = _wrong(found := errors(records, arithmetic, "dense", "softplus"))
            flat = _wrong(errors(records, arithmetic, "dense", "flatnce"))
            because = (
                "FlatNCE lacks nothing but the factor, so it is the factor that takes gradients "
                "below what float16 can hold; loss scaling is there to bring them back"
                if stable > flat
                else "float16's range is wide enough for the factor here"
            )
            said.append(
                f"{arithmetic}, dense: softplus(v) is wrong on {stable} of {len(found)} inputs and "
                f"FlatNCE on {flat}: {because}."
            )
    return said


def remaining(records: Sequence[Record]) -> list[str]:
    """What remains once neither cancels: the type's own rounding.

    Rounding v changes sigmoid(v) by the share that v is off by, so that softplus(v) keeps an error
    of |v| units of roundoff where v is far below 0. FlatNCE has no such factor.
    """
    said = []
    for arithmetic, way in measured(records):
        parts = []
        for form, name in (("softplus", "softplus(v)"), ("flatnce", "FlatNCE")):
            middle = Middle.of(errors(records, arithmetic, way, form))
            units = number(middle.median / ROUNDOFF[arithmetic])
            parts.append(f"{name} {middle}, or {units} units of roundoff")
        said.append(f"{arithmetic}, {way}: {'; '.join(parts)}.")
    return said


def summary(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The three questions, each answered in a few sentences, for the dense forms."""
    stable, flat = (
        Middle.of(errors(records, "float32", "dense", form)) for form in ("softplus", "flatnce")
    )
    length = Middle.of(exact_figures(records, "length_ratio"))
    cosine = Middle.of(exact_figures(records, "cosine"))
    remains = f"{stable} for softplus(v) and {flat} for FlatNCE in float32"
    for name in ("bfloat16 operands", "bfloat16"):
        if (name, "dense") in measured(records):
            sides = (errors(records, name, "dense", form) for form in ("softplus", "flatnce"))
            first, second = (number(Middle.of(side).median) for side in sides)
            remains += f"; {first} and {second} with {_meant(name)}"
    return [
        ("How much of InfoNCE's trouble is cancellation?", _cancellation_in_short(records)),
        (
            "How much is the vanishing factor sigmoid(v)?",
            f"It is no rounding error and is there in float64: InfoNCE's exact gradient has "
            f"{length} of the length of FlatNCE's. Were it one factor for the whole batch, the "
            f"cosine of the two would be 1; it is {cosine}.",
        ),
        ("What remains?", f"The rounding of the type itself: {remains}."),
    ]


def _cancellation_in_short(records: Sequence[Record]) -> str:
    written = Middle.of(errors(records, "float32", "dense", "cross_entropy"))
    stable = Middle.of(errors(records, "float32", "dense", "softplus"))
    share = cancelled(records, "float32", "dense")
    mostly = sum(value > 0.5 for value in share)
    if mostly >= 0.9 * len(share):
        how = "nearly all"
    else:
        how = "most" if mostly > len(share) / 2 else "a minor part"
    said = (
        f"Of the rounding error in float32, {how}: the gradient of cross-entropy is off by "
        f"{written} of its length, that of softplus(v), the same function, by {stable}. "
        f"Cancellation is more than half of the error on {mostly} of {len(share)} inputs."
    )
    for name in ("float32", "bfloat16"):
        if (name, "dense") in measured(records):
            before, after = (
                _wrong(errors(records, name, "dense", form))
                for form in ("cross_entropy", "softplus")
            )
            said += (
                f" With {_meant(name)}, cross-entropy is off by more than {WRONG:.0%} on {before} "
                f"inputs, softplus(v) on {after}."
            )
    return said


def _meant(arithmetic: str) -> str:
    if arithmetic in ("bfloat16", "float16"):
        return f"everything in {arithmetic}"
    return arithmetic


def table_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row for each input, arithmetic, way and form: what the CSV holds."""
    rows = []
    for record in records:
        for arithmetic, ways in record.values["errors"].items():
            for way, forms in ways.items():
                for form, (error, cosine, length) in forms.items():
                    rows.append(
                        {**record.key, "arithmetic": arithmetic, "way": way, "form": form}
                        | {"error": error, "cosine": cosine, "length": length}
                    )
    return rows
