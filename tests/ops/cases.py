"""Pairs that every implementation of the operator is held to, and a float64 statement of it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from simjax.ops import AnchorIds, Guide, KeyIds, Reduction
from simjax.ops.pairs import ABSENT, NO_POSITIVE


@dataclass(frozen=True)
class Case:
    name: str
    anchors: int
    keys: int
    width: int = 24
    scale: float = 20.0
    positives: int = 1
    duplicates: bool = False
    absent: bool = False
    lonely: bool = False


CASES = [
    Case("square", 16, 16),
    Case("ragged", 37, 70, duplicates=True),
    Case("two positives, absent keys", 21, 63, positives=2, duplicates=True, absent=True),
    Case("flat scores", 24, 40, scale=1.0, duplicates=True),
    Case("steep scores", 24, 40, scale=100.0, duplicates=True),
    Case("steepest scores", 33, 40, scale=200.0),
    Case("rows without negatives", 12, 24, lonely=True),
    Case("one pair", 1, 1),
]


@dataclass(frozen=True)
class Pairs:
    x: np.ndarray
    y: np.ndarray
    anchor_ids: AnchorIds
    key_ids: KeyIds
    guide: Guide

    @property
    def arrays(self):
        return jnp.asarray(self.x), jnp.asarray(self.y), self.anchor_ids, self.key_ids


def make(case: Case, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(case.anchors, case.width))
    y = rng.normal(size=(case.keys, case.width))
    shared = min(case.anchors, case.keys)
    y[:shared] += 2 * x[:shared]
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    example = np.arange(case.keys) % case.anchors
    own_positive = np.arange(case.keys) < case.anchors * case.positives
    many = max(case.anchors // 2, 1)
    text = rng.integers(0, many, case.anchors) if case.duplicates else np.arange(case.anchors)
    key_text = 1000 + (
        rng.integers(0, many, case.keys) if case.duplicates else np.arange(case.keys)
    )
    if case.duplicates:  # some keys have an anchor's text
        key_text[::7] = text[0]
    positives = np.full((case.anchors, case.positives), NO_POSITIVE)
    for p in range(case.positives):
        found = np.flatnonzero((np.arange(case.keys) // case.anchors == p) & own_positive)
        positives[example[found], p] = key_text[found]
    label = rng.integers(-1, 3, case.anchors)
    if case.lonely:
        text[:], label[:] = 5, 1
    if case.absent:
        example[rng.choice(case.keys, 9, replace=False)] = ABSENT
    key_anchor = np.where(own_positive, text[np.arange(case.keys) % case.anchors], -1)
    if case.lonely:
        key_anchor[:] = 5
    key_label = np.where(own_positive, label[np.arange(case.keys) % case.anchors], -1)
    if case.lonely:
        key_label[:] = 1

    def ints(*arrays):
        return [jnp.asarray(a, jnp.int32) for a in arrays]

    return Pairs(
        x.astype(np.float32),
        y.astype(np.float32),
        AnchorIds(*ints(np.arange(case.anchors), text, positives, label)),
        KeyIds(*ints(example, key_text, key_anchor[:, None], key_label)),
        make_guide(case, rng),
    )


def make_guide(case: Case, rng: np.random.Generator) -> Guide:
    """Another model's vectors, whose limits let about two thirds of the pairs pass."""
    x, y = (rng.normal(size=(n, 12)) for n in (case.anchors, case.keys))
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    limits = [rng.uniform(0.0, 0.3, n) for n in (case.anchors, case.keys)]
    return Guide(*(jnp.asarray(v, jnp.float32) for v in (x, y, *limits)))


def negatives(pairs: Pairs, rule: str) -> np.ndarray:
    """Which pairs are negatives, one by one, as the definition reads."""
    a, k = jax.tree.map(np.asarray, (pairs.anchor_ids, pairs.key_ids))
    mask = np.zeros((len(pairs.x), len(pairs.y)), bool)
    for i in range(len(pairs.x)):
        taken = {int(a.text[i]), *(int(p) for p in a.positives[i])}
        for j in range(len(pairs.y)):
            if int(k.example[j]) in (ABSENT, int(a.example[i])):
                continue
            if rule == "text" and (
                int(k.text[j]) in taken or int(k.partners[j, 0]) == int(a.text[i])
            ):
                continue
            if rule == "label" and int(a.label[i]) >= 0 and int(a.label[i]) == int(k.label[j]):
                continue
            mask[i, j] = True
    return mask


def spread(pairs: Pairs) -> np.ndarray:
    """Which pairs uniformity is over, one by one."""
    a, k = jax.tree.map(np.asarray, (pairs.anchor_ids, pairs.key_ids))
    mask = np.zeros((len(pairs.x), len(pairs.y)), bool)
    for i, j in np.ndindex(*mask.shape):
        there = int(k.example[j]) not in (ABSENT, int(a.example[i]))
        mask[i, j] = there and k.partners[j, 0] >= 0 and a.text[i] != k.text[j]
    return mask


def taken(pairs: Pairs, kind: Reduction, axis: int) -> np.ndarray:
    """The pairs of a reduction: of rows (axis 1) or of columns (axis 0)."""
    mask = spread(pairs) if kind.over == "spread" else negatives(pairs, kind.over)
    if kind.guided:
        guide = jax.tree.map(lambda v: np.asarray(v, np.float64), pairs.guide)
        limit = guide.anchor_limits[:, None] if axis == 1 else guide.key_limits[None, :]
        mask &= guide.anchors @ guide.keys.T <= limit
    return mask


def float64(pairs: Pairs, kind: Reduction, axis: int) -> np.ndarray:
    """A reduction as its definition reads, in float64."""
    scores = float(kind.scale) * pairs.x.astype(np.float64) @ pairs.y.astype(np.float64).T
    if kind.bias is not None:
        scores = scores + np.broadcast_to(np.asarray(kind.bias, np.float64), len(pairs.y))[None, :]
    mask = taken(pairs, kind, axis)
    if kind.kind == "softplus":
        return np.where(mask, np.logaddexp(0.0, scores), 0.0).sum(axis=axis)
    scores = np.where(mask, scores, -np.inf)
    top = scores.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(scores - top).sum(axis=axis)) + np.squeeze(top, axis)


def key_bias(case: Case) -> jax.Array:
    """One number for each key."""
    return jnp.sin(jnp.arange(case.keys, dtype=jnp.float32))


PLANS = {
    "rows": lambda case: [Reduction(case.scale, max_scale=case.scale)],
    "rows and columns": lambda case: [Reduction(case.scale, max_scale=case.scale, columns=True)],
    "of no rule": lambda case: [
        Reduction(case.scale, over="none", max_scale=case.scale, columns=True, counted=True)
    ],
    "of a class": lambda case: [
        Reduction(case.scale, over="label", max_scale=case.scale, columns=True)
    ],
    "and uniformity": lambda case: [
        Reduction(case.scale, max_scale=case.scale, columns=True),
        Reduction(4.0, over="spread", max_scale=4.0, counted=True, gradient=False),
    ],
    "several scales": lambda case: [
        Reduction(case.scale, max_scale=case.scale, columns=True),
        Reduction(case.scale / 2, key_bias(case), over="none", max_scale=case.scale, columns=True),
        Reduction(3.0, over="label", max_scale=3.0),
        Reduction(4.0, over="spread", max_scale=4.0, counted=True, gradient=False),
    ],
    "sigmoid": lambda case: [
        Reduction(case.scale, -10.0, kind="softplus", counted=True),
    ],
    "sigmoid of keys": lambda case: [
        Reduction(case.scale, key_bias(case), kind="softplus", over="none", columns=True),
        Reduction(case.scale, max_scale=case.scale),
    ],
    "guided": lambda case: [
        Reduction(case.scale, max_scale=case.scale, columns=True, guided=True, counted=True),
        Reduction(case.scale / 4, -2.0, kind="softplus", guided=True, columns=True),
    ],
}
"""Reductions that every implementation is held to, one or several from the same pass."""
