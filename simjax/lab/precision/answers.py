"""Part one's three questions, answered in words from the numbers that were found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simjax.lab.precision.settings import ROUNDOFF
from simjax.lab.records import Record

WRONG = 0.1
"""A gradient that is off by more than this share of its length is called wrong."""


@dataclass(frozen=True)
class Middle:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Middle:
        """Of at least one number: linear between two, where none is infinite."""
        wide = np.asarray(values, np.float64)
        method: Literal["linear", "lower"] = "linear" if np.isfinite(wide).all() else "lower"
        low, median, high = np.quantile(wide, (0.25, 0.5, 0.75), method=method)
        return cls(float(median), float(low), float(high))

    def __str__(self) -> str:
        return f"{number(self.median)} (middle half {number(self.low)} to {number(self.high)})"


def number(value: float) -> str:
    """Two digits, in words that people read: 0.85, 12, 3.4e-06."""
    if not math.isfinite(value):
        return "not finite"
    if value != 0 and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.1e}"
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def errors(
    records: Sequence[Record], arithmetic: str, way: str, form: str, figure: int = 0
) -> list[float]:
    """Relative errors of a form over all inputs, in the order of the records.

    Infinite where the gradient was not finite. `figure` 1 gives cosines, 2 lengths, likewise.
    """
    found = (
        record.values["errors"][arithmetic][way][form][figure]
        for record in records
        if way in record.values["errors"].get(arithmetic, {})
    )
    return [math.inf if value is None else value for value in found]


def measured(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The arithmetics that were measured, each with `dense` or `tiled`."""
    found: dict[tuple[str, str], None] = {}
    for record in records:
        for arithmetic, ways in record.values["errors"].items():
            found.update(dict.fromkeys((arithmetic, way) for way in ways))
    return [(name, way) for name in ROUNDOFF for way in ("dense", "tiled") if (name, way) in found]


def cancelled(records: Sequence[Record], arithmetic: str, way: str) -> list[float]:
    """Of each input, the share of cross-entropy's error that softplus(v) does not have.

    1 - error(softplus) / error(cross-entropy), 0 where softplus(v) is no better. Inputs on which
    cross-entropy has no error, or either is not finite, are left out.
    """
    written = errors(records, arithmetic, way, "cross_entropy")
    stable = errors(records, arithmetic, way, "softplus")
    return [
        max(0.0, 1 - b / a)
        for a, b in zip(written, stable, strict=True)
        if a and math.isfinite(a) and math.isfinite(b)
    ]


def is_wrong(error: float) -> bool:
    """Off by more than `WRONG`, though finite."""
    return WRONG < error < math.inf


def _lost(values: Sequence[float]) -> int:
    return sum(math.isinf(value) for value in values)


def cancellation(records: Sequence[Record]) -> list[str]:
    """How much of InfoNCE's trouble is cancellation."""
    said = []
    for arithmetic, way in measured(records):
        written = errors(records, arithmetic, way, "cross_entropy")
        stable = errors(records, arithmetic, way, "softplus")
        pairs = [(is_wrong(a), is_wrong(b)) for a, b in zip(written, stable, strict=True)]
        before, both = sum(a for a, _ in pairs), sum(a and b for a, b in pairs)
        other = sum(b and not a for a, b in pairs)
        if before == 0:
            verdict = "Cancellation makes no gradient wrong here"
        elif both == 0:
            verdict = "Cancellation alone makes gradients wrong"
        elif both == before:
            verdict = "Gradients are wrong without cancellation as well"
        else:
            verdict = f"Cancellation alone makes {before - both} of {before} gradients wrong"
        line = (
            f"{arithmetic}, {way}: {verdict}. That of cross-entropy is wrong (off by more than "
            f"{WRONG:.0%}) on {before} of {len(pairs)} inputs; on {both} of these softplus(v) is "
            f"wrong too"
        )
        line += f", and on {other} others." if other else "."
        if share := cancelled(records, arithmetic, way):
            line += (
                f" Of cross-entropy's error, softplus(v) is free of {_percent(Middle.of(share))}."
            )
        if lost := (_lost(written), _lost(stable)) != (0, 0) and (_lost(written), _lost(stable)):
            line += (
                f" Counted apart: gradients that are not finite, {lost[0]} of cross-entropy and "
                f"{lost[1]} of softplus(v)."
            )
        said.append(line)
    return said


def _percent(share: Middle) -> str:
    return f"a median of {share.median:.1%} (middle half {share.low:.1%} to {share.high:.1%})"


def exact_figures(records: Sequence[Record], name: str) -> list[float]:
    """A figure of `simjax.lab.precision.arithmetic` that no rounding touches."""
    return [record.values["exact"][name] for record in records]


def vanishing(records: Sequence[Record]) -> list[str]:
    """How much is the vanishing factor sigmoid(v): by temperature and batch."""
    said = [
        "This is no error of arithmetic: the factor is there in float64, and softplus(v) has it "
        "as cross-entropy has."
    ]
    batches = sorted({record.key["batch"] for record in records})
    for temperature in sorted({record.key["temperature"] for record in records}):
        parts = []
        for batch in dict.fromkeys((batches[0], batches[len(batches) // 2], batches[-1])):
            place = (batch, temperature)
            at = [r for r in records if (r.key["batch"], r.key["temperature"]) == place]
            if not at:
                continue
            ratio = Middle.of(exact_figures(at, "length_ratio")).median
            cosine = Middle.of(exact_figures(at, "cosine")).median
            parts.append(
                f"batch {batch:,}: {_left(ratio)} (length {number(ratio)}), cosine {cosine:.2f}"
            )
        said.append(f"Temperature {temperature:g}. {'; '.join(parts)}.")
    for arithmetic in ("float16 operands", "float16"):
        if (arithmetic, "dense") in measured(records):
            said.append(_float16(records, arithmetic))
    return said


def _left(ratio: float) -> str:
    if ratio < 0.01:
        return "all but removed"
    if ratio < 0.5:
        return "shortened"
    return "mostly left"


def _float16(records: Sequence[Record], arithmetic: str) -> str:
    found = errors(records, arithmetic, "dense", "softplus")
    lengths = errors(records, arithmetic, "dense", "softplus", figure=2)
    flat = sum(map(is_wrong, errors(records, arithmetic, "dense", "flatnce")))
    wrong = [length for error, length in zip(found, lengths, strict=True) if is_wrong(error)]
    short = sum(length < 0.5 for length in wrong)
    said = (
        f"{arithmetic}, dense: softplus(v) is wrong on {len(wrong)} of {len(found)} inputs and "
        f"FlatNCE on {flat}."
    )
    if wrong:
        said += (
            f" On {short} of the {len(wrong)} less than half of the gradient's length is left: "
            f"there terms fell below what {arithmetic.split()[0]} can hold, which loss scaling "
            "is for; on the others at least half is left."
        )
    if lost := _lost(found):
        said += f" On {lost} more it is not finite."
    return said


def remaining(records: Sequence[Record]) -> list[str]:
    """What remains once neither cancels, in units of the type's roundoff."""
    said = []
    for arithmetic, way in measured(records):
        parts = []
        for form, name in (("softplus", "softplus(v)"), ("flatnce", "FlatNCE")):
            found = errors(records, arithmetic, way, form)
            middle = Middle.of(found)
            part = f"{name} {middle}, or {_units(middle.median, arithmetic)} units of roundoff"
            if lost := _lost(found):
                part += f" ({lost} not finite)"
            parts.append(part)
        said.append(f"{arithmetic}, {way}: {'; '.join(parts)}.{_by_v(records, arithmetic, way)}")
    return said


def _units(error: float, arithmetic: str) -> str:
    return number(error / ROUNDOFF[arithmetic])


def _by_v(records: Sequence[Record], arithmetic: str, way: str) -> str:
    """Softplus's error in units of |v| roundoffs: what rounding v to the type would give."""
    if arithmetic.endswith("operands"):
        return ""  # v is in float32.
    records = [one for one in records if way in one.values["errors"].get(arithmetic, {})]
    found = [
        error / (ROUNDOFF[arithmetic] * -v)
        for error, v in zip(
            errors(records, arithmetic, way, "softplus"),
            exact_figures(records, "mean_v"),
            strict=True,
        )
        if v < -5
    ]
    if not found:
        return ""
    return f" Where the mean of v is below -5, softplus(v)'s is {Middle.of(found)} units times |v|."


def summary(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The three questions, each answered in a few sentences, for the dense forms."""
    length = Middle.of(exact_figures(records, "length_ratio"))
    cosine = Middle.of(exact_figures(records, "cosine"))
    temperatures = sorted({record.key["temperature"] for record in records})
    batches = sorted({record.key["batch"] for record in records})
    ends = []
    corners = ((batches[0], temperatures[0]), (batches[-1], temperatures[-1]))
    for batch, temperature in dict.fromkeys(corners):
        place = (batch, temperature)
        at = [r for r in records if (r.key["batch"], r.key["temperature"]) == place]
        if at:
            ratio = Middle.of(exact_figures(at, "length_ratio")).median
            ends.append(
                f"at batch {batch:,} and temperature {temperature:g} it is {_left(ratio)} "
                f"({number(ratio)})"
            )
    return [
        ("How much of InfoNCE's trouble is cancellation?", _cancellation_in_short(records)),
        (
            "How much is the vanishing factor sigmoid(v)?",
            "It depends on batch and temperature, and is no rounding error: of the length of "
            f"FlatNCE's exact gradient, {'; '.join(ends)}. Over all inputs {length} is left. The "
            "cosine of the two gradients would be 1 were the factor one for the whole batch; it is "
            f"{cosine}.",
        ),
        ("What remains?", _remains_in_short(records)),
    ]


def _remains_in_short(records: Sequence[Record]) -> str:
    said = []
    for name in ("float32", "bfloat16 operands", "bfloat16"):
        if (name, "dense") in measured(records):
            stable, flat = (
                Middle.of(errors(records, name, "dense", form)).median
                for form in ("softplus", "flatnce")
            )
            said.append(
                f"With {_meant(name)}, a median error of {number(stable)} for softplus(v) "
                f"({_units(stable, name)} units of the type's roundoff) and {number(flat)} for "
                f"FlatNCE ({_units(flat, name)} units)"
            )
    return f"{'. '.join(said)}."


def _cancellation_in_short(records: Sequence[Record]) -> str:
    written = Middle.of(errors(records, "float32", "dense", "cross_entropy"))
    stable = Middle.of(errors(records, "float32", "dense", "softplus"))
    share = cancelled(records, "float32", "dense")
    said = "In float32 there is no error to explain."
    if share:
        middle = Middle.of(share)
        if middle.low >= 0.9:
            how = "nearly all of it on most inputs"
        else:
            how = "most of it on most inputs" if middle.median > 0.5 else "little on most inputs"
        said = (
            f"Of the rounding error in float32, {how}: {_percent(middle)}. The gradient of "
            f"cross-entropy is off by {written} of its length, that of softplus(v), the same "
            f"function, by {stable}."
        )
    for name in ("float32", "bfloat16"):
        if (name, "dense") in measured(records):
            sides = (errors(records, name, "dense", form) for form in ("cross_entropy", "softplus"))
            before, after = (sum(map(is_wrong, side)) for side in sides)
            said += (
                f" With {_meant(name)}, cross-entropy is off by more than {WRONG:.0%} on {before} "
                f"of {len(records)} inputs, softplus(v) on {after}."
            )
    return said


def _meant(arithmetic: str) -> str:
    if arithmetic in ("bfloat16", "float16"):
        return f"everything in {arithmetic}"
    return arithmetic
