"""What is reduced from the cosines of a tile, and how that pulls back.

Everything here is elementwise or a sum along one side of [R, C] arrays, so that compiled loops and
kernels share it. Facts of anchors are [R, 1] and facts of keys [1, C].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from simjax.ops.pairs import Ids, Over, pairs_over

BOUNDED_SCALE = 32.0
"""Up to here exp(s - scale) of a cosine, exp(-64) or more, and the factor that undoes it in the
gradient stay far from the ends of float32."""

Kind: TypeAlias = Literal["lse", "softplus"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reduction:
    """One reduction of the scores s_ij = scale x_i . y_j + bias_j over some of the pairs.

    Attributes:
        scale: 1 / temperature, above 0.
        bias: Added to the scores: a number, or one for each key (a log prior, say).
        kind: ``lse`` is log sum exp(s), -inf of no pairs; ``softplus`` is sum log(1 + exp(s)).
        over: The pairs; see `simjax.ops.pairs.pairs_over`.
        max_scale: Static bound of the scale, beyond which the result is NaN. Up to
            `BOUNDED_SCALE`, and without a bias, there is no running maximum.
        columns: Also reduce over the anchors, for each key.
        counted: Also count the pairs of each anchor.
        guided: Leave out pairs that the guide takes for false negatives.
        gradient: Whether the result is differentiable. What is not costs nothing backward.

    Raises:
        ValueError: There is no such kind, or no such choice of pairs.
    """

    scale: Float[Array, ""] | float
    bias: Float[Array, ""] | Float[Array, "N"] | float | None = None
    kind: Kind = field(default="lse", metadata=_STATIC)
    over: Over = field(default="text", metadata=_STATIC)
    max_scale: float = field(default=math.inf, metadata=_STATIC)
    columns: bool = field(default=False, metadata=_STATIC)
    counted: bool = field(default=False, metadata=_STATIC)
    guided: bool = field(default=False, metadata=_STATIC)
    gradient: bool = field(default=True, metadata=_STATIC)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.over not in get_args(Over):
            raise ValueError(f"over {self.over!r}: choose one of {', '.join(get_args(Over))}")

    @property
    def static(self) -> Reduction:
        """What is known of it without its arrays, to be hashed and compared."""
        bound = self.max_scale if self.bias is None else math.inf
        return replace(self, scale=0.0, bias=None, max_scale=bound)

    @property
    def bounded(self) -> bool:
        """Whether a fixed shift cannot underflow."""
        return self.kind == "lse" and self.max_scale <= BOUNDED_SCALE

    @property
    def nothing(self) -> float:
        """The term of a pair that is left out."""
        return -math.inf if self.kind == "lse" and not self.bounded else 0.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PairStats:
    """Reductions over pairs, all from one pass over the scores.

    Attributes:
        rows: Each reduction, for each anchor.
        cols: The same for each key; None of reductions of rows alone.
        counts: Pairs of each anchor; None of reductions that do not count. No gradient.
        row_max: Largest cosine among each anchor's pairs of the first reduction, -inf without
            any. No gradient.
    """

    rows: tuple[Float[Array, "B"], ...]
    cols: tuple[Float[Array, "N"] | None, ...]
    counts: tuple[Float[Array, "B"] | None, ...]
    row_max: Float[Array, "B"]


class Masks(NamedTuple):
    """The pairs of a tile that a reduction takes: of rows, and of columns. Mostly one array."""

    row: Bool[Array, "R C"]
    col: Bool[Array, "R C"]


class Guided(NamedTuple):
    """A guide's cosines of a tile and their limits."""

    cosines: Float[Array, "R C"]
    row_limit: Float[Array, "R 1"]
    col_limit: Float[Array, "1 C"]


def masks(
    anchors: Ids, keys: Ids, guided: Guided | None, kind: Reduction, *, one_side: bool
) -> Masks:
    """The pairs that a reduction takes."""
    mask = pairs_over(anchors, keys, kind.over, one_side=one_side)
    if not kind.guided or guided is None:
        return Masks(mask, mask)
    return Masks(
        mask & (guided.cosines <= guided.row_limit), mask & (guided.cosines <= guided.col_limit)
    )


def logits(
    cosines: Float[Array, "R C"], scale: Array, bias: Float[Array, "1 C"] | None
) -> Float[Array, "R C"]:
    """The scores of a tile."""
    return scale * cosines if bias is None else scale * cosines + bias


def terms(
    cosines: Float[Array, "R C"], scale: Array, bias: Float[Array, "1 C"] | None, kind: Reduction
) -> Float[Array, "R C"]:
    """What is summed: exp(s - max_scale) if bounded, else the score itself, or its softplus."""
    scores = logits(cosines, scale, bias)
    if kind.kind == "softplus":
        return jnp.maximum(scores, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(scores)))
    return jnp.exp(scores - kind.max_scale) if kind.bounded else scores


def slopes(
    cosines: Float[Array, "R C"], scale: Array, bias: Float[Array, "1 C"] | None, kind: Reduction
) -> Float[Array, "R C"]:
    """What a factor of a row or column makes a gradient of: sigmoid(s), or what is summed."""
    if kind.kind == "softplus":
        return jax.nn.sigmoid(logits(cosines, scale, bias))
    return terms(cosines, scale, bias, kind)


class Sums(NamedTuple):
    """A running reduction: the sum of the terms, or of exp(s - top) where there is no bound."""

    total: Float[Array, "..."]
    top: Float[Array, "..."] | None

    @classmethod
    def empty(cls, shape: tuple[int, ...], kind: Reduction) -> Sums:
        """Of no pairs."""
        online = kind.kind == "lse" and not kind.bounded
        top = jnp.full(shape, -jnp.inf, jnp.float32) if online else None
        return cls(jnp.zeros(shape, jnp.float32), top)

    def add(self, terms: Float[Array, "R C"], axis: int) -> Sums:
        """With the masked `terms` of a tile, of which one line along ``axis`` remains."""
        if self.top is None:
            return Sums(self.total + terms.sum(axis=axis, keepdims=True), None)
        top = jnp.maximum(self.top, terms.max(axis=axis, keepdims=True))
        shift = settled(top)
        new = jnp.exp(terms - shift).sum(axis=axis, keepdims=True)
        return Sums(self.total * jnp.exp(self.top - shift) + new, top)

    def merge(self, other: Sums) -> Sums:
        """With the sums of other pairs."""
        if self.top is None or other.top is None:
            return Sums(self.total + other.total, None)
        top = jnp.maximum(self.top, other.top)
        ours, theirs = (jnp.exp(part - settled(top)) for part in (self.top, other.top))
        return Sums(self.total * ours + other.total * theirs, top)

    def value(self, kind: Reduction) -> Float[Array, "..."]:
        """The reduction: a log-sum-exp, -inf of no pairs, or a sum."""
        if kind.kind == "softplus":
            return self.total
        top = kind.max_scale if self.top is None else self.top
        # Unlike > 0, this keeps the NaN of an embedding that is no number.
        return jnp.where(self.total != 0, jnp.log(self.total) + top, -jnp.inf)


def settled(top: Float[Array, "..."]) -> Float[Array, "..."]:
    """Maxima with 0 for -inf, so that no difference of infinities is taken."""
    return jnp.where(top == -jnp.inf, 0.0, top)


class Factor(NamedTuple):
    """What makes gradients of the terms of a row or column; see `factor`."""

    lse: Float[Array, "..."]
    by: Float[Array, "..."]


def factor(
    value: Float[Array, "M"], grad: Float[Array, "M"], scale: Array, kind: Reduction
) -> Factor:
    """Log-sum-exps without -inf, and factors of a tile's terms.

    The gradient of a cosine is the factor times the term if bounded, where one exponential serves
    rows and columns (softmax = exp(s - max) exp(max - lse)); times exp(s - lse) if not; and times
    sigmoid(s) for softplus. It is zero where there was nothing to sum.
    """
    # The scale goes in here, where it multiplies vectors and not gradients of [N, D].
    if kind.kind == "softplus":
        return Factor(jnp.zeros_like(value), scale * grad)
    some = value != -jnp.inf
    by = jnp.where(some, scale * grad, 0.0)
    if kind.bounded:
        by = by * jnp.exp(kind.max_scale - jnp.where(some, value, kind.max_scale))
    return Factor(jnp.where(some, value, 0.0), by)


def weights(
    cosines: Float[Array, "R C"],
    mask: Masks,
    scale: Array,
    bias: Float[Array, "1 C"] | None,
    row: Factor | None,
    col: Factor | None,
    kind: Reduction,
) -> Float[Array, "R C"]:
    """Gradients of the cosines of a tile, from the factors of rows [R, 1] and columns [1, C]."""
    term = slopes(cosines, scale, bias, kind)
    sides = [(m, side) for m, side in zip(mask, (row, col), strict=True) if side is not None]
    if kind.nothing == 0:
        if mask.col is mask.row:
            by = [side.by for _, side in sides]
            return jnp.where(mask.row, sum(by[1:], by[0]) * term, 0.0)
        parts = [jnp.where(m, side.by * term, 0.0) for m, side in sides]
    else:
        parts = [jnp.where(m, side.by * jnp.exp(term - side.lse), 0.0) for m, side in sides]
    return sum(parts[1:], parts[0])
